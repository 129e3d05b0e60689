//! Threads in which little was seen, taken together.
//!
//! A server that answers each request in a new thread has thousands of them, and of each some instants are known. A stack's rate of births
//! is that of those of its instants that could be read, and of most of these stacks none could. The same functions in another such
//! thread do the same: their stacks are one, of *other threads*.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::stats::jackknife::SIGHTINGS_FEW;

use super::allocations::Allocations;
use super::stacks::Stacks;

/// Puts together the stacks of all threads in which little was seen, where there are several of these.
pub fn pool(allocations: &mut Allocations, stacks: &mut Stacks) {
    let mut sightings: FxHashMap<(i64, u64), u64> = FxHashMap::default();
    for (id, stack) in (0..).zip(&stacks.stacks) {
        let Some(thread) = stack.thread else { continue };
        *sightings.entry((stack.interpreter, thread)).or_default() += allocations.sightings_of(id);
    }
    let little = sightings.into_iter().filter(|&(_, sightings)| sightings < SIGHTINGS_FEW);
    let little: FxHashSet<(i64, u64)> = little.map(|(thread, _)| thread).collect();
    if little.len() > 1 {
        allocations.pool(&stacks.pool(|interpreter, thread| little.contains(&(interpreter, thread))));
    }
}

#[cfg(test)]
mod tests {
    use crate::record::recorder::{Instant, Looks};
    use crate::record::stacks::{Stack, StackId};
    use crate::stats::jackknife::GROUPS;

    use super::*;

    /// Each request has a thread, of which one instant is known; every second one could not be read. One thread stays.
    #[test]
    fn what_many_threads_do_is_told_as_one() {
        let (mut allocations, mut stacks) = (Allocations::default(), Stacks::default());
        for request in 0..400 {
            let thread = Some(if request % 4 == 0 { 1 } else { 1000 + request });
            let stack = Stack { interpreter: 0, thread, functions: vec![7] };
            let known = stacks.stacks.iter().position(|it| *it == stack);
            let id = known.unwrap_or(stacks.stacks.len());
            if known.is_none() {
                stacks.stacks.push(stack);
            }
            let births = (request % 3 == 0).then_some(5.0);
            let middle = Looks { is_moving: true, between: 1e-5, births };
            let (group, stack) = (request as usize % GROUPS, id as StackId);
            allocations.time(group, 1e-3);
            allocations.instant(group, &Instant { stack, lines: vec![1], middle, further: Looks::default() }, 1e-3);
        }
        let born = |allocations: &Allocations, stacks: &Stacks, of: fn(Option<u64>) -> bool| {
            let places = allocations.places(allocations.basis(), 1.0);
            let of = places.iter().filter(|place| of(stacks.stacks[place.0 as usize].thread));
            of.map(|place| place.2.objects.value).sum::<f64>()
        };
        let others = born(&allocations, &stacks, |thread| thread != Some(1));
        assert!((others / 125_000.0 - 1.0).abs() < 0.01, "of what was read: {others}");
        pool(&mut allocations, &mut stacks);
        // Three quarters of a second at five in ten microseconds.
        let others = born(&allocations, &stacks, |thread| thread.is_none());
        assert!((others / 375_000.0 - 1.0).abs() < 0.01, "{others}");
        let one = born(&allocations, &stacks, |thread| thread == Some(1));
        assert!((one / 125_000.0 - 1.0).abs() < 0.01, "{one}");
    }
}
