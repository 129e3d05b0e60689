//! Who allocates, and what of it stays: estimates from windows.
//!
//! What is observed at each instant ([`crate::record::births`]): which stack ran, whether something was born between the two
//! looks (it *moved*), and how many were, where the list could be read. A stack's births are
//!
//! ```text
//! seconds x (instants that found it and moved / all instants) x (births / time between looks, of those that could be read)
//! ```
//!
//! The first factor needs no list: instants are drawn at random, so their shares are shares of time. The second one is a
//! rate, of births while something is born. A reading fails when the collector began, or when none of the objects is left that
//! were known before. All that happens only while the target runs, so an instant that could not be read must
//! not count like one at which nothing was born, or who collects often would be held to allocate little. It counts like
//! those of the same stack that moved and were read: that is the assumption, that among the moving instants of one stack
//! whether one can be read does not depend on how much was born in it (missing at random within classes; Little and Rubin,
//! *Statistical Analysis with Missing Data*, 2002, chapter 3). What moved on a stack that could not be read, or never
//! could be read, is *unattributed*, a figure of its own.
//!
//! Where instants say too little, because the target cannot run beside us, rates are those of windows whose ends agree,
//! and the first factor is all time that the stack was found. So a function whose calls are short, and which is therefore
//! seldom found at both ends of a window, is not held to allocate less than one whose calls are long.
//!
//! Totals are of the target as it runs while it is looked at, which is a little more slowly than otherwise: reading takes its
//! cache lines, and may take half of its core where two processors are one.
//!
//! Errors are a jackknife ([`crate::stats::jackknife`]) over clusters in random groups: probes and trains of some ten milliseconds, which
//! see the same, are left out together. What was not seen to vary may be what was seen too seldom: where all objects that were
//! remembered of a hundred probes have died, those of four in a hundred may live all the same. Of a stack of which no object was
//! remembered all may live, or none.
//!
//! Survivors and bytes come from the objects that were remembered, as shares of the births that they stand for; where rates are those
//! of instants, of objects seen in instants only, since what is born in a long window may be born in a call between its ends; and
//! where enough of them were in sight all the time, of those alone. Survivors are a difference, of objects in place and of those that
//! are known to be others, so that where none is alive their figure is about 0, not at least 0.

use rustc_hash::FxHashMap;

use crate::stats::jackknife::{Figure, Groups, ratio, sum};

use super::recorder::Instant;
use super::sighted::{Fates, Lines, Seen, Span, rate};
use super::stacks::StackId;
use super::watched::SeenIn;

/// Standard errors of this size are small enough: what they are an error of need not be compared any more.
const ERROR_SMALL: f64 = 0.05;
/// Births are many more where they are this part more, and by so many standard errors.
const MANY_MORE: f64 = 0.25;
const SURELY: f64 = 3.0;

/// What was allocated somewhere, and what of it is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Born {
    /// Objects.
    pub objects: Figure,
    /// Their shallow bytes soon after birth.
    pub bytes: Figure,
    /// Objects still alive at the end.
    pub alive: Figure,
    /// Their shallow bytes then.
    pub alive_bytes: Figure,
}

impl Born {
    /// Adds another place's.
    pub fn add(&mut self, other: &Born) {
        self.objects.add(&other.objects);
        self.bytes.add(&other.bytes);
        self.alive.add(&other.alive);
        self.alive_bytes.add(&other.alive_bytes);
    }
}

/// An object that was remembered, when nothing more can happen to it.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Where it was born.
    pub stack: StackId,
    /// The lines of that stack's frames.
    pub lines: Vec<u32>,
    /// Its type's name.
    pub type_name: String,
    /// In what its birth was seen.
    pub seen_in: SeenIn,
    /// The group of what was seen then.
    pub group: usize,
    /// The probe or train.
    pub probe: u64,
    /// How many births it stands for.
    pub weight: f64,
    /// Whether it was out of sight for too long ([`crate::record::batch`]).
    pub was_lost: bool,
    /// Shallow bytes soon after birth.
    pub bytes: u64,
    /// It is known to have died, and what is alive is another object in its place: so many others died unseen
    /// ([`crate::record::follow`]), and what is alive is not them either.
    pub missed: Option<f64>,
}

impl Remembered {
    /// For how many of the births of its window it counts, where it seems to live.
    fn counts_for(&self) -> f64 {
        self.weight * self.missed.map_or(1.0, |missed| -missed)
    }
}

