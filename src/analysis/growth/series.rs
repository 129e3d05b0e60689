//! Looks at the owners of one heap, one after another.

use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::analysis::histogram::Amount;
use crate::analysis::owners::Owners;

use super::figures::Figures;
use super::moves::{self, Presence};
use super::paths::{PathId, PathTable};

/// What one look found.
#[derive(Debug, Default)]
struct Look {
    at: Duration,
    /// Of each path, what is there; shorter than the table where later looks found more paths.
    own: Vec<Amount>,
    /// How many objects it names, without their parts.
    things: Vec<u64>,
    /// The same with all that is above it.
    total: Vec<Amount>,
    whole: Amount,
    garbage: Amount,
}

impl Look {
    /// Adds up what is above each path.
    fn add_up(&mut self, paths: &PathTable) {
        self.total.clone_from(&self.own);
        self.total.resize(paths.len(), Amount::default());
        for path in paths.all().rev() {
            let amount = self.total[path.index()];
            if let Some(parent) = paths.parent(path) {
                self.total[parent.index()].add(amount);
            }
        }
    }
}

/// Some looks at a heap.
#[derive(Debug, Default)]
pub struct Series {
    /// The paths of all looks.
    pub paths: PathTable,
    looks: Vec<Look>,
}

/// How objects of a type grew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeGrowth {
    /// Its name.
    pub name: String,
    /// At the first look.
    pub before: Amount,
    /// At the last one.
    pub after: Amount,
}

impl TypeGrowth {
    /// Objects more; negative where there are fewer.
    pub fn objects(&self) -> i64 {
        self.after.objects as i64 - self.before.objects as i64
    }

    /// Bytes more.
    pub fn bytes(&self) -> i64 {
        self.after.bytes as i64 - self.before.bytes as i64
    }

    /// Most objects first.
    pub fn sort(types: &mut [TypeGrowth]) {
        types.sort_by(|a, b| (b.objects(), &a.name).cmp(&(a.objects(), &b.name)));
    }
}

/// Two lists as one, most objects first.
pub fn merged(mut types: Vec<TypeGrowth>, more: &[TypeGrowth]) -> Vec<TypeGrowth> {
    for grown in more {
        match types.iter_mut().find(|other| other.name == grown.name) {
            Some(other) => {
                other.before.add(grown.before);
                other.after.add(grown.after);
            }
            None => types.push(grown.clone()),
        }
    }
    TypeGrowth::sort(&mut types);
    types
}

/// A path of the tree of owners, and its own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawnPath {
    /// Its labels, from the root.
    pub frames: Vec<String>,
    /// Its bytes at the first look.
    pub before: u64,
    /// Its bytes at the last look.
    pub after: u64,
}

impl Series {
    /// Adds a look, and returns the path of each frame of its owners.
    pub fn add(&mut self, at: Duration, owners: &Owners) -> Vec<PathId> {
        let (frames, own) = (&owners.frames().frames, owners.own());
        let mut path_of: Vec<PathId> = Vec::with_capacity(frames.len());
        let mut amounts: Vec<(PathId, Amount, u64)> = Vec::with_capacity(frames.len());
        for (frame, &own) in frames.iter().zip(own) {
            let parent = frame.parent.and_then(|parent| path_of.get(parent as usize)).copied();
            let path = self.paths.of_frame(parent, frame);
            path_of.push(path);
            amounts.push((path, own, frame.things()));
        }
        self.push(at, amounts, owners.garbage());
        path_of
    }

    fn push(&mut self, at: Duration, amounts: impl IntoIterator<Item = (PathId, Amount, u64)>, garbage: Amount) {
        let (mut own, mut things) = (vec![Amount::default(); self.paths.len()], vec![0; self.paths.len()]);
        for (path, amount, of_these) in amounts {
            own[path.index()].add(amount);
            things[path.index()] += of_these;
        }
        let mut whole = garbage;
        own.iter().for_each(|&amount| whole.add(amount));
        let mut look = Look { at, own, things, whole, garbage, ..Look::default() };
        look.add_up(&self.paths);
        self.looks.push(look);
        self.follow_moves();
    }

