//! Divides a counted amount among stacks as a sample says, and says how well that is known.

use fastrand::Rng;
use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::stats::quantiles::student;

use super::newborns::Newborn;
use super::stacks::StackId;

/// Objects seen of a type, themselves or between two that were, below which its shares are not known: an interval for a
/// half would be wider than a third.
pub const MARKS_MIN: u64 = 30;
/// Windows from which on resampling says how they differ: of fewer, the 95 % interval of a half by Student's t is
/// everything from none to all.
const WINDOWS_MIN: usize = 7;
/// Resamples for an interval: its ends vary by a tenth of its width.
const RESAMPLES: usize = 100;

/// A number of objects, and their bytes, of a type or a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantity {
    /// Objects.
    pub objects: u64,
    /// Their shallow sizes.
    pub bytes: u64,
}

impl Quantity {
    /// Adds another one.
    pub fn add(&mut self, other: Quantity) {
        self.objects = self.objects.saturating_add(other.objects);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// How much more it is than another one.
    pub fn less(self, other: Quantity) -> Quantity {
        let objects = self.objects.saturating_sub(other.objects);
        Quantity { objects, bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// What is counted of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeAmount {
    /// The type's full name.
    pub name: String,
    /// How many more there are.
    pub more: Quantity,
    /// Of these, those that the collector does not track.
    pub more_untracked: Quantity,
    /// How many fewer there are.
    pub fewer: Quantity,
}

/// A newborn, and what it owns that the collector does not track.
#[derive(Clone, Debug)]
pub struct NewbornOwner {
    /// It.
    pub newborn: Newborn,
    /// The address of the type of each object, and how much of it belongs to this owner: one over its references.
    pub owned: Vec<(Address, f64)>,
}

/// A counted amount, divided.
#[derive(Clone, Debug, Default)]
pub struct Divided {
    /// The type.
    pub name: String,
    /// What was counted.
    pub amount: Quantity,
    /// Objects that were seen to be made and live.
    pub marks: u64,
    /// The parts; the rest is not attributed. Empty where too few were seen.
    pub parts: Vec<(StackId, Quantity)>,
    /// What was seen: the window, the stack, and the weight.
    sample: Vec<(u32, StackId, f64)>,
}

impl Divided {
    /// An amount that is known in parts, not by a sample.
    pub fn known(name: &str, parts: Vec<(StackId, Quantity)>, rest: Quantity) -> Divided {
        let mut amount = rest;
        parts.iter().for_each(|part| amount.add(part.1));
        Divided { name: name.to_owned(), amount, parts, ..Divided::default() }
    }

    /// What the parts add up to.
    pub fn attributed(&self) -> Quantity {
        let mut sum = Quantity::default();
        self.parts.iter().for_each(|part| sum.add(part.1));
        sum
    }

    /// What is not attributed.
    pub fn rest(&self) -> Quantity {
        self.amount.less(self.attributed())
    }

    /// The stack of each object that was seen.
    pub fn seen(&self) -> impl Iterator<Item = StackId> {
        self.sample.iter().map(|seen| seen.1)
    }
}

/// Divides what there is more of each type: as its newborns are, and what the collector does not track as what newborns
/// of other types own. `type_name` names the type at an address.
pub fn divide<'n>(
    counted: &[TypeAmount],
    newborns: &[Newborn],
    owners: &[NewbornOwner],
    type_name: &dyn Fn(Address) -> Option<&'n str>,
) -> Vec<Divided> {
    let mut of_type: FxHashMap<(&str, bool), Vec<&Newborn>> = FxHashMap::default();
    for newborn in newborns {
        if let Some(name) = type_name(newborn.birth.node.type_) {
            of_type.entry((name, newborn.is_tracked)).or_default().push(newborn);
        }
    }
    let grown = || counted.iter().filter(|counted| counted.more != Quantity::default());
    let of = |counted: &TypeAmount, amount: Quantity, is_tracked: bool| {
        by_marks(counted, amount, of_type.get(&(counted.name.as_str(), is_tracked)).map_or(&[][..], Vec::as_slice))
    };
    let tracked = |counted: &TypeAmount| of(counted, counted.more.less(counted.more_untracked), true);
    let mut divided: Vec<Divided> = grown().map(tracked).collect();
    let owned = owned(&divided, owners, type_name);
    for counted in grown().filter(|counted| counted.more_untracked != Quantity::default()) {
        let mut untracked = of(counted, counted.more_untracked, false);
        if let Some(sample) = owned.get(counted.name.as_str()).filter(|_| untracked.parts.is_empty()) {
            untracked.divide_as(sample.clone());
        }
        divided.push(untracked);
    }
    divided
}

/// What objects that were attributed own of each type: for each type the window, the stack, and how many.
fn owned<'n>(
    divided: &[Divided],
    owners: &[NewbornOwner],
    type_name: &dyn Fn(Address) -> Option<&'n str>,
) -> FxHashMap<&'n str, Vec<(u32, StackId, f64)>> {
    let grown: FxHashMap<&str, u64> =
        divided.iter().map(|of| (of.name.as_str(), of.attributed().objects)).filter(|of| of.1 > 0).collect();
    let mut of_type: FxHashMap<&str, Vec<&NewbornOwner>> = FxHashMap::default();
    for owner in owners {
        if let Some(name) = type_name(owner.newborn.birth.node.type_) {
            of_type.entry(name).or_default().push(owner);
        }
    }
    let mut owned: FxHashMap<&str, Vec<(u32, StackId, f64)>> = FxHashMap::default();
    for (name, owners) in of_type {
        let Some(&objects) = grown.get(name) else { continue };
        // The same newborns as those that divide the type.
        let owners = that_count(owners, |owner| &owner.newborn);
        let all: f64 = owners.iter().map(|owner| owner.newborn.weight).sum();
        for owner in owners {
            let each = owner.newborn.weight / all * objects as f64;
            for &(type_, share) in &owner.owned {
                if let Some(name) = type_name(type_) {
                    let seen = (owner.newborn.window, owner.newborn.birth.stack, each * share);
                    owned.entry(name).or_default().push(seen);
                }
            }
        }
    }
    owned
}