/// How windows ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Both ends agreed.
    pub agreed: u64,
    /// They did not, or no Python ran.
    pub disagreed: u64,
    /// Of these, another thread held the lock at the end.
    pub switched: u64,
    /// The list could not be read.
    pub torn: u64,
    /// The collector ran.
    pub collected: u64,
    /// We were kept from looking in time.
    pub late: u64,
    /// Births seen in windows that agreed.
    pub births: u64,
    /// Births seen in the others.
    pub unattributed: u64,
}

/// All observations.
#[derive(Clone, Debug, Default)]
pub struct Allocations {
    /// How windows ended.
    pub outcomes: Outcomes,
    /// Instants at which births were read.
    pub instants: u64,
    seen: Vec<Seen>,
    time: Groups,
    /// Time of instants at which something was born on a stack that could not be read.
    lost: Groups,
    /// Windows that took as long as they should: seconds and births.
    short_time: Groups,
    short_births: Groups,
    /// Windows whose list was read, late ones too.
    readable_time: Groups,
    all_births: Groups,
    types: FxHashMap<String, FxHashMap<(StackId, Vec<u32>), Lines>>,
}

/// Whose births are reckoned, and by what.
struct Of<'a> {
    basis: SeenIn,
    span: Span,
    seen: &'a Seen,
    /// What was remembered of it.
    remembered: &'a Groups,
}

/// Where births of one window were seen: lines, and how many.
pub type BirthsAt<'a> = &'a [(Vec<u32>, f64)];

impl Allocations {
    fn seen(&mut self, stack: StackId) -> &mut Seen {
        let index = stack as usize;
        if self.seen.len() <= index {
            self.seen.resize_with(index + 1, Seen::default);
        }
        &mut self.seen[index]
    }

    /// Time that was looked at.
    pub fn time(&mut self, group: usize, seconds: f64) {
        self.time[group] += seconds;
    }

    /// Time in which something was born on a stack that could not be read.
    pub fn lost(&mut self, group: usize, seconds: f64) {
        self.lost[group] += seconds;
    }

    /// An instant that stands for so many seconds.
    pub fn instant(&mut self, group: usize, instant: &Instant, seconds: f64) {
        let seen = self.seen(instant.stack);
        seen.time[group] += seconds;
        seen.looks[group] += 1.0;
        seen.instants[Span::Middle as usize].add(group, seconds, &instant.middle);
        seen.instants[Span::Further as usize].add(group, seconds, &instant.further);
        let births = [instant.middle.counted(), instant.further.counted()];
        if births.iter().all(Option::is_none) {
            return;
        }
        let births: f64 = births.into_iter().flatten().sum();
        seen.lines.entry(instant.lines.clone()).or_default().instant_births[group] += births;
        seen.instant_births[group] += births;
        self.instants += 1;
    }

    /// A window whose list was read; births weighted. A late one took so long that its ends cannot be compared.
    pub fn window(&mut self, group: usize, seconds: f64, births: f64, is_late: bool) {
        self.readable_time[group] += seconds;
        self.all_births[group] += births;
        if !is_late {
            self.short_time[group] += seconds;
            self.short_births[group] += births;
        }
    }

    /// A window that agreed, on `stack`; seconds weighted, births to be.
    pub fn agreed(&mut self, group: usize, stack: StackId, seconds: f64, births: BirthsAt<'_>, weight: f64) {
        let seen = self.seen(stack);
        seen.window_time[group] += seconds;
        seen.window_sightings += u64::from(births.iter().any(|(_, births)| *births > 0.0));
        for (lines, births) in births {
            let births = births * weight;
            seen.births[group] += births;
            seen.lines.entry(lines.clone()).or_default().births[group] += births;
        }
    }

    /// Which rates are known better: those of instants or those of windows. The former rest on fewer assumptions, and are
    /// taken where they are good enough. What was sighted a few times is not known well, however much alike these were: no better
    /// than a count of so many.
    pub fn basis(&self) -> SeenIn {
        let error = |basis: SeenIn| {
            let of = |seen: &Seen| Figure::of(|left_out| self.total(basis, seen, Span::Middle, 1.0, left_out));
            let figures = self.seen.iter().map(of);
            let (mut all, mut errors) = (0.0, 0.0);
            for figure in figures {
                all += figure.value;
                errors += figure.variance();
            }
            let sightings: u64 = self.seen.iter().map(|seen| seen.sightings(basis, Span::Middle)).sum();
            let of_count = (sightings as f64).recip();
            if all > 0.0 { (errors / (all * all)).max(of_count).sqrt() } else { f64::INFINITY }
        };
        let instants = error(SeenIn::Instants);
        if instants <= ERROR_SMALL || instants <= error(SeenIn::Windows) { SeenIn::Instants } else { SeenIn::Windows }
    }