    /// Counts what was elsewhere at earlier looks where it is now.
    fn follow_moves(&mut self) {
        let Series { paths, looks } = self;
        let [before @ .., now] = looks.as_slice() else { return };
        let objects = |look: &Look, path: PathId| look.own.get(path.index()).map_or(0, |own| own.objects);
        let presence = |path: PathId| Presence {
            last: before.iter().rev().map(|look| objects(look, path)).find(|&objects| objects > 0).unwrap_or(0),
            before: before.last().map_or(0, |look| objects(look, path)),
            now: objects(now, path),
        };
        let have_met = |one, other| before.iter().any(|look| objects(look, one) > 0 && objects(look, other) > 0);
        let moves = if before.is_empty() { Vec::new() } else { moves::find(paths, presence, have_met) };
        if moves.is_empty() {
            return;
        }
        for look in looks {
            look.own.resize(paths.len(), Amount::default());
            look.things.resize(paths.len(), 0);
            for &(from, to) in &moves {
                let moved = std::mem::take(&mut look.own[from.index()]);
                look.own[to.index()].add(moved);
                look.things[to.index()] += std::mem::take(&mut look.things[from.index()]);
            }
            look.add_up(paths);
        }
    }

    /// How many looks there are.
    pub fn len(&self) -> usize {
        self.looks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.looks.is_empty()
    }

    fn figures(&self, value: impl Fn(&Look) -> u64) -> Figures {
        let first = self.looks.first().map_or(Duration::ZERO, |look| look.at);
        let at = self.looks.iter().map(|look| look.at.saturating_sub(first)).collect();
        Figures { at, values: self.looks.iter().map(value).collect() }
    }

