//! Which owners grow: the topmost path whose own objects become more at each look; its container is the suspect.

use rustc_hash::FxHashMap;

use crate::analysis::histogram::Amount;

use super::figures::{Figures, rises};
use super::paths::PathId;
use super::series::{Endings, Series};

/// Bytes by which one object must grow.
const BYTES_MIN: u64 = 8 << 10;
/// The share of the heap's growth that a region must explain: growth in all corners is no news unless it is most.
const REGION_SHARE: f64 = 0.5;
/// The share of growth that one part must explain to be named instead of the whole.
const EXPLAINS: f64 = 0.6;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspectKind {
    /// A container gets more and more objects.
    Container,
    /// One object becomes larger.
    Buffer,
    /// What is above an owner grows, at no place in particular.
    Region,
}

impl SuspectKind {
    /// The figures whose growth tells: objects, or bytes where their number stays.
    pub fn telling<'f>(self, counts: &'f Figures, bytes: &'f Figures) -> &'f Figures {
        if self == SuspectKind::Container { counts } else { bytes }
    }
}

/// Something that grew at each look.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// What grows.
    pub kind: SuspectKind,
    /// What holds it.
    pub container: PathId,
    /// The paths in it that grew, most growth first.
    pub growing: Vec<PathId>,
    /// Where most of the growth is.
    pub deepest: PathId,
    /// Objects of the first growing path.
    pub counts: Figures,
    /// What the growing paths retain. Of a buffer, its own bytes.
    pub bytes: Figures,
}

impl Suspect {
    /// The figures whose growth tells: objects, or bytes where their number stays.
    pub fn telling(&self) -> &Figures {
        self.kind.telling(&self.counts, &self.bytes)
    }
}

/// The least growth in objects that counts, over so many looks.
pub fn objects_min(looks: usize) -> u64 {
    looks.saturating_sub(1) as u64
}

/// Everything that grew at each look, by growth of what is retained, most first.
pub fn find(series: &Series) -> Vec<Suspect> {
    if series.len() < 2 {
        return Vec::new();
    }
    let search = Search::new(series);
    let mut suspects = search.containers();
    let regions = search.regions(&suspects);
    suspects.extend(regions);
    suspects.sort_by(|a, b| b.bytes.growth().total_cmp(&a.bytes.growth()).then(a.container.cmp(&b.container)));
    suspects
}

struct Search<'s> {
    series: &'s Series,
    /// Paths that continue each path.
    children: Vec<Vec<PathId>>,
    /// Own objects and retained bytes of the paths that grow in number.
    growing: Vec<Option<(Vec<u64>, Vec<u64>)>>,
}