    /// An object with which nothing more can happen.
    pub fn remembered(&mut self, object: &Remembered) {
        let Some(seen) = self.seen.get_mut(object.stack as usize) else { return };
        seen.probes[object.seen_in as usize][usize::from(object.was_lost)].insert(object.probe);
        for fates in self.fates(object) {
            fates.remembered[object.group] += object.weight;
            fates.bytes[object.group] += object.weight * object.bytes as f64;
        }
    }

    /// One that was remembered seems to be alive, and comes to so many bytes.
    pub fn survived(&mut self, object: &Remembered, bytes: u64) {
        let weight = object.counts_for();
        for fates in self.fates(object) {
            fates.alive[object.group] += weight;
            fates.alive_bytes[object.group] += weight * bytes as f64;
        }
    }

    /// What became of what was born where it was, all of it and those of its type.
    fn fates(&mut self, object: &Remembered) -> impl Iterator<Item = &mut Fates> {
        let all =
            self.seen.get_mut(object.stack as usize).map(|seen| seen.lines.entry(object.lines.clone()).or_default());
        let of_type = self.types.entry(object.type_name.clone()).or_default();
        let of_type = of_type.entry((object.stack, object.lines.clone())).or_default();
        let lines = all.into_iter().chain([of_type]);
        lines.map(|lines| &mut lines.fates[object.seen_in as usize][usize::from(object.was_lost)])
    }

    /// How many objects live with one that was remembered and seems to, by what is known of its stack: none, where others say more.
    pub fn stands_for(&self, basis: SeenIn, seconds: f64) -> impl Fn(&Remembered) -> f64 + use<> {
        let of = |seen: &Seen| {
            let all = self.total(basis, seen, Span::Middle, seconds, None);
            (ratio(all, sum(&seen.remembered(basis), None)), seen.with_lost(basis))
        };
        let each: Vec<(f64, bool)> = self.seen.iter().map(of).collect();
        move |object| match each.get(object.stack as usize) {
            Some(&(each, with_lost)) if object.seen_in == basis && (with_lost || !object.was_lost) => {
                each * object.counts_for()
            }
            _ => 0.0,
        }
    }

    /// Instants and windows that found births on a stack.
    pub fn sightings_of(&self, stack: StackId) -> u64 {
        let of = |seen: &Seen| {
            seen.sightings(SeenIn::Instants, Span::Middle) + seen.sightings(SeenIn::Windows, Span::Middle)
        };
        self.seen.get(stack as usize).map_or(0, of)
    }

    /// Puts what was seen of each stack to what was seen of another one, by id.
    pub fn pool(&mut self, into: &[StackId]) {
        let pooled = |stack: StackId| into.get(stack as usize).copied().unwrap_or(stack);
        for (id, seen) in (0..).zip(std::mem::take(&mut self.seen)) {
            self.seen(pooled(id)).add(seen);
        }
        for places in self.types.values_mut() {
            for ((stack, lines), fates) in std::mem::take(places) {
                places.entry((pooled(stack), lines)).or_default().add(&fates);
            }
        }
    }

    /// What all births come to, attributed or not, over a recording of so many seconds.
    pub fn all_births(&self, basis: SeenIn, seconds: f64) -> Figure {
        let spans = self.spans(basis);
        let mut all = Figure::of(|left_out| match basis {
            SeenIn::Windows => seconds * ratio(sum(&self.all_births, left_out), sum(&self.readable_time, left_out)),
            SeenIn::Instants => {
                let seen = || self.seen.iter();
                // Stacks whose instants could not be read are taken for like the others.
                let middle = seen().zip(&spans).filter(|&(_, &span)| span == Span::Middle);
                let unread = middle
                    .map(|(seen, &span)| &seen.instants[span as usize])
                    .filter(|counted| sum(&counted.read, left_out) <= 0.0);
                let unread: f64 =
                    sum(&self.lost, left_out) + unread.map(|counted| sum(&counted.moving, left_out)).sum::<f64>();
                let read: f64 =
                    seen().zip(&spans).map(|(seen, &span)| self.total(basis, seen, span, seconds, left_out)).sum();
                read + seconds * ratio(unread, sum(&self.time, left_out)) * rate(seen(), Span::Middle, left_out)
            }
        });
        all.largest = ratio(all.value, self.sightings_between(basis, &spans) as f64);
        all
    }

