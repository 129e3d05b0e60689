//! The kernel's figures on a target's memory: sums, mappings and pages, read at one time.

use std::fs::File;

use crate::process::Address;
use crate::process::copy::resident_bytes;
use crate::process::memory::Memory;
use crate::process::procfs;
use crate::process::regions::{Backing, Region};
use crate::process::residency::Residency;
use crate::process::smaps::{self, Mapping, Rollup};
use crate::process::source::Source;
use crate::process::thread_stacks;

/// The kernel's figures on a target's memory, read at one time.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// The sums.
    pub rollup: Rollup,
    /// The mappings.
    pub mappings: Vec<Mapping>,
    /// The resident pages.
    pub residency: Residency,
    /// Stack pointers of running threads.
    pub stack_pointers: Vec<Address>,
}

impl Footprint {
    /// For a live process, from `/proc`; [`Footprint::complete`] adds the rest. For a core, what it holds.
    ///
    /// # Errors
    /// Those of the kernel: the process is gone or may not be read.
    pub fn of(source: &Source) -> std::io::Result<Footprint> {
        if source.core().is_some() {
            return Ok(Footprint::of_core(source));
        }
        let pid = source.pid();
        let mappings = smaps::of_process(pid)?;
        let residency = Residency::of_process(pid, &mappings)?;
        Ok(Footprint { rollup: sum_of(&mappings), mappings, residency, stack_pointers: Vec::new() })
    }

    /// Adds what need not be of the same instant, so that a process is not stopped for it: its share of pages that
    /// others map too, and where the stacks of its threads are. With thousands of threads that is a file for each.
    pub fn complete(&mut self, source: &Source) {
        if source.core().is_some() {
            return;
        }
        // By now it may have more memory.
        self.rollup.pss = Rollup::of_process(source.pid()).map_or(0, |now| now.pss.min(self.rollup.rss));
        self.stack_pointers = thread_stacks::stack_pointers(source.pid());
    }

    /// A core holds what was resident, so its size is taken as RSS.
    fn of_core(source: &Source) -> Footprint {
        let mappings = mappings_of_core(source);
        let held = mappings.iter().flat_map(|mapping| source.resident(mapping.region.start..mapping.region.end));
        let residency = Residency::of_ranges(held);
        Footprint { rollup: sum_of(&mappings), mappings, residency, stack_pointers: Vec::new() }
    }
}

/// What is resident of each mapping of a process now; of a core, what it holds. Other amounts may be missing.
///
/// # Errors
/// As [`Footprint::of`].
pub fn mappings(source: &Source) -> std::io::Result<Vec<Mapping>> {
    if source.core().is_some() {
        return Ok(mappings_of_core(source));
    }
    if has_many_mappings(source)
        && let Some(mappings) = by_pages(source)
    {
        return Ok(mappings);
    }
    smaps::of_process(source.pid())
}

/// The process, if [`mappings`] asks nobody but the kernel for them.
pub fn walked_by_kernel(source: &Source) -> Option<i32> {
    (source.core().is_none() && !has_many_mappings(source)).then(|| source.pid())
}

/// Whether the kernel takes longer to write `smaps`, 700 bytes for each mapping, than to walk the pages.
fn has_many_mappings(source: &Source) -> bool {
    const MANY: usize = 4096;
    source.regions().iter().nth(MANY).is_some()
}

/// What is resident of each mapping, from a scan of its pages. `None` if the kernel has no scan, or counts otherwise:
/// pages of devices are present and not counted, and a process may have mapped more since its map was read.
fn by_pages(source: &Source) -> Option<Vec<Mapping>> {
    /// The largest difference that is put down to a process that runs, bytes.
    const CHANGED: u64 = 1 << 20;
    let rollup = Rollup::of_process(source.pid()).ok()?;
    let file = File::open(procfs::memory_file(source.pid(), "pagemap")).ok()?;
    let is_kernels = |mapping: &Mapping| mapping.region.backing == Backing::Kernel;
    // The kernel's own are not counted, but for the vdso.
    let mut mappings: Vec<Mapping> =
        source.regions().iter().map(|region| mapping(region, region.end.0 - region.start.0)).collect();
    mappings.iter_mut().filter(|mapping| is_kernels(mapping)).for_each(|mapping| mapping.rss = 0);
    let residency = Residency::by_scan(&file, &mappings).ok()??;
    for mapping in &mut mappings {
        mapping.rss = residency.resident(&(mapping.region.start..mapping.region.end)).min(mapping.rss);
    }
    let sum: u64 = mappings.iter().map(|mapping| mapping.rss).sum();
    if sum.abs_diff(rollup.rss) > CHANGED {
        log::debug!("{sum} bytes are resident by their pages, {} as the kernel counts them", rollup.rss);
        return None;
    }
    if let Some(mapping) = mappings.iter_mut().find(|mapping| is_kernels(mapping)) {
        mapping.rss = rollup.rss.saturating_sub(sum);
    }
    Some(mappings)
}

fn mappings_of_core(source: &Source) -> Vec<Mapping> {
    let regions = source.regions().iter();
    regions.map(|region| mapping(region, resident_bytes(source, &[region.start..region.end]))).collect()
}

/// A mapping of which only this is known.
fn mapping(region: &Region, rss: u64) -> Mapping {
    Mapping {
        region: region.clone(),
        name: region.path().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        rss,
        anonymous: if region.path().is_some() && !region.writable { 0 } else { rss },
        private_dirty: 0,
        private_clean: 0,
        swap: 0,
    }
}

/// The sums of all mappings, without PSS.
fn sum_of(mappings: &[Mapping]) -> Rollup {
    let sum = |of: fn(&Mapping) -> u64| mappings.iter().map(of).sum();
    Rollup {
        rss: sum(|mapping| mapping.rss),
        pss: 0,
        uss: sum(|mapping| mapping.private_clean + mapping.private_dirty),
        anonymous: sum(|mapping| mapping.anonymous),
        swap: sum(|mapping| mapping.swap),
    }
}
