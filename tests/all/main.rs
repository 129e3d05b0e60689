//! All tests that read real processes, in one binary: linking takes longer than most tests.
//!
//!     cargo test --test all -- parity::pyenv-3.12     all tests whose names contain this
//!     HEAPSONDE_ONLY=3.12,sid-3.14 cargo test         only these interpreters, by version or name
//!     cargo test --test all -- --ignored              tests that take too long for every change
//!
//! Half as many tests again run at once as there are processors, unless `--test-threads` is given: a test waits for its
//! targets for about a third of its time.

mod bounds;
mod browser;
mod bugs;
mod case;
mod churn;
mod cli;
mod cliffs;
mod common;
mod core_files;
mod damage;
mod drift;
mod edges;
mod embedded;
mod endings;
mod estimate;
mod exports;
mod firefox_profiles;
mod garbage;
mod golden;
mod graph;
mod greenlets;
mod guest;
mod inspect;
mod labels;
mod layouts;
mod leaks;
mod memory;
mod memory_family;
mod memory_users;
mod moving;
mod native;
mod odd_heaps;
mod odd_processes;
mod odd_states;
mod oracle;
mod owners;
mod parity;
mod permissions;
mod pools;
mod programs;
mod recipes;
mod record;
mod references;
mod restless;
mod safety;
mod saved;
mod schemas;
mod snapshots;
mod stacks;
mod tidy;
mod top;
mod watch;
mod why;
mod wrappers;

use case::TestCase;
use libtest_mimic::{Arguments, Trial};

/// A module's name, and what makes its tests.
type Module = (&'static str, fn() -> Vec<TestCase>);

const MODULES: &[Module] = &[
    ("bounds", bounds::cases),
    ("browser", browser::cases),
    ("bugs", bugs::cases),
    ("churn", churn::cases),
    ("cli", cli::cases),
    ("cliffs", cliffs::cases),
    ("core_files", core_files::cases),
    ("damage", damage::cases),
    ("drift", drift::cases),
    ("edges", edges::cases),
    ("embedded", embedded::cases),
    ("endings", endings::cases),
    ("estimate", estimate::cases),
    ("exports", exports::cases),
    ("firefox_profiles", firefox_profiles::cases),
    ("garbage", garbage::cases),
    ("golden", golden::cases),
    ("graph", graph::cases),
    ("guest", guest::cases),
    ("greenlets", greenlets::cases),
    ("inspect", inspect::cases),
    ("labels", labels::cases),
    ("layouts", layouts::cases),
    ("leaks", leaks::cases),
    ("memory", memory::cases),
    ("memory_family", memory_family::cases),
    ("memory_users", memory_users::cases),
    ("moving", moving::cases),
    ("native", native::cases),
    ("odd_heaps", odd_heaps::cases),
    ("odd_processes", odd_processes::cases),
    ("odd_states", odd_states::cases),
    ("oracle", oracle::cases),
    ("owners", owners::cases),
    ("parity", parity::cases),
    ("permissions", permissions::cases),
    ("pools", pools::cases),
    ("programs", programs::cases),
    ("recipes", recipes::cases),
    ("record", record::cases),
    ("references", references::cases),
    ("restless", restless::cases),
    ("safety", safety::cases),
    ("saved", saved::cases),
    ("schemas", schemas::cases),
    ("snapshots", snapshots::cases),
    ("stacks", stacks::cases),
    ("tidy", tidy::cases),
    ("top", top::cases),
    ("watch", watch::cases),
    ("why", why::cases),
    ("wrappers", wrappers::cases),
];

fn main() {
    let mut arguments = Arguments::from_args();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(processors + processors / 2);
    let trials = MODULES.iter().flat_map(|(module, cases)| cases().into_iter().map(|case| case.into_trial(module)));
    let trials: Vec<Trial> = trials.collect();
    libtest_mimic::run(&arguments, trials).exit();
}
