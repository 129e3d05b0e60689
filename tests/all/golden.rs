//! Compares reports made from fixed figures with files in fixtures/golden, byte for byte. After an intended change,
//! `HEAPSONDE_BLESS=1 cargo test --test all -- golden ` rewrites the files; review the difference before committing it.

use crate::case::{TestCase, cases};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use heapsonde::analysis::histogram::{Amount, Histogram, Row};
use heapsonde::analysis::owners::Node;
use heapsonde::heap::survey::Outcome;
use heapsonde::inspect::answer::{AllocatorSummary, Problems, Reading, TargetSummary};
use heapsonde::inspect::sample::Accuracy;
use heapsonde::python::sizes::Basis;
use heapsonde::report::folded::{self, Weight};
use heapsonde::report::{flamegraph, histogram_json, histogram_table};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![the_table, the_document, the_folded_stacks, the_picture,]
}

/// Types as they come, and names that formats must not trip over.
fn histogram() -> Histogram {
    let row = |module: &str, name: &str, objects, bytes, basis| Row {
        module: module.to_owned(),
        name: Some(name.to_owned()),
        amount: Amount { objects, bytes },
        basis,
        interval: None,
        retained: None,
    };
    let rows = vec![
        row("builtins", "dict", 309_342, 57_384_552, Basis::Exact),
        row("app.cache", "Session", 40_000, 2_240_000, Basis::Exact),
        row("app.cache", "Session.Key", 40_000, 1_920_000, Basis::Exact),
        row("_struct", "Struct", 12, 960, Basis::LowerBound),
        row("a;b", "semi;colon", 50, 800, Basis::Exact),
        row("app", "<locals>.\u{20ac}\u{1b}[31m&\"'\n", 7, 448, Basis::Exact),
        row("", "nameless", 1, 56, Basis::Exact),
        row("numpy", "ndarray", 1, 16, Basis::Exact),
    ];
    let mut total = Amount::default();
    rows.iter().for_each(|row| total.add(row.amount));
    Histogram { rows, total, interval: None, unseen: None }
}

/// Compares what is written with a golden file, or writes that file.
#[track_caller]
pub fn golden(name: &str, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    let mut written = Vec::new();
    write(&mut written).expect("a vector takes everything");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(name);
    if std::env::var_os("HEAPSONDE_BLESS").is_some() {
        fs::write(&path, &written).expect("fixtures/golden can be written");
        return;
    }
    let golden = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let differs = golden.split(|&byte| byte == b'\n').zip(written.split(|&byte| byte == b'\n')).find(|(a, b)| a != b);
    if let Some((golden, written)) = differs {
        let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        panic!("{name}\n  was {}\n  is  {}", text(golden), text(written));
    }
    assert_eq!(golden.len(), written.len(), "{name} is longer or shorter");
}

fn the_table() {
    golden("types.txt", |out| histogram_table::write(out, &histogram(), None));
    golden("types-top-3.txt", |out| histogram_table::write(out, &histogram(), Some(3)));
}

fn the_document() {
    let target = TargetSummary {
        pid: 4711,
        version: "3.14.0".to_owned(),
        build: "default",
        command: "python3 app.py --name \"x\"".to_owned(),
        interpreters: 1,
    };
    let reading = Reading {
        read_bytes: 64 << 20,
        duration: Duration::from_millis(16),
        paused: None,
        is_core: false,
        memory: None,
    };
    let about = histogram_json::About {
        target: &target,
        reading: &reading,
        basis: &Accuracy::Exact,
        allocator: &AllocatorSummary::default(),
        problems: &Problems::new(&Outcome::default(), 4096, 1, 0, 0),
        graph: None,
    };
    golden("types.json", |out| histogram_json::write(out, &histogram(), Some(3), &about));
}

fn the_folded_stacks() {
    for (name, weight) in [("types-bytes.folded", Weight::Bytes), ("types-objects.folded", Weight::Objects)] {
        let lines = folded::of_tree(&Node::of_types(&histogram(), "all"), weight);
        golden(name, |out| folded::write(out, &lines));
        let sum: u64 =
            lines.iter().map(|line| line.rsplit_once(' ').expect("a weight").1.parse::<u64>().unwrap()).sum();
        let total = histogram().total;
        assert_eq!(sum, if weight == Weight::Bytes { total.bytes } else { total.objects });
    }
}

fn the_picture() {
    let lines = folded::of_tree(&Node::of_types(&histogram(), "all"), Weight::Bytes);
    golden("types.svg", |out| flamegraph::write(out, &lines, "Live heap by type", "8 types", Weight::Bytes));
    // Frames do not depend on the order of the stacks.
    let reversed: Vec<String> = lines.iter().rev().cloned().collect();
    golden("types.svg", |out| flamegraph::write(out, &reversed, "Live heap by type", "8 types", Weight::Bytes));
}
