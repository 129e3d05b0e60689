//! Follows what is reached by another path than before: a list that a second owner now shares is the same list.
//!
//! A path that is gone moved to one that is new if both end with the same two labels and lead to about as many objects.
//! What still stands has not moved, however its path ends.

use rustc_hash::FxHashMap;

use super::paths::{LabelId, PathId, PathTable};

/// How many times as many objects there may be after a move, or before it.
const FACTOR_MAX: u64 = 2;

/// How many objects a path leads to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presence {
    /// When there were any last, before this look.
    pub last: u64,
    /// At the look before this one.
    pub before: u64,
    /// At this look.
    pub now: u64,
}

/// The paths whose objects are elsewhere now, and where. What continues a path that moved moves with it, to paths that
/// are added for it. `have_met`: whether two paths led to objects at one look.
pub fn find(
    paths: &mut PathTable,
    presence: impl Fn(PathId) -> Presence,
    have_met: impl Fn(PathId, PathId) -> bool,
) -> Vec<(PathId, PathId)> {
    let mut arrived: FxHashMap<(LabelId, LabelId), Vec<PathId>> = FxHashMap::default();
    for path in paths.all() {
        let Presence { before, now, .. } = presence(path);
        if let Some(ending) = paths.ending(path).filter(|_| before == 0 && now > 0) {
            arrived.entry(ending).or_default().push(path);
        }
    }
    if arrived.is_empty() {
        return Vec::new();
    }
    let mut moves = Vec::new();
    let mut to_of: FxHashMap<PathId, PathId> = FxHashMap::default();
    for path in paths.all() {
        let Presence { last, now, .. } = presence(path);
        let with_parent = paths.parent(path).and_then(|parent| to_of.get(&parent)).copied();
        let to = match (with_parent, paths.ending(path)) {
            _ if now > 0 => None,
            (Some(parent), _) => Some(paths.add_like(parent, path)),
            (None, Some(ending)) if last > 0 => {
                let new = arrived.get_mut(&ending);
                new.and_then(|new| {
                    let ratio = |other: PathId| {
                        let now = presence(other).now;
                        (now.max(last) as f64) / (now.min(last).max(1) as f64)
                    };
                    let fits = |&index: &usize| ratio(new[index]) <= FACTOR_MAX as f64 && !have_met(path, new[index]);
                    let nearest = (0..new.len()).filter(fits).min_by(|&a, &b| ratio(new[a]).total_cmp(&ratio(new[b])));
                    nearest.map(|nearest| new.swap_remove(nearest))
                })
            }
            _ => None,
        };
        if let Some(to) = to.filter(|&to| to != path) {
            to_of.insert(path, to);
            moves.push((path, to));
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_moved_and_what_stands_did_not() {
        let mut paths = PathTable::default();
        let mut rows = |root: &str| {
            let root = paths.add(None, root, None);
            let list = paths.add(Some(root), ".rows", Some("list"));
            let row = paths.add(Some(list), "[…]", Some("Row"));
            (row, paths.add(Some(row), ".user", Some("User")))
        };
        let (gone, standing, new) = (rows("shared by a"), rows("b"), rows("a"));
        let presence = |path: PathId| match path {
            path if path == gone.0 || path == gone.1 => Presence { last: 100, before: 100, now: 0 },
            path if path == standing.0 => Presence { last: 110, before: 110, now: 110 },
            path if path == new.0 || path == new.1 => Presence { last: 0, before: 0, now: 120 },
            _ => Presence { last: 1, before: 1, now: 1 },
        };
        let moves = find(&mut paths, presence, |_, _| false);
        assert_eq!(moves, [(gone.0, new.0), (gone.1, new.1)]);
        // Where both had objects at one look, one did not become the other.
        assert!(find(&mut paths, presence, |_, _| true).is_empty());
        let many = |path: PathId| match presence(path) {
            Presence { now: 120, .. } => Presence { last: 0, before: 0, now: 201 },
            other => other,
        };
        assert!(find(&mut paths, many, |_, _| false).is_empty());
    }
}