    /// Objects and bytes that a path leads to, without what is above it, at each look.
    pub fn own(&self, path: PathId) -> impl Iterator<Item = Amount> + '_ {
        self.looks.iter().map(move |look| look.own.get(path.index()).copied().unwrap_or_default())
    }

    /// How many objects a path names at each look, without parts of them that have no name.
    pub fn things(&self, path: PathId) -> impl Iterator<Item = u64> + '_ {
        self.looks.iter().map(move |look| look.things.get(path.index()).copied().unwrap_or(0))
    }

    /// What [`Series::own`] gives, with all above it.
    pub fn total(&self, path: PathId) -> impl Iterator<Item = Amount> + '_ {
        self.looks.iter().map(move |look| look.total.get(path.index()).copied().unwrap_or_default())
    }

    /// Some values, one for each look, with their times.
    pub fn timed(&self, values: Vec<u64>) -> Figures {
        Figures { values, ..self.figures(|_| 0) }
    }

    /// Bytes of the whole heap.
    pub fn heap_bytes(&self) -> Figures {
        self.figures(|look| look.whole.bytes)
    }

    /// Objects of the whole heap.
    pub fn heap_objects(&self) -> Figures {
        self.figures(|look| look.whole.objects)
    }

    /// Objects that no root reaches.
    pub fn garbage(&self) -> Figures {
        self.figures(|look| look.garbage.objects)
    }

    /// Their bytes.
    pub fn garbage_bytes(&self) -> Figures {
        self.figures(|look| look.garbage.bytes)
    }

    /// How much more a path leads to, with all above it, at the last look than at the first, in bytes.
    pub fn growth(&self, path: PathId) -> i64 {
        let bytes = |look: Option<&Look>| {
            look.and_then(|look| look.total.get(path.index())).map_or(0, |amount| amount.bytes as i64)
        };
        bytes(self.looks.last()) - bytes(self.looks.first())
    }

    /// The tree of owners at the first look and at the last, in bytes: what is too small to be seen counts for what is
    /// below it. The bytes of all add up to the heap without garbage.
    pub fn drawn(&self) -> Vec<DrawnPath> {
        /// One part of the heap in so many is seen: half a pixel of a picture.
        const SEEN: u64 = 2000;
        let (Some(first), Some(last)) = (self.looks.first(), self.looks.last()) else { return Vec::new() };
        let bytes = |amounts: &[Amount], path: PathId| amounts.get(path.index()).map_or(0, |amount| amount.bytes);
        let least = first.whole.bytes.max(last.whole.bytes) / SEEN;
        let is_seen = |path: PathId| {
            self.paths.parent(path).is_none() || bytes(&first.total, path).max(bytes(&last.total, path)) > least
        };
        let mut of: Vec<(u64, u64)> =
            self.paths.all().map(|path| (bytes(&first.own, path), bytes(&last.own, path))).collect();
        // Each after the one that it continues.
        for path in self.paths.all().rev().filter(|&path| !is_seen(path)) {
            if let Some(parent) = self.paths.parent(path) {
                let (before, after) = std::mem::take(&mut of[path.index()]);
                of[parent.index()].0 += before;
                of[parent.index()].1 += after;
            }
        }
        let drawn = |path: PathId| {
            let (before, after) = of[path.index()];
            if before == 0 && after == 0 {
                return None;
            }
            let mut frames: Vec<String> = self.paths.upwards(path).map(|at| self.paths.label_text(at)).collect();
            frames.reverse();
            Some(DrawnPath { frames, before, after })
        };
        self.paths.all().filter_map(drawn).collect()
    }

    /// How objects grew by type, in each of `groups` groups and in none of them (the last of the list), most objects
    /// first. `group_of` a path counts for what is above it, as far as that has no group of its own.
    pub fn types(&self, groups: usize, group_of: impl Fn(PathId) -> Option<usize>) -> Vec<Vec<TypeGrowth>> {
        let mut types: Vec<FxHashMap<&str, TypeGrowth>> = vec![FxHashMap::default(); groups + 1];
        let mut groups_of: Vec<usize> = vec![groups; self.paths.len()];
        let (first, last) = (self.looks.first(), self.looks.last());
        let amount = |look: Option<&Look>, path: PathId| {
            let own = look.and_then(|look| look.own.get(path.index())).copied().unwrap_or_default();
            let things = look.and_then(|look| look.things.get(path.index())).copied().unwrap_or(0);
            Amount { objects: things, bytes: own.bytes }
        };
        for path in self.paths.all() {
            let below = || self.paths.parent(path).map(|parent| groups_of[parent.index()]);
            let group = group_of(path).or_else(below).unwrap_or(groups).min(groups);
            groups_of[path.index()] = group;
            let (before, after) = (amount(first, path), amount(last, path));
            if let Some(name) = self.paths.type_name(path).filter(|_| before != after) {
                let growth = types[group].entry(name).or_default();
                growth.before.add(before);
                growth.after.add(after);
            }
        }
        let sorted = |types: FxHashMap<&str, TypeGrowth>| {
            let named = types.into_iter().map(|(name, growth)| TypeGrowth { name: name.to_owned(), ..growth });
            let mut types: Vec<TypeGrowth> = named.filter(|growth| growth.before != growth.after).collect();
            TypeGrowth::sort(&mut types);
            types
        };
        types.into_iter().map(sorted).collect()
    }
}

#[cfg(test)]
impl Series {
    /// A look every ten seconds: for each path (`a/b/c`, a type behind a space) how many objects and bytes it leads to.
    pub(crate) fn of_rows(rows: &[(&str, Vec<(u64, u64)>)]) -> Series {
        let mut series = Series::default();
        let mut paths = Vec::new();
        for (row, _) in rows {
            let mut at = None;
            for step in row.split('/') {
                let (step, type_name) = step.split_once(' ').map_or((step, None), |(step, name)| (step, Some(name)));
                at = Some(series.paths.add(at, step, type_name));
            }
            paths.push(at.expect("a row has a path"));
        }
        for look in 0..rows.iter().map(|(_, values)| values.len()).max().unwrap_or(0) {
            let amounts = rows.iter().zip(&paths).filter_map(|((_, values), &path)| {
                values.get(look).map(|&(objects, bytes)| (path, Amount { objects, bytes }, objects))
            });
            let amounts: Vec<(PathId, Amount, u64)> = amounts.collect();
            series.push(Duration::from_secs(10 * look as u64), amounts, Amount::default());
        }
        series
    }

    /// The path of a row.
    pub(crate) fn path(&mut self, row: &str) -> PathId {
        let mut at = None;
        for step in row.split('/') {
            let (step, type_name) = step.split_once(' ').map_or((step, None), |(step, name)| (step, Some(name)));
            at = Some(self.paths.add(at, step, type_name));
        }
        at.expect("a row has a path")
    }
}
