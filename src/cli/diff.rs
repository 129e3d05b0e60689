//! `diff`: what differs between heaps, by type and by holder.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::analysis::difference::{compare, tree};
use crate::analysis::histogram::{Histogram, SortKey};
use crate::analysis::owners::HeldTypes;
use crate::inspect::Target;
use crate::inspect::any::AnyHeap;
use crate::report::difference::{self, Compared, Differences};
use crate::report::{growth_svg, units};

use crate::snapshot::read::SavedHistograms;

use super::args::{CoreFile, Following, Output, Stopping, View};
use super::output::Destination;
use super::values::{HeapPlace, duration, place};
use super::{flamegraph, snapshot, target};

/// Number of rows shown by default, of each table.
const ROWS_DEFAULT: usize = 20;

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

    /// Output format
    #[arg(short, long, value_enum, default_value_t = DiffFormat::Text, conflicts_with = "json")]
    pub format: DiffFormat,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffFormat {
    Text,
    Json,
    /// Holders and their types as a flame graph, first against last: red grew, blue shrank
    Svg,
}

/// The histograms of a heap, and for a picture what each holder has of each type.
struct ReadHeap {
    name: String,
    by_type: Histogram,
    by_holder: Histogram,
    held: HeldTypes,
}

/// Reads what is compared, and writes what differs.
pub fn run(options: &DiffOptions) -> Result<()> {
    let is_svg = options.format == DiffFormat::Svg;
    let destination = Destination::new(&options.output, || is_svg.then(|| PathBuf::from("diff.svg")))?;
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
    let format = if options.json { DiffFormat::Json } else { options.format };
    destination.write(|out| match (format, held.as_slice()) {
        (DiffFormat::Json, _) => difference::write_json(out, &differences),
        (DiffFormat::Svg, [first, .., last]) => {
            let title = format!("{} -> {}", first.name, last.name);
            growth_svg::write(out, &tree(&first.held, &last.held), &title, growth_svg::LEGEND)
        }
        _ => difference::write(out, &differences, options.top),
    })
}

fn read(heap: &HeapPlace, options: &DiffOptions) -> Result<ReadHeap> {
    match heap {
        HeapPlace::Process(pid) => {
            of_target(&mut target::observed(Target::process(*pid)?), options, format!("process {pid}"))
        }
        HeapPlace::File(path) if target::is_parquet(path)? => {
            let saved = snapshot::open(path, SortKey::Bytes)?;
            let SavedHistograms { by_type, by_holder, held, .. } = saved;
            Ok(ReadHeap { name: path.display().to_string(), by_type, by_holder, held })
        }
        HeapPlace::File(path) => {
            let mut core = target::open_core(path, &CoreFile::default())?;
            of_target(&mut core, options, path.display().to_string())
        }
    }
}

fn of_target(target: &mut Target, options: &DiffOptions, name: String) -> Result<ReadHeap> {
    let copy_options = options.stopping.for_references(&options.following);
    let answer = target.heap(&copy_options, |heap| {
        let graph = heap.graph_alone();
        let by_type = heap.histogram(SortKey::Bytes);
        let owners = flamegraph::owners(AnyHeap::Read(heap), &graph, View::Owners);
        let by_holder = owners.by_holder(SortKey::Bytes);
        let held = match options.format {
            DiffFormat::Svg => owners.by_holder_and_type(&graph, heap.types),
            DiffFormat::Text | DiffFormat::Json => HeldTypes::default(),
        };
        anyhow::Ok(ReadHeap { name, by_type, by_holder, held })
    })?;
    Ok(target::said(answer).result)
}
