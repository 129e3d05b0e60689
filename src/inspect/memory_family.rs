//! What the processes of a family share of the object heap, and what broke the sharing since the fork.
//!
//! A page that parent and child share becomes the child's own when it writes to it. Reference counts go up and down
//! again, and the collector writes to the head of each tracked object while it searches for garbage; both leave
//! the page as it was, so what broke the sharing is told by which pages it hit. A full collection hits every page with
//! a tracked object (`update_refs` in `Python/gc.c`); reference counts hit what the program works with.

use std::ops::Range;

use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::heap::object::{Object, Sink};
use crate::process::address::PAGE;
use crate::process::memory::Memory;
use crate::process::procfs::Status;
use crate::process::sharing::{self, Sharing};
use crate::process::smaps::Rollup;
use crate::process::{Address, ReadError};

use super::answer::TargetSummary;
use super::error::Error;
use super::family::{UnreadProcess, read_each};
use super::open::Target;

/// Bytes that are compared at a time.
const BATCH: u64 = 1 << 20;
/// Bytes of the collector's head, in front of an object.
const HEAD: u64 = 16;
/// Share of the pages with tracked objects that are the child's own from which a full collection was made in it. Not
/// all of them: the census is taken while the process runs.
const COLLECTED: f64 = 0.98;

/// Pages of one sort that the parent has as well, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PageShare {
    /// The process has its own copy.
    pub private: u64,
    /// All of them.
    pub all: u64,
}

impl PageShare {
    fn share(&self) -> f64 {
        self.private as f64 / self.all.max(1) as f64
    }
}

/// What a process copied of its parent's heap since the fork, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BrokenSharing {
    /// Its own pages at addresses where the parent has a page of its heap.
    pub bytes: u64,
    /// Of these, pages with the same content as the parent's.
    pub identical: u64,
    /// Pages in which a tracked object lies.
    pub tracked: PageShare,
    /// Pages in which only objects lie that the collector does not track.
    pub untracked: PageShare,
    /// What the collector's marks broke: `gc.freeze()` before the fork would have saved it.
    pub by_collector: u64,
}

/// The memory of one process of a family.
#[derive(Clone, Debug, Serialize)]
pub struct MemberMemory {
    /// Which process.
    pub target: TargetSummary,
    /// The process of the family that it was forked from; `null` if none, or if it has executed a program since.
    pub parent: Option<i32>,
    /// What the kernel sums up.
    #[serde(flatten)]
    pub rollup: Rollup,
    /// Resident bytes of the allocators' memory that only this process maps.
    pub heap_private: u64,
    /// The same that others map as well.
    pub heap_shared: u64,
    /// What it copied of its parent's heap.
    pub broken: Option<BrokenSharing>,
}

/// The memory of a process and its descendants, parents first.
#[derive(Debug, Default)]
pub struct FamilyMemory {
    /// Processes that were read.
    pub members: Vec<MemberMemory>,
    /// Processes that were not read.
    pub unread: Vec<UnreadProcess>,
}

impl FamilyMemory {
    /// Reads a process and each descendant that is a Python, one after another, while they run.
    ///
    /// # Errors
    /// None of them can be read: the error of the first one.
    pub fn read(root: i32) -> Result<FamilyMemory, Error> {
        let mut targets: Vec<Target> = Vec::new();
        let (members, unread) = read_each(root, |pid| {
            let mut target = Target::process(pid)?;
            let parent =
                Status::of(pid).and_then(|status| targets.iter().find(|target| target.source.pid() == status.parent));
            let member = member(&mut target, parent)?;
            targets.push(target);
            Ok(member)
        })?;
        Ok(FamilyMemory { members, unread })
    }
}

/// Reads one process.
fn member(target: &mut Target, parent: Option<&Target>) -> Result<MemberMemory, Error> {
    let pid = target.source.pid();
    let gone = |_| Error::from(ReadError::Gone);
    let (survey, _, sinks) = target.running_census(|_| ObjectPages::default())?;
    let pages = ObjectPages::join(sinks);
    let mut ranges = survey.plan.allocators_memory(&target.source);
    ranges.sort_by_key(|range| range.start);
    let sharing = Sharing::of_process(pid, &ranges).map_err(gone)?;
    let rollup = Rollup::of_process(pid).map_err(gone)?;
    // A program that was executed since the fork has its interpreter elsewhere.
    let parent = parent.filter(|parent| {
        let first = |target: &Target| target.python().interpreters.first().map(|interpreter| interpreter.address);
        first(parent) == first(target)
    });
    let broken = parent.map(|parent| broken(target, parent, &sharing, &pages)).transpose()?;
    Ok(MemberMemory {
        target: target.summary(),
        parent: parent.map(|parent| parent.source.pid()),
        rollup,
        heap_private: sharing::bytes(&sharing.private),
        heap_shared: sharing::bytes(&sharing.shared),
        broken,
    })
}

