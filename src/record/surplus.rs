//! More that seem to live than there are.
//!
//! What is watched and seems to live, with the births that it stands for, comes to so many objects of a type. Where that is many more than
//! stand in the collector's lists and were born meanwhile ([`crate::record::standing`]), some are others in their places. Those are
//! they that stand the farthest behind where they should: what was born together stands together.

use rustc_hash::FxHashMap;

use crate::process::Address;

use super::standing::Standing;

/// So many more than there are is no error of an estimate.
const MANY_MORE: f64 = 0.25;

/// An object that seems to live.
#[derive(Clone, Copy, Debug)]
pub struct Seeming {
    /// Which collector's it is.
    pub lane: usize,
    /// Its type.
    pub type_: Address,
    /// How many objects it stands for. Negative: it is known to have died, and so many others that have died seem to live.
    pub objects: f64,
    /// How far it stands behind where it should; `None`: it is in no list.
    pub behind: Option<u64>,
}

/// Of each of these, whether it is one too many. `standing`: what stands in the lists of each lane, where that is known.
pub fn find(seeming: &[Seeming], standing: &[Option<Standing>]) -> Vec<bool> {
    let mut surplus: FxHashMap<(usize, Address), f64> = FxHashMap::default();
    for object in seeming.iter().filter(|object| object.behind.is_some()) {
        *surplus.entry((object.lane, object.type_)).or_default() += object.objects;
    }
    surplus.retain(|&(lane, type_), seem| {
        let Some(standing) = standing.get(lane).and_then(Option::as_ref) else { return false };
        let there = standing.get(&type_).copied().unwrap_or(0.0);
        let is_more = *seem > there * (1.0 + MANY_MORE);
        *seem -= there;
        is_more
    });
    let mut order: Vec<usize> = (0..seeming.len()).filter(|&index| seeming[index].objects > 0.0).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(seeming[index].behind));
    let mut is_surplus = vec![false; seeming.len()];
    for index in order {
        let Seeming { lane, type_, objects, behind } = seeming[index];
        let Some(left) = surplus.get_mut(&(lane, type_)).filter(|left| **left > 0.0 && behind.is_some()) else {
            continue;
        };
        *left -= objects;
        is_surplus[index] = true;
    }
    is_surplus
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: Address = Address(0x1000);
    const DICT: Address = Address(0x2000);

    fn of(type_: Address, objects: f64, behind: Option<u64>) -> Seeming {
        Seeming { lane: 0, type_, objects, behind }
    }

    #[test]
    fn those_that_stand_farthest_behind_are_too_many() {
        let seeming = [
            of(LIST, 10.0, Some(700)),
            of(LIST, 10.0, Some(2)),
            of(LIST, 10.0, None),
            of(LIST, -5.0, Some(900)),
            of(LIST, 10.0, Some(300)),
            of(DICT, 10.0, Some(5000)),
        ];
        let standing = Standing::from_iter([(LIST, 14.0), (DICT, 9.0)]);
        // Of lists 25 seem to live, and 14 stand there; of dicts 10 and 9, which may be an error.
        let found = find(&seeming, &[Some(standing)]);
        assert_eq!(found, [true, false, false, false, true, false]);
    }

    #[test]
    fn where_nobody_knows_how_many_there_are_none_is_too_many() {
        let seeming = [of(LIST, 10.0, Some(700)), Seeming { lane: 1, ..of(LIST, 10.0, Some(700)) }];
        assert_eq!(find(&seeming, &[None, None]), [false, false]);
        assert_eq!(find(&seeming, &[None]), [false, false]);
        assert_eq!(find(&seeming, &[Some(Standing::default()), None]), [true, false]);
    }
}
