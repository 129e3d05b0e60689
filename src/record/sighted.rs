//! What was seen of one stack: the time that it ran, what was born then, and what became of that.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::stats::jackknife::{Groups, ratio, sum};

use super::recorder::Looks;
use super::watched::SeenIn;

/// Probes whose objects were in sight that are enough to do without those whose objects were lost.
const IN_SIGHT_MIN: usize = 10;

/// The lines of a stack's frames, and what was born there, by group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    /// Of instants: all that was seen to be born.
    pub(crate) instant_births: Groups,
    pub(crate) births: Groups,
    /// Of what was seen in instants, and in windows: of what was in sight, and of what was lost.
    pub(crate) fates: [[Fates; 2]; 2],
}

/// Adds what was seen elsewhere, group by group.
fn add(all: &mut Groups, more: &Groups) {
    all.iter_mut().zip(more).for_each(|(all, more)| *all += more);
}

impl Lines {
    /// Adds what was seen of the same lines elsewhere.
    pub(crate) fn add(&mut self, other: &Lines) {
        add(&mut self.instant_births, &other.instant_births);
        add(&mut self.births, &other.births);
        let fates = self.fates.iter_mut().flatten().zip(other.fates.iter().flatten());
        fates.for_each(|(all, more)| all.add(more));
    }

    pub(crate) fn fates(&self, basis: SeenIn, with_lost: bool) -> Fates {
        let [in_sight, lost] = &self.fates[basis as usize];
        let mut fates = in_sight.clone();
        if with_lost {
            fates.add(lost);
        }
        fates
    }
}

/// What became of objects that were remembered, by group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fates {
    pub(crate) remembered: Groups,
    pub(crate) bytes: Groups,
    pub(crate) alive: Groups,
    pub(crate) alive_bytes: Groups,
}

impl Fates {
    pub(crate) fn add(&mut self, other: &Fates) {
        add(&mut self.remembered, &other.remembered);
        add(&mut self.bytes, &other.bytes);
        add(&mut self.alive, &other.alive);
        add(&mut self.alive_bytes, &other.alive_bytes);
    }
}

/// What was seen of one stack, by group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) time: Groups,
    pub(crate) window_time: Groups,
    pub(crate) births: Groups,
    /// Of instants: all that was seen to be born.
    pub(crate) instant_births: Groups,
    /// All its instants.
    pub(crate) looks: Groups,
    /// What was seen between their looks, by [`Span`].
    pub(crate) instants: [Counted; 2],
    /// Windows in which something was born.
    pub(crate) window_sightings: u64,
    /// Probes and trains of which objects were remembered: whose were in sight, and whose were lost.
    pub(crate) probes: [[FxHashSet<u64>; 2]; 2],
    pub(crate) lines: FxHashMap<Vec<u32>, Lines>,
}

/// What was seen between two looks of a stack's instants, by group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    /// The time of those instants at which something was born.
    pub(crate) moving: Groups,
    /// How many of these could be read, and births in them.
    pub(crate) read: Groups,
    pub(crate) births: Groups,
    /// The seconds from look to look of all instants. Not of those alone at which something was born: these are longer than others.
    pub(crate) looked: Groups,
    /// Instants in which something was born.
    pub(crate) sightings: u64,
}

impl Counted {
    /// Adds what was seen of another stack.
    fn add_all(&mut self, other: &Counted) {
        add(&mut self.moving, &other.moving);
        add(&mut self.read, &other.read);
        add(&mut self.births, &other.births);
        add(&mut self.looked, &other.looked);
        self.sightings += other.sightings;
    }

    /// An instant that stands for so many seconds.
    pub(crate) fn add(&mut self, group: usize, seconds: f64, looks: &Looks) {
        self.looked[group] += looks.between;
        if !looks.is_moving {
            return;
        }
        self.moving[group] += seconds;
        let Some(births) = looks.births else { return };
        self.read[group] += 1.0;
        self.births[group] += births;
        self.sightings += u64::from(births > 0.0);
    }
}

/// Which looks of instants births are counted between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// The first two, in whose middle the stack was read: of births what was left some ten microseconds later.
    Middle,
    /// The second and the third: of births what was there at once.
    Further,
}

impl Seen {
    /// Adds what was seen of another stack.
    pub(crate) fn add(&mut self, other: Seen) {
        add(&mut self.time, &other.time);
        add(&mut self.window_time, &other.window_time);
        add(&mut self.births, &other.births);
        add(&mut self.instant_births, &other.instant_births);
        add(&mut self.looks, &other.looks);
        self.instants.iter_mut().zip(&other.instants).for_each(|(all, more)| all.add_all(more));
        self.window_sightings += other.window_sightings;
        let probes = self.probes.iter_mut().flatten().zip(other.probes.into_iter().flatten());
        probes.for_each(|(all, more)| all.extend(more));
        for (lines, seen) in other.lines {
            self.lines.entry(lines).or_default().add(&seen);
        }
    }

    /// Instants, or windows, that found births.
    pub(crate) fn sightings(&self, basis: SeenIn, span: Span) -> u64 {
        match basis {
            SeenIn::Instants => self.instants[span as usize].sightings,
            SeenIn::Windows => self.window_sightings,
        }
    }

    /// Whether so little of it was in sight that what was lost counts as well. The clock alone decided which was which.
    pub(crate) fn with_lost(&self, basis: SeenIn) -> bool {
        self.probes[basis as usize][0].len() < IN_SIGHT_MIN
    }

    /// The probes and trains that tell what became of its objects.
    pub(crate) fn probes(&self, basis: SeenIn) -> usize {
        let [in_sight, lost] = &self.probes[basis as usize];
        in_sight.len() + if self.with_lost(basis) { lost.len() } else { 0 }
    }

    /// What was remembered of all its lines.
    pub(crate) fn remembered(&self, basis: SeenIn) -> Groups {
        let mut all = Fates::default();
        self.lines.values().for_each(|lines| all.add(&lines.fates(basis, self.with_lost(basis))));
        all.remembered
    }
}

/// Births in a second of the instants at which something was born and could be read: those of one of them, over how long an instant
/// of these stacks is.
pub(crate) fn rate<'a>(stacks: impl Iterator<Item = &'a Seen>, span: Span, left_out: Option<usize>) -> f64 {
    let (mut births, mut read, mut looks, mut looked) = (0.0, 0.0, 0.0, 0.0);
    for seen in stacks {
        let counted = &seen.instants[span as usize];
        births += sum(&counted.births, left_out);
        read += sum(&counted.read, left_out);
        looks += sum(&seen.looks, left_out);
        looked += sum(&counted.looked, left_out);
    }
    ratio(births, read) * ratio(looks, looked)
}