/// Of what was seen of a type, that which divides it. Windows that sleep see more, but less of the beginning of work:
/// they count where the others see too little.
fn that_count<T>(mut seen: Vec<&T>, newborn: impl Fn(&T) -> &Newborn) -> Vec<&T> {
    let is_even = |it: &&T| !newborn(it).is_of_naps;
    if seen.iter().filter(|it| is_even(it)).count() as u64 >= MARKS_MIN {
        seen.retain(is_even);
    }
    seen
}

fn by_marks(counted: &TypeAmount, amount: Quantity, newborns: &[&Newborn]) -> Divided {
    let marks = newborns.len() as u64;
    let newborns = that_count(newborns.to_vec(), |newborn| newborn);
    let seen = |newborn: &&Newborn| (newborn.window, newborn.birth.stack, newborn.weight);
    let sample: Vec<(u32, StackId, f64)> = newborns.iter().map(seen).collect();
    let mut divided = Divided { name: counted.name.clone(), amount, marks, sample, ..Divided::default() };
    if marks >= MARKS_MIN {
        divided.parts = parts(amount, &divided.sample);
    }
    divided
}

impl Divided {
    /// Divides as this sample, whose weights are numbers of objects; what is more than these has no stack.
    fn divide_as(&mut self, sample: Vec<(u32, StackId, f64)>) {
        let objects = (sample.iter().map(|seen| seen.2).sum::<f64>().round() as u64).min(self.amount.objects);
        let share = objects as f64 / self.amount.objects.max(1) as f64;
        let bytes = ((self.amount.bytes as f64 * share) as u64).min(self.amount.bytes);
        if objects > 0 {
            self.parts = parts(Quantity { objects, bytes }, &sample);
            self.sample = sample;
        }
    }
}

/// The parts of an amount, by stack.
fn parts(amount: Quantity, sample: &[(u32, StackId, f64)]) -> Vec<(StackId, Quantity)> {
    let mut weights: FxHashMap<StackId, f64> = FxHashMap::default();
    sample.iter().for_each(|&(_, stack, weight)| *weights.entry(stack).or_default() += weight);
    let mut weights: Vec<(StackId, f64)> = weights.into_iter().collect();
    weights.sort_unstable_by_key(|&(stack, _)| stack);
    let objects = in_parts(amount.objects, &weights);
    let bytes = in_parts(amount.bytes, &weights);
    let parts = weights.iter().zip(objects.into_iter().zip(bytes));
    parts.map(|(&(stack, _), (objects, bytes))| (stack, Quantity { objects, bytes })).collect()
}

