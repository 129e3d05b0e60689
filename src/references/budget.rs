//! Decides which words are references, using the reference counts of their targets.
//!
//! A word that holds the address of an object is a reference, or it is left over from earlier use of the memory. The
//! target's count tells them apart: the count minus the certain references is the number of references not yet found.
//! For nearly all objects it is zero, so a word that fits is strong evidence. Words are judged in groups with the same
//! meaning (a field of a C struct, the words of one memory block), because a single word may fit by chance.
//!
//! A whole group may fit by chance, too, if many are tried. Interned strings have room that no object explains: static
//! variables of C modules hold them. Of the old words in a buffer half may fit, and of a thousand groups of three, one
//! in eight. How the other groups of a kind fit tells how probable that is.
//!
//! Pure functions over columns; nothing here reads memory.

use std::cmp::Reverse;

use rustc_hash::FxHashMap;

/// Percentage of a group's words with known room that must fit. A group of references may fall short if counts changed
/// while they were read or an owner was counted twice; a group of stale words seldom exceeds a few percent. On 18
/// programs the results were the same for all values from 80 to 100.
const FIT_PERCENT: u64 = 90;

/// A word that may be a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WordCandidate {
    /// The object that may refer.
    pub owner: u32,
    /// The object that it may refer to.
    pub target: u32,
    /// The group it is judged with.
    pub group: u32,
    /// The kind of the group: how words of other groups of this kind fit, old words fit by chance.
    pub kind: u32,
}

/// The number of references to each object that have not been found yet. Objects without an entry have no known count:
/// they are immortal, or their count is kept elsewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rooms {
    left: FxHashMap<u32, u64>,
}

impl Rooms {
    /// Sets the room of an object.
    pub fn set(&mut self, object: u32, room: u64) {
        self.left.insert(object, room);
    }

    /// The room of an object, if known.
    pub fn left(&self, object: u32) -> Option<u64> {
        self.left.get(&object).copied()
    }

    /// Lets an object have this much less room, as far as it has it. Returns by how much, to be given back.
    pub fn reserve(&mut self, object: u32, count: u64) -> u64 {
        let Some(left) = self.left.get_mut(&object) else { return 0 };
        let reserved = count.min(*left);
        *left -= reserved;
        reserved
    }

    /// Gives back what was reserved.
    pub fn give_back(&mut self, object: u32, reserved: u64) {
        if let Some(left) = self.left.get_mut(&object) {
            *left = left.saturating_add(reserved);
        }
    }

    /// Takes one reference from an object's room. `false` if none is left.
    fn take(&mut self, object: u32) -> bool {
        match self.left.get_mut(&object) {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// Whether a group is accepted if no target has a known room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Accepted: a field of a struct.
    NotNeeded,
    /// Not accepted: native memory, which may be full of stale words. A group must fit better than by chance.
    Needed,
}

/// How well a group fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fit {
    /// Number of words whose targets have a known room.
    words: u64,
    /// Of these, the number that fit.
    fitting: u64,
    /// Number of different targets.
    targets: u64,
}

impl Fit {
    /// Computes the fit of one group's candidates, sorted by target.
    fn of(candidates: &[WordCandidate], order: &[u32], rooms: &Rooms) -> Fit {
        let mut fit = Fit::default();
        let target = |&index: &u32| candidates.get(index as usize).map(|candidate| candidate.target);
        for same in order.chunk_by(|a, b| target(a) == target(b)) {
            if let Some(room) = same.first().and_then(target).and_then(|target| rooms.left(target)) {
                fit.words += same.len() as u64;
                fit.fitting += room.min(same.len() as u64);
                fit.targets += 1;
            }
        }
        fit
    }

    /// Whether the words of a group are references. Without a known room there is no evidence either way.
    fn is_enough(self, evidence: Evidence) -> bool {
        let is_blank = self.words == 0 && evidence == Evidence::Needed;
        !is_blank && self.fitting * 100 >= self.words * FIT_PERCENT
    }

    /// The share that fits, in parts per million.
    fn share(self) -> u64 {
        (self.fitting * 1_000_000).checked_div(self.words).unwrap_or(1_000_000)
    }
}

/// The groups of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct FitsOfKind {
    /// Number of groups with a known room.
    groups: u64,
    /// Number of words with known room in groups that do not fit.
    words: u64,
    /// Of these, the number that fit.
    fitting: u64,
}

impl FitsOfKind {
    fn add(&mut self, fit: Fit, is_enough: bool) {
        self.groups += u64::from(fit.words > 0);
        if !is_enough {
            self.words += fit.words;
            self.fitting += fit.fitting;
        }
    }

    /// Upper bound on the number of groups of this kind that fit as well by chance (W. Hoeffding, Probability
    /// Inequalities for Sums of Bounded Random Variables, 1963, theorem 1).
    fn expected(self, fit: Fit) -> f64 {
        if self.fitting == 0 || fit.words == 0 {
            return 0.0;
        }
        let by_chance = self.fitting as f64 / self.words.max(1) as f64;
        let share = fit.fitting as f64 / fit.words as f64;
        if share <= by_chance {
            return self.groups as f64;
        }
        let divergence = |share: f64, chance: f64| if share > 0.0 { share * (share / chance).ln() } else { 0.0 };
        let exponent = divergence(share, by_chance) + divergence(1.0 - share, 1.0 - by_chance);
        self.groups as f64 * (-(fit.words as f64) * exponent).exp()
    }
}

