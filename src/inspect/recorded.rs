//! What a recording has found, and its answers.

use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::process::Address;
use crate::record::newborns::Newborns;
use crate::record::profile::{FrameName, MergeBy, Naming, Profile, frame_name};
use crate::record::shares::{self, Divided, NewbornOwner, Quantity, TypeAmount};
use crate::record::stacks::{StackId, Stacks};

/// Which amount is divided among stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmountOf {
    /// How much more there is of each type than at the start.
    Growth,
    /// What was made, whether it lives or not, as far as it was seen: a lower bound. Tracked objects only; bytes are
    /// not known.
    Allocated,
}

/// What was recorded.
#[derive(Debug)]
pub struct Recording {
    /// How each type grew from the first census to the last. `None` where there is only one.
    pub growth: Option<Vec<TypeAmount>>,
    /// Objects that were seen to be made, and live as far as is known.
    pub newborns: Newborns,
    /// What some of those that live own at the end.
    pub owners: Vec<NewbornOwner>,
    /// Names of types, by address.
    pub type_names: FxHashMap<Address, String>,
    /// Their stacks.
    pub stacks: Stacks,
    /// How long.
    pub seconds: f64,
    /// The target's memory over time.
    pub moments: Vec<Moment>,
    /// How it went.
    pub course: Course,
}

/// How a recording went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Course {
    /// The random generator's seed.
    pub seed: u64,
    /// Windows, and of these, those at whose end the collector's lists changed too fast to be read.
    pub windows: u64,
    /// See `windows`.
    pub torn_windows: u64,
    /// Looks in them.
    pub looks: u64,
    /// Looks that found the same thread at work as the look before, and of these, those that found it in other
    /// functions. What such functions make is given to the one that is found next.
    pub pairs_of_looks: u64,
    /// See `pairs_of_looks`.
    pub changed_functions: u64,
    /// Looks that found a new object, and of these, those whose stack could not be read.
    pub new_objects: u64,
    /// See `new_objects`.
    pub torn_stacks: u64,
    /// Time watched.
    pub watched_seconds: f64,
    /// Processor time that windows took.
    pub cpu_seconds: f64,
    /// Censuses.
    pub censuses: u64,
    /// Warnings for the reader.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// One observation of the process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moment {
    /// Seconds since the recording began.
    pub seconds: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Live objects, where they were counted at that moment.
    pub heap_objects: Option<u64>,
    /// Collections of each generation so far, youngest first. `None` in free-threaded builds.
    pub collections: Option<[u64; 3]>,
}

impl Recording {
    /// An amount, divided among stacks. `None` where it was not counted.
    pub fn profile(&self, of: AmountOf, naming: Naming) -> Option<Profile> {
        let divided = match of {
            AmountOf::Growth => self.divided(self.growth.as_ref()?),
            AmountOf::Allocated => self.allocated(),
        };
        Some(Profile::new(&divided, &self.stacks, naming, self.course.seed))
    }

    fn divided(&self, counted: &[TypeAmount]) -> Vec<Divided> {
        shares::divide(counted, self.newborns.alive(), &self.owners, &|address| self.type_name(address))
    }

    fn type_name(&self, address: Address) -> Option<&str> {
        self.type_names.get(&address).map(String::as_str)
    }

    fn allocated(&self) -> Vec<Divided> {
        let quantity = |objects: f64| Quantity { objects: objects.round() as u64, bytes: 0 };
        let mut parts: Vec<(StackId, Quantity)> =
            self.newborns.made.iter().map(|(&stack, &made)| (stack, quantity(made))).collect();
        parts.sort_unstable_by_key(|part| part.0);
        let seen = Divided::known("objects of any type", parts, Quantity::default());
        let rest = quantity(self.newborns.made_without_stack);
        let others = Divided::known("objects whose stack was not seen", Vec::new(), rest);
        vec![seen, others]
    }

    /// The lines on which newborns of some types were made that live, and how many were seen of each; most first.
    /// `wanted` is asked of full names of types.
    pub fn lines_of(&self, show_values: bool, wanted: impl Fn(&str) -> bool) -> Vec<(FrameName, f64)> {
        let naming = Naming { by: MergeBy::Line, show_values };
        let mut seen: FxHashMap<FrameName, f64> = FxHashMap::default();
        for newborn in self.newborns.alive() {
            if !self.type_name(newborn.birth.node.type_).is_some_and(&wanted) {
                continue;
            }
            let stack = self.stacks.stacks.get(newborn.birth.stack as usize);
            if let Some(name) = stack.and_then(|stack| frame_name(&self.stacks, *stack.frames.last()?, naming)) {
                *seen.entry(name).or_default() += newborn.weight;
            }
        }
        let mut lines: Vec<(FrameName, f64)> = seen.into_iter().collect();
        lines.sort_by(|(a_name, a), (b_name, b)| b.total_cmp(a).then_with(|| a_name.cmp(b_name)));
        lines
    }
}
