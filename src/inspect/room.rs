//! Computes how much memory following references takes, and how much may be used, before it starts.

use crate::analysis::histogram::SortKey;
use crate::estimate::design::{Effort, SamplingFrame};
use crate::estimate::estimator;
use crate::estimate::pool_headers::{FirstHeaders, HEADERS_MAX, HeaderLimit};
use crate::heap::classify::classifier::Classifier;
use crate::heap::object_table::Objects;
use crate::heap::survey::Survey;
use crate::process::host;
use crate::process::memory::Memory;
use crate::references::References;

use super::error::{Error, NoRoom};
use super::open::Target;

/// Memory per object for a graph and the largest analysis of it, bytes; see `cargo bench --bench graph`.
const BYTES_PER_OBJECT: u64 = 64;
/// Memory per edge, bytes: a number in each direction.
const BYTES_PER_EDGE: u64 = 8;
/// Assumed edges per object other than long containers, if only a part of the heap was read.
const EDGES_PER_OBJECT: u64 = 2;
/// Memory independent of the target, bytes: types, caches, buffers of threads.
const BYTES_BASE: u64 = 64 << 20;
/// Lower bound on a target's memory per object, bytes.
const OBJECT_MIN: u64 = 24;
/// Bytes of a reference.
const WORD: u64 = 8;
/// Bytes read to estimate the number of objects, if that is needed for the decision.
const SAMPLE: u64 = 16 << 20;

/// The memory that may be used.
pub(crate) struct Room {
    pub(crate) limit: u64,
    is_users_limit: bool,
}

impl Room {
    /// `max_memory`, or three quarters of what is left on the host and in its control group, whichever is less.
    pub(crate) fn new(max_memory: Option<u64>) -> Room {
        let host = host::available_bytes().map_or(u64::MAX, |available| available / 4 * 3);
        match max_memory {
            Some(limit) if limit <= host => Room { limit, is_users_limit: true },
            _ => Room { limit: host, is_users_limit: false },
        }
    }

    /// Whether a copy of this size fits in addition to the graph.
    ///
    /// # Errors
    /// Not even the graph fits.
    pub(crate) fn fits_a_copy(&self, target: &Target, survey: &Survey, copy: u64) -> Result<bool, Error> {
        // An upper bound: every word is a reference.
        let most = graph_bytes(copy / OBJECT_MIN, copy / WORD);
        if copy.saturating_add(most) <= self.limit {
            return Ok(true);
        }
        let (objects, edges) = estimate_objects(target, survey)?;
        let graph_bytes = graph_bytes(objects, edges);
        let with_copy = copy.saturating_add(graph_bytes);
        if graph_bytes <= self.limit {
            return Ok(with_copy <= self.limit);
        }
        Err(Error::NoRoom(NoRoom {
            objects,
            is_estimate: true,
            graph_bytes,
            with_copy_bytes: Some(with_copy),
            limit_bytes: self.limit,
            is_users_limit: self.is_users_limit,
            fits_without_copy: false,
        }))
    }

    /// Checks again once the objects are counted: first with the maximum number of edges for objects of such sizes, and
    /// if that does not fit, with the actual number.
    ///
    /// # Errors
    /// The graph does not fit in addition to `copied` bytes.
    pub(crate) fn check<M: Memory + ?Sized>(
        &self,
        copied: u64,
        objects: &Objects,
        references: &References<'_, M>,
        count_edges: impl FnOnce() -> u64,
    ) -> Result<(), NoRoom> {
        /// Tolerance in percent, because the estimate is not exact.
        const SLACK: u64 = 10;
        let count = objects.len() as u64;
        // The host may have less memory available by now; count what is left and what we already hold.
        let now = host::available_bytes().map_or(u64::MAX, |left| left.saturating_add(host::resident_bytes()) / 4 * 3);
        let limit = self.limit.min(now);
        let limit = limit.saturating_add(limit / SLACK);
        let holders = (0..objects.len()).filter(|&id| !references.is_leaf(objects.type_id(id)));
        let words: u64 = holders.map(|id| objects.size(id) / WORD).fold(count, u64::saturating_add);
        if graph_bytes(count, words).saturating_add(copied) <= limit {
            return Ok(());
        }
        let edges = count_edges();
        let needed = graph_bytes(count, edges).saturating_add(copied);
        log::debug!("{edges} references are to be followed, which takes {needed} bytes");
        if needed <= limit {
            return Ok(());
        }
        Err(NoRoom {
            objects: count,
            is_estimate: false,
            graph_bytes: needed,
            with_copy_bytes: None,
            limit_bytes: self.limit,
            is_users_limit: self.is_users_limit,
            fits_without_copy: copied > 0 && needed.saturating_sub(copied) <= limit,
        })
    }
}

fn graph_bytes(objects: u64, edges: u64) -> u64 {
    let (objects, edges) = (objects.saturating_mul(BYTES_PER_OBJECT), edges.saturating_mul(BYTES_PER_EDGE));
    objects.saturating_add(edges).saturating_add(BYTES_BASE)
}

/// Estimates the number of objects and references from a part of the heap. In long containers each word counts as a
/// reference.
fn estimate_objects(target: &Target, survey: &Survey) -> Result<(u64, u64), Error> {
    const LONG: [&str; 3] = ["builtins.list", "builtins.tuple", "collections.deque"];
    let (memory, python) = (&target.source, target.python());
    let types = target.attached.types(memory, survey)?;
    let classifier = Classifier::new(&python.layout, python.version, &types, survey.debug_hooks);
    // A fixed seed, so that the limit named in an error is sufficient when used.
    let mut rng = fastrand::Rng::with_seed(1);
    let first = FirstHeaders::read(memory, &python.layout, &survey.plan, HEADERS_MAX, &mut rng)?;
    let frame = SamplingFrame::new(memory, &classifier, &survey.plan, first, HeaderLimit::default(), &mut rng)?;
    let sample = frame.draw(memory, &classifier, Effort::Bytes(SAMPLE + frame.fixed_bytes()), &mut rng)?;
    let histogram = estimator::histogram(&types, &sample, estimator::GroupBy::Type, SortKey::Bytes);
    let long = histogram.rows.iter().filter(|row| LONG.contains(&row.label().as_str()));
    let words = long.map(|row| row.amount.bytes / WORD).fold(0, u64::saturating_add);
    let objects = histogram.total.objects;
    Ok((objects, objects.saturating_mul(EDGES_PER_OBJECT).saturating_add(words)))
}
