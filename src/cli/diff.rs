//! `diff`: what differs between heaps, by type and by holder.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::analysis::difference::compare;
use crate::analysis::histogram::{Histogram, SortKey};
use crate::inspect::Target;
use crate::report::difference::{self, Compared, Differences};
use crate::report::units;

use super::args::{CoreFile, Following, Output, Stopping, View};
use super::output::Destination;
use super::values::{HeapPlace, duration, place};
use super::{flamegraph, snapshot, target};

/// Number of rows shown by default, of each table.
const ROWS_DEFAULT: usize = 20;
/// How a Parquet file begins; other files are cores.
const PARQUET: &[u8; 4] = b"PAR1";

#[derive(Debug, Args)]
pub struct DiffOptions {
    /// What to compare, the oldest first: snapshots, cores, processes; one process with --interval
    #[arg(value_name = "A B", required = true, value_parser = place)]
    pub heaps: Vec<HeapPlace>,

    /// Read one process twice, so long apart (500ms, 10s, 1m)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub interval: Option<Duration>,

    #[command(flatten)]
    pub core: CoreFile,

    #[command(flatten)]
    pub stopping: Stopping,

    #[command(flatten)]
    pub following: Following,

    /// Show only the first N rows of each table
    #[arg(short = 'n', long, value_name = "N", default_value_t = ROWS_DEFAULT, visible_alias = "limit")]
    pub top: usize,

    /// Write JSON instead of tables
    #[arg(short, long)]
    pub json: bool,

    #[command(flatten)]
    pub output: Output,
}

/// The two histograms of a heap.
struct ReadHeap {
    name: String,
    by_type: Histogram,
    by_holder: Histogram,
}

/// Reads what is compared, and writes what differs.
pub fn run(options: &DiffOptions) -> Result<()> {
    let destination = Destination::new(&options.output, || None)?;
    if options.core.core.is_some() {
        bail!("name cores as files: diff A.core B.core");
    }
    let held = match (options.heaps.as_slice(), options.interval) {
        ([HeapPlace::Process(pid)], Some(interval)) => {
            let mut target = target::observed(Target::process(*pid)?);
            let before = of_target(&mut target, options, format!("process {pid}"))?;
            thread::sleep(interval);
            let name = format!("process {pid}, {} later", units::duration(interval));
            vec![before, of_target(&mut target, options, name)?]
        }
        (_, Some(_)) => bail!("--interval reads one process twice: diff PID --interval 10s"),
        ([_], None) => bail!("nothing to compare with: give two heaps, or a process and --interval"),
        (heaps, None) => heaps.iter().map(|heap| read(heap, options)).collect::<Result<Vec<ReadHeap>>>()?,
    };
    let of = |by: fn(&ReadHeap) -> &Histogram| compare(&held.iter().map(by).collect::<Vec<&Histogram>>());
    let (types, holders) = (of(|held| &held.by_type), of(|held| &held.by_holder));
    let heaps = held.iter().map(|held| Compared { name: held.name.clone(), total: held.by_type.total }).collect();
    let differences = Differences { heaps, types, holders };
    destination.write(|out| match options.json {
        true => difference::write_json(out, &differences),
        false => difference::write(out, &differences, options.top),
    })
}

fn read(heap: &HeapPlace, options: &DiffOptions) -> Result<ReadHeap> {
    match heap {
        HeapPlace::Process(pid) => {
            of_target(&mut target::observed(Target::process(*pid)?), options, format!("process {pid}"))
        }
        HeapPlace::File(path) if is_parquet(path)? => {
            let saved = snapshot::open(path, SortKey::Bytes)?;
            Ok(ReadHeap { name: path.display().to_string(), by_type: saved.by_type, by_holder: saved.by_holder })
        }
        HeapPlace::File(path) => {
            let mut core = target::open_core(path, &CoreFile::default())?;
            of_target(&mut core, options, path.display().to_string())
        }
    }
}

fn is_parquet(path: &Path) -> Result<bool> {
    let mut start = [0; PARQUET.len()];
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(file.take(start.len() as u64).read_exact(&mut start).is_ok() && start == *PARQUET)
}

fn of_target(target: &mut Target, options: &DiffOptions, name: String) -> Result<ReadHeap> {
    let copy_options = options.stopping.for_references(&options.following);
    let answer = target.heap(&copy_options, |heap| {
        let graph = heap.graph_alone();
        let by_type = heap.histogram(SortKey::Bytes);
        let by_holder = flamegraph::owners(heap, &graph, View::Owners).by_holder(SortKey::Bytes);
        anyhow::Ok(ReadHeap { name, by_type, by_holder })
    })?;
    Ok(target::said(answer).result)
}