    /// Instants, or windows, that found births on a stack that was read.
    pub fn sightings(&self, basis: SeenIn) -> u64 {
        self.sightings_between(basis, &self.spans(basis))
    }

    fn sightings_between(&self, basis: SeenIn, spans: &[Span]) -> u64 {
        self.seen.iter().zip(spans).map(|(seen, &span)| seen.sightings(basis, span)).sum()
    }

    /// Between which looks the births of each stack are counted. Those of the middle are known best, but where most dies within ten
    /// microseconds they are far too few: where births as a whole are many more at once, each stack's are those of which there are more.
    fn spans(&self, basis: SeenIn) -> Vec<Span> {
        let total = |seen: &Seen, span: Span, left_out: Option<usize>| self.total(basis, seen, span, 1.0, left_out);
        let all =
            |span: Span, left_out: Option<usize>| self.seen.iter().map(|seen| total(seen, span, left_out)).sum::<f64>();
        let more = Figure::of(|left_out| all(Span::Further, left_out) - all(Span::Middle, left_out));
        let is_more = more.value > MANY_MORE * all(Span::Middle, None) && more.value > SURELY * more.variance().sqrt();
        let is_further = |seen: &Seen| is_more && total(seen, Span::Further, None) > total(seen, Span::Middle, None);
        self.seen.iter().map(|seen| if is_further(seen) { Span::Further } else { Span::Middle }).collect()
    }

    /// What was born at each stack and lines: sorted by stack.
    pub fn places(&self, basis: SeenIn, seconds: f64) -> Vec<(StackId, Vec<u32>, Born)> {
        let size = self.mean_size(basis);
        let mut places = Vec::new();
        for (id, (seen, span)) in self.seen.iter().zip(self.spans(basis)).enumerate() {
            let remembered = seen.remembered(basis);
            for (key, lines) in &seen.lines {
                let born = self.born(&Of { basis, span, seen, remembered: &remembered }, lines, seconds, size);
                places.push((id as StackId, key.clone(), born));
            }
        }
        places.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        places
    }

