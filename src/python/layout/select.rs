//! Selects layout tables for a version: those whose range contains it, then neighbours of the same minor version.

use std::cmp::Reverse;

use serde::Deserialize;

use super::allocators::MimallocShape;
use super::{Layout, PublishedShape, Table};
use crate::python::version::Version;

/// The build options that change layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Build {
    /// A release build with the global interpreter lock.
    Default,
    /// `--disable-gil`.
    FreeThreaded,
    /// `--with-pydebug`.
    Debug,
    /// `--disable-gil` and `--with-pydebug`.
    DebugFreeThreaded,
}

/// A table that may fit. Cheap to copy: only [`Layout::load`] parses the table.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The table's name, as "3.13.18".
    pub name: &'static str,
    /// First version of the table's range.
    pub from: Version,
    /// Last version of the table's range.
    pub until: Version,
    /// Build of the table.
    pub build: Build,
    json: &'static str,
}

/// Embeds tables by name. The version ranges are repeated here so that selecting one needs no parsing; a test compares
/// both.
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
    /// All tables, ordered by version within each build.
    pub fn all() -> &'static [Candidate] {
        TABLES
    }

    /// Whether the table's own range contains the version. A pre-release counts as its release.
    pub fn is_exact(&self, version: Version) -> bool {
        self.distance(version) == 0
    }

    /// Whether the table is for a CPython patched by a distributor. Its range overlaps that of the original; only the
    /// proof on the target tells them apart.
    pub fn is_patched(&self) -> bool {
        self.name.contains("-debian")
    }

    /// The table as text, for tests that regenerate it.
    pub fn json(&self) -> &'static str {
        self.json
    }

    /// Distance between the range and the version, in micro versions.
    fn distance(&self, version: Version) -> u8 {
        let below = self.from.micro.saturating_sub(version.micro);
        let above = version.micro.saturating_sub(self.until.micro);
        below.max(above)
    }

    fn table(&self) -> Table {
        serde_json::from_str(self.json).expect("tables are part of the program, and a test parses every one")
    }

    /// Positions of this version's published offsets; `None` before 3.13.
    pub fn published_shape(&self) -> Option<PublishedShape> {
        self.table().debug_offsets
    }
}

impl Layout {
    /// Candidate tables, best first: those whose range contains the version (two if a distributor patches it, the
    /// original first), then others of the same minor version by distance. Empty for an unknown minor version: layouts
    /// differ too much between minor versions to guess.
    pub fn candidates(version: Version, build: Build) -> Vec<Candidate> {
        let same_minor = |c: &&Candidate| c.from.major == version.major && c.from.minor == version.minor;
        let mut candidates: Vec<_> = TABLES.iter().filter(|c| c.build == build).filter(same_minor).copied().collect();
        candidates.sort_by_key(|c| (c.distance(version), c.is_patched(), Reverse(c.from.micro)));
        candidates
    }

    /// Possible mimalloc layouts for a target with this layout: its own table's, then those of other tables for the
    /// same build, without duplicates. Empty before 3.13. The segments themselves tell which one applies.
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

    /// Parses a table.
    pub fn load(candidate: &Candidate) -> Layout {
        Layout::from_table(candidate.table())
    }
}