/// Whole parts in proportion to weights that add up to the whole: each takes what is due when its turn comes.
fn in_parts(whole: u64, weights: &[(StackId, f64)]) -> Vec<u64> {
    let total: f64 = weights.iter().map(|&(_, weight)| weight).sum();
    let (mut so_far, mut given) = (0.0, 0);
    let last = weights.len().saturating_sub(1);
    let part = |(index, &(_, weight)): (usize, &(StackId, f64))| {
        so_far += weight;
        let due = if index == last { whole } else { (whole as f64 * so_far / total).round() as u64 };
        let part = due.min(whole).saturating_sub(given);
        given += part;
        part
    };
    weights.iter().enumerate().map(part).collect()
}

/// Half the width of the 95 % interval of the objects of each group of stacks. `groups` says to which group each stack
/// belongs, by id. `None` where nothing was seen.
///
/// Windows are resampled, since what was made in one window was made together. Windows that all saw the same say by
/// that only that nothing else is frequent, so an interval is never narrower than that of as many independent draws as
/// there were runs of objects of one group, or where there are few windows, as there are windows.
pub fn errors(
    divided: &[Divided],
    groups: &dyn Fn(StackId) -> Option<usize>,
    count: usize,
    seed: u64,
) -> Option<Vec<f64>> {
    let divided: Vec<(&Divided, u64)> = divided.iter().map(|of| (of, of.attributed().objects)).collect();
    let mut windows: Vec<u32> = divided.iter().flat_map(|of| of.0.sample.iter().map(|seen| seen.0)).collect();
    windows.sort_unstable();
    windows.dedup();
    if windows.is_empty() {
        return None;
    }
    let least = of_runs(&divided, groups, count);
    if windows.len() < 2 {
        return Some(least);
    }
    let index: FxHashMap<u32, usize> = windows.iter().copied().zip(0..).collect();
    let mut rng = Rng::with_seed(seed);
    let (mut sums, mut squares) = (vec![0.0; count], vec![0.0; count]);
    for _ in 0..RESAMPLES {
        let mut times = vec![0.0; windows.len()];
        (0..windows.len()).for_each(|_| times[rng.usize(..windows.len())] += 1.0);
        let mut totals = vec![0.0; count];
        for (of, attributed) in &divided {
            let weight = |&(window, _, weight): &(u32, StackId, f64)| {
                weight * index.get(&window).and_then(|&at| times.get(at)).copied().unwrap_or(0.0)
            };
            let all: f64 = of.sample.iter().map(weight).sum();
            for seen in of.sample.iter().filter(|_| all > 0.0) {
                if let Some(total) = groups(seen.1).and_then(|group| totals.get_mut(group)) {
                    *total += weight(seen) / all * *attributed as f64;
                }
            }
        }
        for ((sum, square), total) in sums.iter_mut().zip(&mut squares).zip(totals) {
            *sum += total;
            *square += total * total;
        }
    }
    let quantile = student((windows.len() - 1) as f64);
    let error = |(sum, square): (&f64, &f64)| {
        let mean = sum / RESAMPLES as f64;
        quantile * (square / RESAMPLES as f64 - mean * mean).max(0.0).sqrt()
    };
    Some(sums.iter().zip(&squares).map(error).zip(least).map(|(error, least)| error.max(least)).collect())
}

/// Half the widths of the intervals of each group, as if each run had been drawn by itself.
fn of_runs(divided: &[(&Divided, u64)], groups: &dyn Fn(StackId) -> Option<usize>, count: usize) -> Vec<f64> {
    let mut errors = vec![0.0; count];
    for (of, attributed) in divided {
        let mut shares: FxHashMap<usize, f64> = FxHashMap::default();
        let runs = runs(&of.sample, groups);
        let all: f64 = runs.iter().map(|run| run.1).sum();
        for (group, weight) in &runs {
            group.iter().for_each(|&group| *shares.entry(group).or_default() += weight / all);
        }
        let draws = draws(&of.sample, &runs);
        for (group, share) in shares {
            if let Some(error) = errors.get_mut(group) {
                let (low, high) = wilson(share, draws);
                *error += (high - share).max(share - low) * *attributed as f64;
            }
        }
    }
    errors
}