    /// What was born of each type, most survivors first.
    pub fn types(&self, basis: SeenIn, seconds: f64) -> Vec<(String, Born)> {
        let size = self.mean_size(basis);
        let remembered: Vec<Groups> = self.seen.iter().map(|seen| seen.remembered(basis)).collect();
        let of: Vec<Of<'_>> = (self.seen.iter().zip(self.spans(basis)).zip(&remembered))
            .map(|((seen, span), remembered)| Of { basis, span, seen, remembered })
            .collect();
        let mut types: Vec<(String, Born)> = Vec::new();
        for (name, places) in &self.types {
            let mut total = Born::default();
            for ((stack, _), lines) in places {
                let Some(of) = of.get(*stack as usize) else { continue };
                let mut born = self.born(of, lines, seconds, size);
                // Of a type only the remembered objects are known: they stand for the births.
                let fates = lines.fates(basis, of.seen.with_lost(basis));
                born.objects = self.share(of, of.span, &fates.remembered, of.remembered, seconds);
                born.objects.largest = born.alive.largest;
                total.add(&born);
            }
            types.push((name.clone(), total));
        }
        types.sort_by(|(a_name, a), (b_name, b)| {
            let key = |born: &Born| (born.alive.value, born.objects.value);
            key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal).then_with(|| a_name.cmp(b_name))
        });
        types
    }

    /// Where what is alive of the types for which `wanted` was born: the stack, the lines, and how many are alive.
    pub fn survivors_of(
        &self,
        wanted: impl Fn(&str) -> bool,
        basis: SeenIn,
        seconds: f64,
    ) -> Vec<(StackId, &[u32], Figure)> {
        let (size, spans) = (self.mean_size(basis), self.spans(basis));
        let mut places = Vec::new();
        for ((stack, at), lines) in self.types.iter().filter(|(name, _)| wanted(name)).flat_map(|(_, places)| places) {
            let index = *stack as usize;
            let (Some(seen), Some(&span)) = (self.seen.get(index), spans.get(index)) else { continue };
            let remembered = seen.remembered(basis);
            let born = self.born(&Of { basis, span, seen, remembered: &remembered }, lines, seconds, size);
            places.push((*stack, at.as_slice(), born.alive));
        }
        places
    }

    /// Births of a stack over the recording: its share of time times its rate of births, where that is of instants between these
    /// looks.
    fn total(&self, basis: SeenIn, seen: &Seen, span: Span, seconds: f64, left_out: Option<usize>) -> f64 {
        let (time, rate) = match basis {
            SeenIn::Instants => (&seen.instants[span as usize].moving, rate(std::iter::once(seen), span, left_out)),
            SeenIn::Windows => {
                let rate = ratio(sum(&seen.births, left_out), sum(&seen.window_time, left_out));
                // Where processors are few, the target runs while we wait, and windows in time see less than their share.
                let births = ratio(sum(&self.all_births, left_out), sum(&self.readable_time, left_out));
                let in_time = ratio(sum(&self.short_births, left_out), sum(&self.short_time, left_out));
                (&seen.time, rate * if in_time > 0.0 { births / in_time } else { 1.0 })
            }
        };
        seconds * ratio(sum(time, left_out), sum(&self.time, left_out)) * rate
    }

    /// A part of a stack's births.
    fn share(&self, of: &Of<'_>, span: Span, part: &Groups, whole: &Groups, seconds: f64) -> Figure {
        Figure::of(|left_out| {
            self.total(of.basis, of.seen, span, seconds, left_out) * ratio(sum(part, left_out), sum(whole, left_out))
        })
    }

    fn born(&self, of: &Of<'_>, lines: &Lines, seconds: f64, size: f64) -> Born {
        let &Of { basis, span, seen, remembered } = of;
        let fates = lines.fates(basis, seen.with_lost(basis));
        let (part, whole) = match basis {
            SeenIn::Instants => (&lines.instant_births, &seen.instant_births),
            SeenIn::Windows => (&lines.births, &seen.births),
        };
        let mut born = Born {
            objects: self.share(of, span, part, whole, seconds),
            bytes: self.share(of, span, &fates.bytes, remembered, seconds),
            // What was remembered was left when it was read.
            alive: self.share(of, Span::Middle, &fates.alive, remembered, seconds),
            alive_bytes: self.share(of, Span::Middle, &fates.alive_bytes, remembered, seconds),
        };
        let all = self.total(basis, seen, span, seconds, None);
        born.objects.largest = ratio(all, seen.sightings(basis, span) as f64);
        let Figure { value: objects, largest, .. } = born.objects;
        for (figure, each) in [(&mut born.bytes, size), (&mut born.alive, 1.0), (&mut born.alive_bytes, size)] {
            match seen.probes(basis) {
                0 if objects > 0.0 => (figure.unknown, figure.largest) = (objects * each, largest * each),
                0 => {}
                probes => figure.largest = all * each / probes as f64,
            }
        }
        born
    }

    /// Bytes of an object, of all that were remembered.
    fn mean_size(&self, basis: SeenIn) -> f64 {
        let mut all = Fates::default();
        for lines in self.seen.iter().flat_map(|seen| seen.lines.values()) {
            all.add(&lines.fates(basis, true));
        }
        ratio(sum(&all.bytes, None), sum(&all.remembered, None))
    }
}

#[cfg(test)]
mod tests {
    use crate::record::recorder::Looks;
    use crate::stats::jackknife::GROUPS;

    use super::*;