/// A group that fits.
struct FittingGroup<'w> {
    fit: Fit,
    kind: u32,
    words: &'w [u32],
}

/// Drops the groups that may fit by chance: of those kept, as large a share as of the words of a group (Y. Benjamini,
/// Y. Hochberg, Controlling the False Discovery Rate, 1995).
fn drop_chance(groups: &mut Vec<FittingGroup<'_>>, kinds: &FxHashMap<u32, FitsOfKind>) {
    let expected = |group: &FittingGroup<'_>| kinds.get(&group.kind).map_or(0.0, |kind| kind.expected(group.fit));
    let mut by_kind: FxHashMap<u32, Vec<f64>> = FxHashMap::default();
    groups.iter().for_each(|group| by_kind.entry(group.kind).or_default().push(expected(group)));
    let limit = |mut all: Vec<f64>| {
        all.sort_unstable_by(f64::total_cmp);
        let allowed = |kept: usize| kept as f64 * (100 - FIT_PERCENT) as f64 / 100.0;
        all.iter().enumerate().rev().find(|&(index, &by_chance)| by_chance <= allowed(index + 1)).map(|(_, &last)| last)
    };
    let limits: FxHashMap<u32, Option<f64>> = by_kind.into_iter().map(|(kind, all)| (kind, limit(all))).collect();
    groups.retain(|group| limits.get(&group.kind).copied().flatten().is_some_and(|limit| expected(group) <= limit));
}

