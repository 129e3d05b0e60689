//! Which table fits a version? The one whose range holds it; else its neighbours of the same minor version.

use std::cmp::Reverse;

use serde::Deserialize;

use super::allocators::MimallocShape;
use super::{Layout, PublishedShape, Table};
use crate::python::version::Version;

/// How an interpreter was configured, as far as it changes layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Build {
    /// A release build with the global interpreter lock.
    Default,
    /// `--disable-gil`.
    FreeThreaded,
    /// `--with-pydebug`.
    Debug,
    /// Both.
    DebugFreeThreaded,
}

/// A table that may fit. Cheap: the table is parsed by [`Layout::load`] only.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The table's name, as "3.13.18".
    pub name: &'static str,
    /// The first version that the table holds for.
    pub from: Version,
    /// The last version that it holds for.
    pub until: Version,
    /// The build that it holds for.
    pub build: Build,
    json: &'static str,
}

/// Embeds tables by name. The version ranges stand here too, so that nothing is parsed to pick one;
/// a test holds the two together.
macro_rules! tables {
    ($($name:literal $build:ident $minor:literal $from:literal ..= $until:literal,)*) => {
        const TABLES: &[Candidate] = &[$(Candidate {
            name: $name,
            from: Version::release(3, $minor, $from),
            until: Version::release(3, $minor, $until),
            build: Build::$build,
            json: include_str!(concat!("tables/", $name, ".json")),
        },)*];
    };
}

tables! {
    "3.8.18" Default 8 0 ..= 255,
    "3.9.18" Default 9 0 ..= 255,
    "3.10.13" Default 10 0 ..= 255,
    "3.11.7" Default 11 0 ..= 255,
    "3.12.1" Default 12 0 ..= 255,
    "3.13.0" Default 13 0 ..= 12,
    "3.13.5-debian" Default 13 0 ..= 12,
    "3.13.15" Default 13 13 ..= 255,
    "3.13.18-debian" Default 13 13 ..= 255,
    "3.14.0" Default 14 0 ..= 3,
    "3.14.4" Default 14 4 ..= 4,
    "3.14.10" Default 14 5 ..= 255,
    "3.15.2" Default 15 0 ..= 255,
    "3.13.5t" FreeThreaded 13 0 ..= 12,
    "3.13.15t" FreeThreaded 13 13 ..= 255,
    "3.14.0t" FreeThreaded 14 0 ..= 3,
    "3.14.4t" FreeThreaded 14 4 ..= 4,
    "3.14.10t" FreeThreaded 14 5 ..= 255,
    "3.15.2t" FreeThreaded 15 0 ..= 255,
    "3.8.18-debug" Debug 8 0 ..= 255,
    "3.9.18-debug" Debug 9 0 ..= 255,
    "3.10.13-debug" Debug 10 0 ..= 255,
    "3.11.7-debug" Debug 11 0 ..= 255,
    "3.12.1-debug" Debug 12 0 ..= 255,
    "3.13.0-debug" Debug 13 0 ..= 12,
    "3.13.5-debian-debug" Debug 13 0 ..= 12,
    "3.13.15-debug" Debug 13 13 ..= 255,
    "3.13.18-debian-debug" Debug 13 13 ..= 255,
    "3.14.0-debug" Debug 14 0 ..= 3,
    "3.14.4-debug" Debug 14 4 ..= 4,
    "3.14.10-debug" Debug 14 5 ..= 255,
    "3.15.2-debug" Debug 15 0 ..= 255,
    "3.13.5t-debug" DebugFreeThreaded 13 0 ..= 12,
    "3.13.15t-debug" DebugFreeThreaded 13 13 ..= 255,
    "3.14.0t-debug" DebugFreeThreaded 14 0 ..= 3,
    "3.14.4t-debug" DebugFreeThreaded 14 4 ..= 4,
    "3.14.10t-debug" DebugFreeThreaded 14 5 ..= 255,
    "3.15.2t-debug" DebugFreeThreaded 15 0 ..= 255,
}

impl Candidate {
    /// Every table there is, in the order of versions within each build.
    pub fn all() -> &'static [Candidate] {
        TABLES
    }

    /// Whether the table's own range holds the version. Pre-releases count as the release that they precede.
    pub fn is_exact(&self, version: Version) -> bool {
        self.distance(version) == 0
    }

    /// Whether the table is of a CPython that a distributor patches: its range then overlaps that of the original,
    /// and only the proof against the target tells the two apart.
    pub fn is_patched(&self) -> bool {
        self.name.contains("-debian")
    }

    /// The table as text, for tests that regenerate it.
    pub fn json(&self) -> &'static str {
        self.json
    }

    /// How many micro versions lie between the range and the version.
    fn distance(&self, version: Version) -> u8 {
        let below = self.from.micro.saturating_sub(version.micro);
        let above = version.micro.saturating_sub(self.until.micro);
        below.max(above)
    }

    fn table(&self) -> Table {
        serde_json::from_str(self.json).expect("tables are part of the program, and a test parses every one")
    }

    /// Where this version's published offsets lie; `None` before 3.13.
    pub fn published_shape(&self) -> Option<PublishedShape> {
        self.table().debug_offsets
    }
}

impl Layout {
    /// The tables that may fit, best first: those whose range holds the version (two where a distributor patches this
    /// version, the original first), then the others of the same minor version by distance. None for a minor version
    /// that no table knows: layouts of different minor versions differ too much to guess.
    pub fn candidates(version: Version, build: Build) -> Vec<Candidate> {
        let same_minor = |c: &&Candidate| c.from.major == version.major && c.from.minor == version.minor;
        let mut candidates: Vec<_> = TABLES.iter().filter(|c| c.build == build).filter(same_minor).copied().collect();
        candidates.sort_by_key(|c| (c.distance(version), c.is_patched(), Reverse(c.from.micro)));
        candidates
    }

    /// How mimalloc's structs may lie in a target of this layout: as in its own table, then as in any other of its
    /// build, each once. None before 3.13. Which it is, the segments themselves tell.
    pub fn mimalloc_shapes(&self) -> Vec<MimallocShape> {
        let mut shapes: Vec<MimallocShape> = self.mimalloc_shape().into_iter().collect();
        if shapes.is_empty() {
            return shapes;
        }
        for candidate in TABLES.iter().filter(|candidate| candidate.build == self.build) {
            let shape = Layout::load(candidate).mimalloc_shape();
            shapes.extend(shape.filter(|shape| !shapes.contains(shape)));
        }
        shapes
    }

    fn mimalloc_shape(&self) -> Option<MimallocShape> {
        Some(MimallocShape { segment: self.mi_segment.clone()?, page: self.mi_page.clone()? })
    }

    /// Reads a table.
    pub fn load(candidate: &Candidate) -> Layout {
        Layout::from_table(candidate.table())
    }
}