    /// One function computes for nine tenths of the time, another one allocates in the rest: windows at random instants
    /// find all births at the second one.
    #[test]
    fn time_is_not_taken_for_allocation() {
        let mut allocations = Allocations::default();
        let further = Looks::default();
        let (computes, allocates) = (0, 1);
        let mut rng = fastrand::Rng::with_seed(7);
        for train in 0..4000 {
            let group = train % GROUPS;
            let (stack, births) = if rng.f64() < 0.9 { (computes, 0.0) } else { (allocates, 5.0) };
            // Half of the windows of the allocating function do not agree.
            let agrees = stack == computes || rng.bool();
            allocations.time(group, 1e-5);
            allocations.instant(
                group,
                &Instant {
                    stack,
                    lines: vec![1],
                    middle: Looks { is_moving: false, between: 2e-6, births: None },
                    further,
                },
                1e-5,
            );
            allocations.window(group, 1e-5, births, false);
            if agrees {
                allocations.agreed(group, stack, 1e-5, &[(vec![1], births)], 1.0);
            }
        }
        let places = allocations.places(allocations.basis(), 10.0);
        let born = |id| places.iter().filter(|place| place.0 == id).map(|place| place.2.objects.value).sum::<f64>();
        assert_eq!(born(computes), 0.0);
        // 10 s, of which 1 s allocates at 5 objects in 10 µs.
        let figure = places.iter().find(|place| place.0 == allocates).unwrap().2.objects;
        assert!((figure.low()..figure.high()).contains(&500_000.0), "{figure:?}");
        let half_width = longer_side(&figure);
        assert!(half_width < 60_000.0 && half_width > 30_000.0, "{half_width}");
        let all = allocations.all_births(allocations.basis(), 10.0);
        assert!((all.value - figure.value).abs() < 40_000.0);
    }

    /// Most windows did not agree; those three that did saw nearly as much.
    #[test]
    fn a_few_windows_that_are_alike_are_not_well_known() {
        let mut allocations = Allocations::default();
        let further = Looks::default();
        let mut rng = fastrand::Rng::with_seed(5);
        for probe in 0..80 {
            let (group, stack) = (probe % GROUPS, (probe / GROUPS % 2) as StackId);
            let births = rng.f64() * if stack == 0 { 20.0 } else { 60.0 };
            let instant = Instant {
                stack,
                lines: vec![1],
                middle: Looks { is_moving: true, between: 4e-6, births: Some(births) },
                further,
            };
            allocations.time(group, 1e-3);
            allocations.instant(group, &instant, 1e-3);
            allocations.window(group, 1e-4, 100.0, false);
            if probe < 3 {
                allocations.agreed(group, 0, 1e-4, &[(vec![1], 100.0 + probe as f64)], 1.0);
            }
        }
        assert_eq!(allocations.basis(), SeenIn::Instants);
    }

    fn longer_side(figure: &Figure) -> f64 {
        (figure.high() - figure.value).max(figure.value - figure.low())
    }

    /// Two functions allocate equally fast and for as long. Of the one half of the instants cannot be read, of the other all
    /// can; and most of the time the target waits for a processor, where nothing is born and everything can be read.
    #[test]
    fn what_could_not_be_read_is_not_taken_for_nothing() {
        let mut allocations = Allocations::default();
        let further = Looks::default();
        let mut rng = fastrand::Rng::with_seed(3);
        for probe in 0..6000 {
            let stack = rng.u32(..2);
            let is_moving = rng.f64() < 0.3;
            let births = if is_moving { 20.0 } else { 0.0 };
            let is_read = !is_moving || stack == 1 || rng.bool();
            let births = is_read.then_some(births);
            allocations.time(probe % GROUPS, 1e-3);
            allocations.instant(
                probe % GROUPS,
                &Instant { stack, lines: vec![1], middle: Looks { is_moving, between: 2e-6, births }, further },
                1e-3,
            );
        }
        for (_, _, born) in allocations.places(allocations.basis(), 6.0) {
            // Half of 6 s, three tenths of it at 10 in a microsecond.
            assert!((born.objects.low()..born.objects.high()).contains(&9e6), "{:?}", born.objects.value);
            assert!(longer_side(&born.objects) < 1e6, "{:?}", born.objects);
        }
        assert!((allocations.all_births(allocations.basis(), 6.0).value / 18e6 - 1.0).abs() < 0.1);
    }