/// Accepts the groups that fit, best first, and of each group as many words as there is room for. Returns the indices
/// of the accepted words, ascending; their room is taken.
pub(crate) fn accept(candidates: &[WordCandidate], rooms: &mut Rooms, evidence: Evidence) -> Vec<u32> {
    let mut order: Vec<u32> = (0..candidates.len() as u32).collect();
    let key = |&index: &u32| candidates.get(index as usize).map(|word| (word.group, word.target, index));
    order.sort_unstable_by_key(key);
    let group = |&index: &u32| candidates.get(index as usize).map(|word| word.group);
    let mut groups = Vec::new();
    let mut kinds: FxHashMap<u32, FitsOfKind> = FxHashMap::default();
    for words in order.chunk_by(|a, b| group(a) == group(b)) {
        let fit = Fit::of(candidates, words, rooms);
        let is_enough = fit.is_enough(evidence);
        let kind = words.first().and_then(|&index| candidates.get(index as usize)).map_or(0, |word| word.kind);
        kinds.entry(kind).or_default().add(fit, is_enough);
        if is_enough {
            groups.push(FittingGroup { fit, kind, words });
        }
    }
    if evidence == Evidence::Needed {
        drop_chance(&mut groups, &kinds);
    }
    groups.sort_by_key(|group| Reverse((group.fit.share(), group.fit.targets)));
    let mut accepted = Vec::new();
    for FittingGroup { words, .. } in groups {
        // Other groups may have taken the room.
        if Fit::of(candidates, words, rooms).is_enough(evidence) {
            let fits = |&&index: &&u32| candidates.get(index as usize).is_some_and(|word| rooms.take(word.target));
            accepted.extend(words.iter().filter(fits));
        }
    }
    accepted.sort_unstable();
    accepted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accept(candidates: &[WordCandidate], rooms: &mut Rooms) -> Vec<u32> {
        super::accept(candidates, rooms, Evidence::NotNeeded)
    }

    fn rooms(rooms: &[(u32, u64)]) -> Rooms {
        let mut made = Rooms::default();
        rooms.iter().for_each(|&(object, room)| made.set(object, room));
        made
    }

    #[test]
    fn what_is_reserved_is_given_back() {
        let mut rooms = rooms(&[(1, 3), (2, 0)]);
        assert_eq!((rooms.reserve(1, 2), rooms.left(1)), (2, Some(1)));
        assert_eq!((rooms.reserve(2, 5), rooms.reserve(7, 5)), (0, 0), "no room, and none that is known");
        rooms.give_back(1, 2);
        assert_eq!(rooms.left(1), Some(3));
    }

    fn words(words: &[(u32, u32, u32)]) -> Vec<WordCandidate> {
        words.iter().map(|&(owner, target, group)| WordCandidate { owner, target, group, kind: 0 }).collect()
    }

    #[test]
    fn a_field_that_fits_is_kept_and_one_of_old_words_is_not() {
        // Field 0 of ten objects refers to an object each; field 1 holds stale addresses of objects with other owners.
        let field = |group: u32, first: u32| (0..10).map(move |n| (n, first + n, group));
        let found = words(&field(0, 100).chain(field(1, 200)).collect::<Vec<_>>());
        let mut room = rooms(&(100..110).map(|n| (n, 1)).chain((200..210).map(|n| (n, 0))).collect::<Vec<_>>());
        assert_eq!(accept(&found, &mut room), (0..10).collect::<Vec<u32>>());
        assert_eq!((room.left(100), room.left(200), room.left(7)), (Some(0), Some(0), None));
    }

    #[test]
    fn one_misfit_in_ten_costs_itself_alone() {
        let found = words(&(0..10).map(|n| (n, 100 + n, 0)).collect::<Vec<_>>());
        let mut room = rooms(&(100..110).map(|n| (n, u64::from(n != 104))).collect::<Vec<_>>());
        assert_eq!(accept(&found, &mut room), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        let mut room = rooms(&(100..110).map(|n| (n, u64::from(n != 104 && n != 107))).collect::<Vec<_>>());
        assert!(accept(&found, &mut room).is_empty());
    }

    /// Groups of three words each, of which this many have room.
    fn of_three(fits: &[u32]) -> (Vec<WordCandidate>, Rooms) {
        let mut room = Rooms::default();
        let mut found = Vec::new();
        for (group, fitting) in fits.iter().enumerate() {
            for n in 0..3 {
                let target = 3 * group as u32 + n;
                room.set(target, u64::from(n < *fitting));
                found.push(WordCandidate { owner: n, target, group: group as u32, kind: 0 });
            }
        }
        (found, room)
    }

    #[test]
    fn groups_that_fit_by_chance_are_not_kept() {
        // As three coins fall: one in eight fits.
        let coins: Vec<u32> = (0..1000).map(|n| [0, 1, 1, 1, 2, 2, 2, 3][n % 8]).collect();
        let (found, room) = of_three(&coins);
        assert!(super::accept(&found, &mut room.clone(), Evidence::Needed).is_empty());
        assert_eq!(accept(&found, &mut room.clone()).len(), 3 * 125);
        // Where old words never fit, one group that does is enough; and where no group misfits, all are kept.
        let (found, mut room) = of_three(&[0, 0, 0, 3, 0, 0, 0, 0]);
        assert_eq!(super::accept(&found, &mut room, Evidence::Needed), [9, 10, 11]);
        let (found, mut room) = of_three(&[3; 5]);
        assert_eq!(super::accept(&found, &mut room, Evidence::Needed).len(), 15);
    }

    #[test]
    fn many_words_that_fit_are_kept_among_old_ones() {
        let coins: Vec<u32> = (0..100).map(|n| n % 3).collect();
        let (mut found, mut room) = of_three(&coins);
        for n in 0..12 {
            room.set(1000 + n, 1);
            found.push(WordCandidate { owner: n, target: 1000 + n, group: 100, kind: 0 });
        }
        assert_eq!(super::accept(&found, &mut room, Evidence::Needed), (300..312).collect::<Vec<u32>>());
    }

    #[test]
    fn what_fits_best_comes_first_and_takes_the_room() {
        // Both groups claim the one reference to object 9 that is left; group 1 fits in everything else, too.
        let mut list = vec![(0, 9, 0)];
        list.extend((0..9).map(|n| (0, n, 0)));
        list.push((1, 9, 1));
        list.extend((20..28).map(|n| (1, n, 1)));
        let mut room = rooms(&[(9, 1)]);
        (0..9).for_each(|n| room.set(n, u64::from(n != 3)));
        (20..28).for_each(|n| room.set(n, 1));
        let kept = accept(&words(&list), &mut room);
        assert!(kept.contains(&10) && !kept.contains(&0), "{kept:?}");
    }

    #[test]
    fn objects_without_a_count_fit_anywhere() {
        let found = words(&[(0, 5, 0), (0, 6, 0), (1, 5, 1)]);
        assert_eq!(accept(&found, &mut Rooms::default()), [0, 1, 2]);
        assert_eq!(accept(&found, &mut rooms(&[(6, 0)])), [2]);
        assert!(accept(&[], &mut Rooms::default()).is_empty());
        // In native memory they prove nothing and follow the rest of their group.
        let needed = |rooms: &mut Rooms| super::accept(&found, rooms, Evidence::Needed);
        assert!(needed(&mut Rooms::default()).is_empty());
        assert_eq!(needed(&mut rooms(&[(6, 1)])), [0, 1]);
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_beyond_its_room(
            list in prop::collection::vec((0u32..9, 0u32..12, 0u32..6), 0..80),
            given in prop::collection::vec(0u64..4, 9),
            evidence in prop::sample::select(vec![Evidence::Needed, Evidence::NotNeeded]),
        ) {
            let mut found = words(&list);
            found.iter_mut().for_each(|word| word.kind = word.group / 2);
            let mut room = Rooms::default();
            given.iter().enumerate().for_each(|(object, &count)| room.set(object as u32, count));
            let kept = super::accept(&found, &mut room, evidence);
            prop_assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
            for (object, &count) in given.iter().enumerate() {
                let taken = kept.iter().filter(|&&index| found[index as usize].target == object as u32).count() as u64;
                prop_assert!(taken <= count);
                prop_assert_eq!(room.left(object as u32), Some(count - taken));
            }
        }
    }
}