/// What a process copied of its parent's heap.
fn broken(target: &Target, parent: &Target, sharing: &Sharing, pages: &ObjectPages) -> Result<BrokenSharing, Error> {
    let mut broken = BrokenSharing::default();
    let in_parent = |runs: &[Range<Address>]| -> Vec<Range<Address>> {
        runs.iter().flat_map(|run| parent.source.resident(run.clone())).collect()
    };
    let (private, shared) = (in_parent(&sharing.private), in_parent(&sharing.shared));
    let (mut own, mut other) = (vec![0; BATCH as usize], vec![0; BATCH as usize]);
    for run in &private {
        let mut at = run.start;
        while at < run.end {
            let length = (run.end.0 - at.0).min(BATCH) as usize;
            let (own, other) = (&mut own[..length], &mut other[..length]);
            let read = target.source.read_exact_at(at, own).and_then(|()| parent.source.read_exact_at(at, other));
            match read {
                Ok(()) => {
                    let pairs = own.chunks(PAGE as usize).zip(other.chunks(PAGE as usize));
                    broken.identical += pairs.filter(|(own, other)| own == other).count() as u64 * PAGE;
                }
                Err(error @ (ReadError::Gone | ReadError::Denied)) => return Err(error.into()),
                // A page that has gone meanwhile is not the same.
                Err(_) => {}
            }
            at = at.offset(length);
        }
    }
    broken.bytes = sharing::bytes(&private);
    for (runs, is_private) in [(&private, true), (&shared, false)] {
        for page in runs.iter().flat_map(|run| (run.start.0..run.end.0).step_by(PAGE as usize)) {
            let sum = match pages.0.get(&(page / PAGE)) {
                Some(true) => &mut broken.tracked,
                Some(false) => &mut broken.untracked,
                None => continue,
            };
            sum.all += PAGE;
            sum.private += if is_private { PAGE } else { 0 };
        }
    }
    broken.by_collector = by_collector(&broken);
    Ok(broken)
}

/// What a full collection broke: where it has hit every page with tracked objects, as many of them as reference counts
/// would have hit are theirs, in proportion to the pages without.
fn by_collector(broken: &BrokenSharing) -> u64 {
    let (tracked, untracked) = (broken.tracked.share(), broken.untracked.share());
    if tracked < COLLECTED { 0 } else { ((tracked - untracked).max(0.0) * broken.tracked.all as f64) as u64 }
}

/// The pages in which objects lie, and whether one of them is tracked.
#[derive(Debug, Default)]
struct ObjectPages(FxHashMap<u64, bool>);

impl Sink for ObjectPages {
    fn object(&mut self, object: &Object) {
        let head = if object.tracked { HEAD } else { 0 };
        *self.0.entry(object.address.0.saturating_sub(head) / PAGE).or_default() |= object.tracked;
    }
}

impl ObjectPages {
    fn join(sinks: Vec<ObjectPages>) -> ObjectPages {
        let mut joined = ObjectPages::default();
        for (page, is_tracked) in sinks.into_iter().flat_map(|sink| sink.0) {
            *joined.0.entry(page).or_default() |= is_tracked;
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collector_is_named_only_where_it_hit_all_that_it_tracks() {
        let of = |tracked: [u64; 2], untracked: [u64; 2]| {
            let share = |[private, all]: [u64; 2]| PageShare { private, all };
            by_collector(&BrokenSharing {
                tracked: share(tracked),
                untracked: share(untracked),
                ..BrokenSharing::default()
            })
        };
        assert_eq!(of([1000, 1000], [0, 500]), 1000);
        assert_eq!(of([1000, 1000], [250, 500]), 500);
        assert_eq!(of([1000, 1000], [500, 500]), 0);
        assert_eq!(of([900, 1000], [0, 500]), 0);
        assert_eq!(of([0, 0], [0, 0]), 0);
    }
}