impl<'s> Search<'s> {
    fn new(series: &'s Series) -> Search<'s> {
        let paths = &series.paths;
        let mut children: Vec<Vec<PathId>> = vec![Vec::new(); paths.len()];
        for path in paths.all() {
            if let Some(parent) = paths.parent(path) {
                children[parent.index()].push(path);
            }
        }
        // A path that was elsewhere at some looks: the same last two labels.
        let mut endings: Vec<Option<Endings>> = (0..series.len()).map(|_| None).collect();
        let mut growing = vec![None; paths.len()];
        for path in paths.all() {
            let own: Vec<Amount> = series.own(path).collect();
            let (Some(first), Some(last)) = (own.first(), own.last()) else { continue };
            if last.objects <= first.objects {
                continue;
            }
            let mut counts: Vec<u64> = own.iter().map(|amount| amount.objects).collect();
            let mut bytes: Vec<u64> = series.total(path).map(|amount| amount.bytes).collect();
            if let Some(ending) = paths.ending(path) {
                for look in (0..counts.len()).filter(|&look| own[look].objects == 0) {
                    let endings = endings[look].get_or_insert_with(|| series.endings(look));
                    if let Some((own, total)) = endings.get(&ending) {
                        (counts[look], bytes[look]) = (own.objects, total.bytes);
                    }
                }
            }
            let growth = counts[counts.len() - 1].saturating_sub(counts[0]);
            if growth >= objects_min(counts.len()) && rises(&counts) && rises(&bytes) {
                growing[path.index()] = Some((counts, bytes));
            }
        }
        Search { series, children, growing }
    }

    fn grows(&self, path: PathId) -> bool {
        self.growing[path.index()].is_some()
    }

    /// What a path is in. A root is in nothing but itself.
    fn container(&self, path: PathId) -> PathId {
        let paths = &self.series.paths;
        match paths.parent(path) {
            // "Held by native code" is nothing that somebody could change.
            Some(parent) if paths.depth(parent) == 0 && paths.is_unnamed(parent) => path,
            Some(parent) => parent,
            None => path,
        }
    }

    fn containers(&self) -> Vec<Suspect> {
        let (series, paths) = (self.series, &self.series.paths);
        let mut suspects: Vec<Suspect> = Vec::new();
        let mut of_container: Vec<Option<usize>> = vec![None; paths.len()];
        // Whether it grows, or something that it is in; and whether something in it does.
        let mut is_within = vec![false; paths.len()];
        let mut has_within = vec![false; paths.len()];
        for path in paths.all() {
            let below = paths.parent(path).is_some_and(|parent| is_within[parent.index()]);
            is_within[path.index()] = below || self.grows(path);
            if self.grows(path) {
                for at in paths.upwards(path) {
                    has_within[at.index()] = true;
                }
            }
            let (Some((counts, bytes)), false) = (&self.growing[path.index()], below) else { continue };
            let container = self.container(path);
            let (counts, bytes) = (series.timed(counts.clone()), series.timed(bytes.clone()));
            match of_container[container.index()].and_then(|index| suspects.get_mut(index)) {
                Some(suspect) => suspect.join(path, &bytes),
                None => {
                    of_container[container.index()] = Some(suspects.len());
                    let growing = vec![path];
                    let kind = SuspectKind::Container;
                    suspects.push(Suspect { kind, container, growing, deepest: path, counts, bytes });
                }
            }
        }
        for path in paths.all().filter(|path| !is_within[path.index()] && !has_within[path.index()]) {
            let own: Vec<Amount> = series.own(path).collect();
            let (Some(first), Some(last)) = (own.first(), own.last()) else { continue };
            let bytes: Vec<u64> = own.iter().map(|amount| amount.bytes).collect();
            let is_one = own.iter().all(|amount| amount.objects == first.objects);
            if is_one && last.bytes.saturating_sub(first.bytes) >= BYTES_MIN && rises(&bytes) {
                suspects.push(self.alone(SuspectKind::Buffer, path, &own));
            }
        }
        for suspect in &mut suspects {
            suspect.growing.sort_by_key(|&path| (std::cmp::Reverse(series.growth(path)), path));
            if let Some((counts, _)) = &self.growing[suspect.growing[0].index()] {
                suspect.counts.values.clone_from(counts);
            }
            suspect.deepest = self.deepest(suspect.growing[0], suspect.bytes.growth(), |path| series.growth(path));
        }
        suspects
    }

    /// A suspect that is its own container.
    fn alone(&self, kind: SuspectKind, path: PathId, amounts: &[Amount]) -> Suspect {
        let series = self.series;
        Suspect {
            kind,
            container: path,
            growing: vec![path],
            deepest: path,
            counts: series.timed(amounts.iter().map(|amount| amount.objects).collect()),
            bytes: series.timed(amounts.iter().map(|amount| amount.bytes).collect()),
        }
    }

    /// From a path on, down to where one child no longer explains most of some growth.
    fn deepest(&self, from: PathId, whole: f64, growth: impl Fn(PathId) -> i64) -> PathId {
        let mut at = from;
        loop {
            let largest = self.children[at.index()].iter().copied().max_by_key(|&child| growth(child));
            match largest.filter(|&child| growth(child) as f64 >= EXPLAINS * whole) {
                Some(child) => at = child,
                None => return at,
            }
        }
    }

    /// Roots above which more grows than suspects explain, each narrowed down to where most of that is.
    fn regions(&self, suspects: &[Suspect]) -> Vec<Suspect> {
        let (series, paths) = (self.series, &self.series.paths);
        // What suspects explain of each path, at each look: what grows in a container, and the container itself.
        let mut explained: FxHashMap<PathId, Vec<Amount>> = FxHashMap::default();
        let mut explain = |path: PathId, amounts: &[Amount]| {
            for at in paths.upwards(path) {
                let sums = explained.entry(at).or_insert_with(|| vec![Amount::default(); series.len()]);
                sums.iter_mut().zip(amounts).for_each(|(sum, &amount)| sum.add(amount));
            }
        };
        for suspect in suspects {
            suspect.growing.iter().for_each(|&path| explain(path, &series.total(path).collect::<Vec<Amount>>()));
            if !suspect.growing.contains(&suspect.container) {
                explain(suspect.container, &series.own(suspect.container).collect::<Vec<Amount>>());
            }
        }
        let rest = |path: PathId| -> Vec<Amount> {
            let mut amounts: Vec<Amount> = series.total(path).collect();
            for (amount, part) in amounts.iter_mut().zip(explained.get(&path).into_iter().flatten()) {
                amount.objects = amount.objects.saturating_sub(part.objects);
                amount.bytes = amount.bytes.saturating_sub(part.bytes);
            }
            amounts
        };
        let growth = |path: PathId| {
            let bytes: Vec<u64> = rest(path).iter().map(|amount| amount.bytes).collect();
            if rises(&bytes) { bytes[bytes.len() - 1] as i64 - bytes[0] as i64 } else { 0 }
        };
        let mut regions = Vec::new();
        for root in paths.all().filter(|&path| paths.parent(path).is_none() && !paths.is_unnamed(path)) {
            let whole = growth(root);
            if whole < BYTES_MIN as i64 || (whole as f64) < REGION_SHARE * series.heap_bytes().growth() {
                continue;
            }
            let narrowed = self.deepest(root, whole as f64, growth);
            regions.push(self.alone(SuspectKind::Region, narrowed, &rest(narrowed)));
        }
        regions
    }
}

impl Suspect {
    /// Adds another path of the same container that grows.
    fn join(&mut self, path: PathId, bytes: &Figures) {
        self.bytes.values.iter_mut().zip(&bytes.values).for_each(|(sum, bytes)| *sum = sum.saturating_add(*bytes));
        self.growing.push(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rising(from: u64, by: u64, size: u64) -> Vec<(u64, u64)> {
        (0..7).map(|look| (from + by * look, size * (from + by * look))).collect()
    }

    fn still(objects: u64, bytes: u64) -> Vec<(u64, u64)> {
        vec![(objects, bytes); 7]
    }

    #[test]
    fn the_container_of_the_topmost_path_that_grows_is_the_suspect() {
        let mut series = Series::of_rows(&[
            ("app", still(1, 100)),
            ("app/CACHE dict", still(1, 4000)),
            ("app/CACHE dict/[…] Session", rising(1000, 50, 64)),
            ("app/CACHE dict/[…] Session/rows list", rising(1000, 50, 500)),
            ("app/CACHE dict/[…] Session/user User", still(1000, 64)),
            ("app/LOG list", still(1, 4000)),
            ("app/LOG list/[…] str", still(500, 40_000)),
        ]);
        let suspects = find(&series);
        let container = series.path("app/CACHE dict");
        let rows = series.path("app/CACHE dict/[…] Session/rows list");
        assert_eq!(suspects.len(), 1, "{suspects:?}");
        assert_eq!((suspects[0].container, suspects[0].deepest), (container, rows));
        assert_eq!((suspects[0].counts.growth(), suspects[0].bytes.growth()), (300.0, 300.0 * 564.0));
        let types = series.types(|path| suspects[0].growing.contains(&path));
        let objects: Vec<(&str, i64)> = types.iter().map(|grown| (grown.name.as_str(), grown.objects())).collect();
        assert_eq!(objects, [("Session", 300), ("list", 300)]);
    }

    #[test]
    fn what_wanders_or_hardly_grows_is_none() {
        let wandering = [10u64, 30, 20, 40, 35, 50, 60].map(|n| (n, 64 * n)).to_vec();
        let series = Series::of_rows(&[
            ("app/OPEN dict/[…] Order", wandering),
            ("app/FEW list/[…] Order", vec![(1, 64), (2, 128), (3, 192), (4, 256), (5, 320), (6, 384), (6, 384)]),
        ]);
        assert!(find(&series).is_empty());
    }

    #[test]
    fn a_buffer_grows_by_itself() {
        let bytes = |look: u64| (1, 10_000 + 5_000 * look);
        let mut series = Series::of_rows(&[("app/BUFFER bytearray", (0..7).map(bytes).collect())]);
        let suspects = find(&series);
        assert_eq!(suspects.len(), 1, "{suspects:?}");
        assert_eq!(suspects[0].kind, SuspectKind::Buffer);
        assert_eq!(suspects[0].container, series.path("app/BUFFER bytearray"));
    }

    #[test]
    fn what_moves_is_followed_by_its_last_labels() {
        let all = rising(100, 20, 80);
        let (before, after): (Vec<_>, Vec<_>) =
            (0..7).map(|look| if look < 3 { (all[look], (0, 0)) } else { ((0, 0), all[look]) }).unzip();
        let mut series =
            Series::of_rows(&[("shared by a/rows list/[…] Row", before), ("app/rows list/[…] Row", after)]);
        let suspects = find(&series);
        assert_eq!(suspects.len(), 1, "{suspects:?}");
        assert_eq!(suspects[0].container, series.path("app/rows list"));
        assert_eq!(suspects[0].counts.growth(), 120.0);
    }

    #[test]
    fn growth_at_many_places_is_a_region() {
        // A thousand users, each with another attribute that grows once.
        let mut rows: Vec<(String, Vec<(u64, u64)>)> = Vec::new();
        for user in 0..60u64 {
            let sizes = (0..7).map(|look| (1, if user % 6 < look { 9000 } else { 100 })).collect();
            rows.push((format!("app/user{} User", char::from_u32(0x4e00 + user as u32).expect("a letter")), sizes));
        }
        let rows: Vec<(&str, Vec<(u64, u64)>)> =
            rows.iter().map(|(row, sizes)| (row.as_str(), sizes.clone())).collect();
        let mut series = Series::of_rows(&rows);
        let suspects = find(&series);
        assert_eq!(suspects.len(), 1, "{suspects:?}");
        assert_eq!((suspects[0].kind, suspects[0].container), (SuspectKind::Region, series.path("app")));
    }
}