/// The most objects that functions may have made of which nothing was seen, with 95 % confidence.
pub fn unseen(divided: &[Divided]) -> u64 {
    let of_stacks = |stack: StackId| usize::try_from(stack).ok();
    let upper = |of: &Divided| wilson(0.0, draws(&of.sample, &runs(&of.sample, &of_stacks))).1;
    let of = |of: &Divided| upper(of) * of.attributed().objects as f64;
    divided.iter().map(of).sum::<f64>().ceil() as u64
}

/// A group, if it has one, and the weight of what it made without another one between.
type Streak = (Option<usize>, f64);

/// The runs of a sample, which is in order of birth within a window.
fn runs(sample: &[(u32, StackId, f64)], groups: &dyn Fn(StackId) -> Option<usize>) -> Vec<Streak> {
    let runs = sample.chunk_by(|a, b| a.0 == b.0 && groups(a.1) == groups(b.1));
    runs.map(|run| (groups(run[0].1), run.iter().map(|seen| seen.2).sum())).collect()
}

/// As many draws of equal weight would tell as much as these runs of a sample (L. Kish, *Survey Sampling*, 1965, 11.7).
fn draws(sample: &[(u32, StackId, f64)], runs: &[Streak]) -> f64 {
    let equal = |weights: &[f64]| {
        let (sum, squares) = weights.iter().fold((0.0, 0.0), |(sum, squares), it| (sum + it, squares + it * it));
        if squares > 0.0 { sum * sum / squares } else { 0.0 }
    };
    let windows: Vec<f64> =
        sample.chunk_by(|a, b| a.0 == b.0).map(|window| window.iter().map(|seen| seen.2).sum()).collect();
    let of_runs = equal(&runs.iter().map(|run| run.1).collect::<Vec<f64>>());
    if windows.len() < WINDOWS_MIN { of_runs.min(equal(&windows)) } else { of_runs }
}

