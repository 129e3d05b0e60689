//! The kernel's figures on a target's memory: sums, mappings and pages, read at one time.

use crate::process::Address;
use crate::process::copy::resident_bytes;
use crate::process::memory::Memory;
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

/// What the kernel says of each mapping of a process now; of a core, what it holds.
///
/// # Errors
/// As [`Footprint::of`].
pub fn mappings(source: &Source) -> std::io::Result<Vec<Mapping>> {
    if source.core().is_some() { Ok(mappings_of_core(source)) } else { smaps::of_process(source.pid()) }
}

fn mappings_of_core(source: &Source) -> Vec<Mapping> {
    let regions = source.regions().iter();
    regions
        .map(|region| {
            let held = resident_bytes(source, &[region.start..region.end]);
            let name = region.path().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
            let is_file = region.path().is_some();
            Mapping {
                region: region.clone(),
                name,
                rss: held,
                anonymous: if is_file && !region.writable { 0 } else { held },
                private_dirty: 0,
                private_clean: 0,
                swap: 0,
            }
        })
        .collect()
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
