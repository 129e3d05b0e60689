//! Which owners grow: the topmost path whose own objects become more at each look; its container is the suspect.

use rustc_hash::FxHashMap;

use crate::analysis::histogram::Amount;

use super::figures::{Figures, rises};
use super::paths::PathId;
use super::series::Series;

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
    /// Objects of the type of the first growing path, on all of these.
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
        let mut growing = vec![None; paths.len()];
        for path in paths.all() {
            let counts: Vec<u64> = series.things(path).collect();
            let (Some(first), Some(last)) = (counts.first(), counts.last()) else { continue };
            if last.saturating_sub(*first) < objects_min(counts.len()).max(1) || !rises(&counts) {
                continue;
            }
            let bytes: Vec<u64> = series.total(path).map(|amount| amount.bytes).collect();
            if rises(&bytes) {
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
        // What a buffer keeps its bytes in is that buffer: the bytes object of a BytesIO, which getsizeof counts twice.
        let mut is_buffer = vec![false; paths.len()];
        for path in paths.all().filter(|path| !is_within[path.index()] && !has_within[path.index()]) {
            if paths.parent(path).is_some_and(|parent| is_buffer[parent.index()]) {
                is_buffer[path.index()] = true;
                continue;
            }
            let own: Vec<Amount> = series.own(path).collect();
            let (Some(first), Some(last)) = (own.first(), own.last()) else { continue };
            let bytes: Vec<u64> = own.iter().map(|amount| amount.bytes).collect();
            let is_one = own.iter().all(|amount| amount.objects == first.objects);
            if is_one && last.bytes.saturating_sub(first.bytes) >= BYTES_MIN && rises(&bytes) {
                is_buffer[path.index()] = true;
                suspects.push(self.alone(SuspectKind::Buffer, path, &own));
            }
        }
        for suspect in &mut suspects {
            suspect.growing.sort_by_key(|&path| (std::cmp::Reverse(series.growth(path)), path));
            // What became more, by whichever step it is reached: each object of the first path's type.
            let type_name = series.paths.type_name(suspect.growing[0]);
            suspect.counts.values.fill(0);
            for path in suspect.growing.iter().filter(|&&path| series.paths.type_name(path) == type_name) {
                let counts = self.growing[path.index()].iter().flat_map(|(counts, _)| counts);
                suspect.counts.values.iter_mut().zip(counts).for_each(|(sum, &count)| *sum = sum.saturating_add(count));
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
    use crate::analysis::growth::series::TypeGrowth;

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
        let types = series.types(1, |path| suspects[0].growing.contains(&path).then_some(0));
        let objects: Vec<(&str, i64)> = types[0].iter().map(|grown| (grown.name.as_str(), grown.objects())).collect();
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
        let mut series = Series::of_rows(&[
            ("app/FILE BytesIO", (0..7).map(bytes).collect()),
            ("app/FILE BytesIO/buf bytes", (0..7).map(bytes).collect()),
        ]);
        let suspects: Vec<PathId> = find(&series).iter().map(|suspect| suspect.container).collect();
        assert_eq!(suspects, [series.path("app/FILE BytesIO")]);
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
        // With its types: what was there before is no growth.
        let types = series.types(1, |path| suspects[0].growing.contains(&path).then_some(0));
        assert_eq!(types[0].iter().map(TypeGrowth::objects).collect::<Vec<_>>(), [120]);
    }

    #[test]
    fn what_is_new_does_not_hide_behind_what_stands() {
        let new = (0..7).map(|look: u64| (10 * look, 800 * look)).collect();
        let mut series =
            Series::of_rows(&[("app/OLD dict/rows list/[…] Row", still(500, 40_000)), ("app/rows list/[…] Row", new)]);
        let suspects = find(&series);
        assert_eq!(suspects.len(), 1, "{suspects:?}");
        assert_eq!(suspects[0].container, series.path("app/rows list"));
        assert_eq!(suspects[0].counts.values, [0, 10, 20, 30, 40, 50, 60]);
    }

    #[test]
    fn counts_are_of_all_paths_of_the_type() {
        let series = Series::of_rows(&[
            ("app/CACHE dict", still(1, 100)),
            ("app/CACHE dict/['…'] Session", rising(100, 10, 64)),
            ("app/CACHE dict/[…] Session", rising(200, 20, 64)),
            ("app/CACHE dict/<key> str", rising(300, 30, 50)),
        ]);
        let suspects = find(&series);
        assert_eq!(suspects.len(), 1, "{suspects:?}");
        assert_eq!((suspects[0].counts.values[0], suspects[0].counts.growth()), (300, 180.0));
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