/// The 95 % interval of a share (E. B. Wilson, *Probable inference*, JASA 22, 1927). It holds for any number of draws.
fn wilson(share: f64, draws: f64) -> (f64, f64) {
    /// The square of the quantile of the normal distribution.
    const SQUARE: f64 = 1.96 * 1.96;
    let middle = share * draws + SQUARE / 2.0;
    let half = (SQUARE * (share * (1.0 - share) * draws + SQUARE / 4.0)).max(0.0).sqrt();
    ((middle - half) / (draws + SQUARE), (middle + half) / (draws + SQUARE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::list_walk::ListNode;
    use crate::record::window::Birth;

    fn newborn(window: u32, stack: StackId, weight: f64) -> Newborn {
        let node = ListNode { head: Address(16), type_: Address(8) };
        Newborn { birth: Birth { node, stack, is_mark: true }, window, weight, is_of_naps: false, is_tracked: true }
    }

    fn counted(objects: u64) -> TypeAmount {
        TypeAmount { name: "A".into(), more: Quantity { objects, bytes: objects * 48 }, ..TypeAmount::default() }
    }

    #[test]
    fn parts_add_up_to_what_was_counted() {
        for whole in [0, 1, 2, 7, 1_000_003, u64::MAX / 4] {
            for weights in [&[1.0][..], &[1.0, 1.0, 1.0], &[0.6, 0.3, 0.1], &[1e-9, 1e9, 3.0]] {
                let weights: Vec<(StackId, f64)> = (0..).zip(weights.iter().copied()).collect();
                assert_eq!(in_parts(whole, &weights).iter().sum::<u64>(), whole, "{whole} {weights:?}");
            }
        }
    }

    #[test]
    fn a_type_is_divided_as_its_marks_are_and_not_at_all_by_few() {
        let newborns: Vec<Newborn> = (0..100).map(|n| newborn(n, if n % 10 < 6 { 1 } else { 2 }, 1.0)).collect();
        let name = |_: Address| Some("A");
        let divided = divide(&[counted(1000)], &newborns, &[], &name);
        let objects: Vec<(StackId, u64)> = divided[0].parts.iter().map(|part| (part.0, part.1.objects)).collect();
        assert_eq!(objects, [(1, 600), (2, 400)]);
        // Windows that sleep count where the others see too little.
        let napped = (0..100).map(|n| Newborn { is_of_naps: true, ..newborn(n, 1, 1.0) });
        let parts = |evenly: usize| {
            let all: Vec<Newborn> = newborns[..evenly].iter().copied().chain(napped.clone()).collect();
            divide(&[counted(1000)], &all, &[], &name)[0].parts.iter().map(|part| part.1.objects).collect::<Vec<u64>>()
        };
        assert_eq!((parts(30), parts(20)), (vec![600, 400], vec![933, 67]));
        assert!(divide(&[counted(1000)], &newborns[..29], &[], &name)[0].parts.is_empty());
        assert_eq!(divide(&[counted(1000)], &newborns[..29], &[], &|_| None)[0].marks, 0);
        assert!(divide(&[counted(0)], &newborns, &[], &name).is_empty());
    }

    #[test]
    fn what_is_owned_goes_with_its_owners_and_no_further() {
        let newborns: Vec<Newborn> = (0..100).map(|n| newborn(n, if n % 10 < 6 { 1 } else { 2 }, 1.0)).collect();
        let name = |address: Address| Some(if address == Address(8) { "A" } else { "str" });
        // Each owns one string, and half of another one.
        let owner = |&newborn: &Newborn| NewbornOwner { newborn, owned: vec![(Address(1), 1.0), (Address(1), 0.5)] };
        let owners: Vec<NewbornOwner> = newborns.iter().map(owner).collect();
        let strings = |objects| {
            let more = Quantity { objects, bytes: objects * 60 };
            TypeAmount { name: "str".into(), more, more_untracked: more, ..TypeAmount::default() }
        };
        for (grown, attributed) in [(5000, 1500), (700, 700)] {
            let divided = divide(&[counted(1000), strings(grown)], &newborns, &owners, &name);
            let of = divided.iter().find(|of| of.name == "str" && of.amount.objects == grown).unwrap();
            let (sixty, forty) = (attributed * 3 / 5, attributed * 2 / 5);
            assert_eq!(of.parts.iter().map(|part| part.1.objects).collect::<Vec<u64>>(), [sixty, forty]);
            assert_eq!(of.rest(), Quantity { objects: grown - attributed, bytes: (grown - attributed) * 60 });
        }
        // Of owners that are not attributed, what they own is not either.
        let divided = divide(&[counted(1000), strings(100)], &newborns[..20], &owners[..20], &name);
        assert!(divided.iter().all(|of| of.parts.is_empty()));
    }

    /// Of three windows that saw one function only, it may have made 44 to 100 %, and others up to 56 %.
    #[test]
    fn few_windows_that_agree_are_not_certain() {
        let newborns: Vec<Newborn> = (0..300).map(|n| newborn(n / 100, 1, 1.0)).collect();
        let divided = divide(&[counted(1000)], &newborns, &[], &|_: Address| Some("A"));
        let of_windows = |divided: &[Divided]| errors(divided, &|_| Some(0), 1, 1).unwrap()[0].round();
        assert_eq!((of_windows(&divided), unseen(&divided)), (562.0, 562));
        let one_window = divide(&[counted(1000)], &newborns[..100], &[], &|_: Address| Some("A"));
        assert_eq!((of_windows(&one_window), unseen(&one_window)), (793.0, 794));
        assert!(errors(&divide(&[counted(9)], &[], &[], &|_| None), &|_| Some(0), 1, 1).is_none());
    }

    /// 100 draws at a share of 0.6: the standard error is 0.049.
    #[test]
    fn errors_are_those_of_independent_windows() {
        let newborns: Vec<Newborn> = (0..100).map(|n| newborn(n, if n % 10 < 6 { 1 } else { 2 }, 1.0)).collect();
        let divided = divide(&[counted(1000)], &newborns, &[], &|_: Address| Some("A"));
        let errors = errors(&divided, &|stack| Some(stack as usize - 1), 2, 1).unwrap();
        assert!((errors[0] - 97.0).abs() < 25.0 && (errors[0] - errors[1]).abs() < 1e-6, "{errors:?}");
    }
}