    /// Of one stack nearly all dies before it is read; of the other all is read, as it is at once.
    #[test]
    fn what_dies_at_once_is_counted_where_it_is_much() {
        let mut allocations = Allocations::default();
        let mut rng = fastrand::Rng::with_seed(9);
        for probe in 0..4000 {
            let (group, stack) = (probe % GROUPS, rng.u32(..2));
            let births = if stack == 0 { 0.2 } else { 9.0 };
            let is_read = stack == 1 || rng.f64() < 0.3;
            let further = Looks { is_moving: true, between: 3e-6, births: is_read.then_some(3.0) };
            let instant = Instant {
                stack,
                lines: vec![1],
                middle: Looks { is_moving: true, between: 9e-6, births: Some(births) },
                further,
            };
            allocations.time(group, 1e-3);
            allocations.instant(group, &instant, 1e-3);
        }
        let places = allocations.places(SeenIn::Instants, 4.0);
        let objects: Vec<Figure> = places.iter().map(|place| place.2.objects).collect();
        // A million in a second, of each for half of the time.
        assert!(objects.iter().all(|figure| (figure.low()..=figure.high()).contains(&2e6)), "{objects:?}");
        assert!((allocations.all_births(SeenIn::Instants, 4.0).value / 4e6 - 1.0).abs() < 0.1);
    }

    /// An object in sight, of a probe with ten births.
    fn that_died(stack: StackId, probe: usize) -> Remembered {
        Remembered {
            stack,
            lines: vec![1],
            type_name: "list".into(),
            seen_in: SeenIn::Instants,
            group: probe % GROUPS,
            probe: probe as u64,
            weight: 10.0,
            was_lost: false,
            bytes: 56,
            missed: None,
        }
    }

    /// Of what was lost half passes for alive; of what was in sight all is known to be dead. One stack has some of both, another
    /// one has next to nothing that was in sight.
    #[test]
    fn what_was_lost_counts_only_where_nothing_else_is_known() {
        let mut allocations = Allocations::default();
        let further = Looks::default();
        for probe in 0..1000 {
            let (group, stack) = (probe % GROUPS, u32::from(probe % 2 == 1));
            let was_lost = if stack == 0 { probe % 20 != 0 } else { probe != 1 };
            let instant = Instant {
                stack,
                lines: vec![1],
                middle: Looks { is_moving: true, between: 2e-6, births: Some(10.0) },
                further,
            };
            allocations.time(group, 1e-3);
            allocations.instant(group, &instant, 1e-3);
            let object = Remembered { was_lost, ..that_died(stack, probe) };
            allocations.remembered(&object);
            if was_lost && probe % 4 < 2 {
                allocations.survived(&object, 56);
            }
        }
        let places = allocations.places(allocations.basis(), 1.0);
        let alive = |index: usize| places[index].2.alive.value / places[index].2.objects.value;
        assert_eq!(alive(0), 0.0);
        assert!((alive(1) - 0.5).abs() < 0.01, "{}", alive(1));
        let types = allocations.types(allocations.basis(), 1.0);
        let all: f64 = places.iter().map(|place| place.2.alive.value).sum();
        assert!((types[0].1.alive.value / all - 1.0).abs() < 1e-9);
    }

    /// Probes find births of one stack; what they remember has died in all of them, and may live all the same. Of another
    /// stack nothing was remembered.
    #[test]
    fn what_was_not_seen_to_live_may_live() {
        let mut allocations = Allocations::default();
        let further = Looks::default();
        for probe in 0..1000 {
            let (group, is_moving) = (probe % GROUPS, probe % 50 == 0);
            let stack = u32::from(probe == 500);
            let births = Some(if is_moving { 10.0 } else { 0.0 });
            allocations.time(group, 1e-3);
            allocations.instant(
                group,
                &Instant { stack, lines: vec![1], middle: Looks { is_moving, between: 2e-6, births }, further },
                1e-3,
            );
            if is_moving && stack == 0 {
                allocations.remembered(&that_died(stack, probe));
            }
        }
        let places = allocations.places(allocations.basis(), 1.0);
        let (dead, unknown) = (places[0].2, places[1].2);
        assert_eq!((dead.alive.value, dead.alive.low(), unknown.alive.value), (0.0, 0.0, 0.0));
        // Three and a half of nineteen, and all.
        let share = dead.alive.high() / dead.objects.value;
        assert!((0.18..0.21).contains(&share), "{share}");
        assert!((unknown.objects.value..=unknown.objects.high()).contains(&unknown.alive.high()));
        assert!(unknown.alive_bytes.high() > 50.0 * unknown.objects.value);
        let mut both = dead;
        both.add(&unknown);
        assert!(both.alive.high() >= dead.alive.high() + unknown.objects.value);
        let types = allocations.types(allocations.basis(), 1.0);
        assert_eq!((types.len(), types[0].1.alive.high()), (1, dead.alive.high()));
    }
}
