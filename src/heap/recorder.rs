//! A recording: probes and trains of windows, and the objects of them that are watched until the end.
//!
//! A probe makes some glances in each lane, a train some windows ([`super::births`]). Of their births some are drawn at
//! random and remembered. They are looked at again at once, then at growing intervals: one that is no longer an object of
//! its type with references, or whose address was seen to be born again, has died. At the end those that are left must
//! also stand in the lists in the order in which they were born ([`super::order`]): an object that took the place of a dead
//! one was born later, and stands later. What no list decides is counted ([`Verdicts`]).

use std::time::Duration;

use fastrand::Rng;
use rustc_hash::FxHashMap;

use crate::python::attach::{Interpreter, Python};
use crate::python::layout::Layout;
use crate::python::measure::{Measure, Size};
use crate::python::proof;
use crate::python::reader::Reader;
use crate::python::types::TypeTable;
use crate::target::Address;
use crate::target::memory::{Memory, Piece, ReadError, u64_at};

use super::births::{self, Birth, Fate, Window};
use super::counters::Counters;
use super::glance::{Glancer, Lane};
use super::object::{GcHead, RefcountRule, refcount_word};
use super::order::{Order, longest_rising};
use super::stacks::{Found, StackId, Stacks};

/// Births remembered of one train.
pub const REMEMBERED: usize = 32;
/// Instants of one probe. One after another they find the same call as a rule, but in most single ones nothing is born.
const INSTANTS: u32 = 2;
/// From one to the next: time enough for a glance and for reading what was born in it.
const GAP: Duration = Duration::from_micros(30);
/// Probes between two looks at an object, at most.
const LOOK_MAX: u64 = 512;
/// Bytes of an object read to know its size.
const BODY_MAX: usize = 512;
/// Looks at the end, the pause between them, and the time for all.
const CLOSING_LOOKS: usize = 24;
const CLOSING_PAUSE: Duration = Duration::from_millis(8);
const CLOSING_MAX: Duration = Duration::from_secs(1);
/// Objects whose order is read at the end.
const ORDER_MAX: usize = 4 << 20;

/// What a window saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The stack that ran, if any did.
    pub stack: Option<StackId>,
    /// Seconds of the window.
    pub seconds: f64,
    /// Births in that time; `None` where the list could not be read.
    pub births: Option<u64>,
    /// Where they were born: lines of the stack's frames and how many. `None` where the ends did not agree.
    pub at: Option<Vec<(Vec<u32>, f64)>>,
    /// Whether another thread held the lock at the end.
    pub switched: bool,
    /// Whether the collector ran.
    pub collected: bool,
    /// Whether it took too long.
    pub is_late: bool,
}

/// An instant that found a stack.
#[derive(Clone, Debug)]
pub struct Instant {
    /// The stack.
    pub stack: StackId,
    /// The lines of its frames.
    pub lines: Vec<u32>,
    /// Whether something was born between its two looks, or the collector began.
    pub is_moving: bool,
    /// Seconds between its two looks, and births in that time; `None`: not known.
    pub births: Option<(f64, u64)>,
}

/// What a probe saw in one lane.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// Its instants that found a stack.
    pub instants: Vec<Instant>,
    /// Its instants at which something was born, and the stack changed while it was read.
    pub lost: usize,
    /// How many instants there were.
    pub count: usize,
}

/// How it was decided which of the watched objects that looked alive at the end were the same as at the beginning: how
/// many of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// They stand in the collector's lists in the order of their births: they survived.
    pub in_order: u64,
    /// They stand where only younger objects do, or nowhere: others have taken their places.
    pub out_of_order: u64,
    /// The collector has left them alone since, as it does with tuples and dicts of strings and numbers. They are in no list,
    /// and are taken for survivors by their types and by what was seen of their places.
    pub not_tracked: u64,
    /// The lists changed too fast to be read there. Taken for survivors in the same way.
    pub not_read: u64,
}

/// An object that is watched.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Where it is.
    pub address: Address,
    /// Its type.
    pub type_: Address,
    /// Where it was born.
    pub stack: StackId,
    /// The lines of that stack's frames.
    pub lines: Vec<u32>,
    /// The probe after which it was born.
    pub tick: u64,
    /// The group of that probe.
    pub group: usize,
    /// How many births it stands for.
    pub weight: f64,
    /// Shallow bytes at the last look.
    pub bytes: u64,
    /// As above, at the first one.
    pub first_bytes: u64,
    /// How many collections had been noticed when it was born.
    epoch: u64,
    /// Whether it was in a list at the last look.
    is_tracked: bool,
    lane: usize,
}

/// Records.
pub struct Recorder<'a, M: Memory + ?Sized> {
    memory: &'a M,
    layout: &'a Layout,
    python: &'a Python,
    /// Stacks met so far.
    pub stacks: Stacks,
    /// Objects that died, since they were last taken.
    pub dead: Vec<Watched>,
    /// How it was decided what survived, after [`Recorder::finish`].
    pub verdicts: Verdicts,
    glancers: Vec<Glancer<'a, M>>,
    /// Of each of these, whether its interpreter has ended.
    has_ended: Vec<bool>,
    types: TypeTable,
    rule: RefcountRule,
    rng: Rng,
    /// The group of what is seen now: a part of the recording that varies as a whole.
    pub group: usize,
    tick: u64,
    epoch: u64,
    collections: Vec<[u32; 2]>,
    due: FxHashMap<u64, Vec<Watched>>,
    newest: FxHashMap<Address, u64>,
    /// Births remembered of one train.
    pub remembered: usize,
}

impl<'a, M: Memory + ?Sized> Recorder<'a, M> {
    /// A recorder that has seen nothing yet.
    pub fn new(memory: &'a M, python: &'a Python, types: TypeTable, rng: Rng) -> Self {
        let reader = Reader { memory, layout: &python.layout };
        let lanes = Lane::all(&reader, python, &python.interpreters);
        Recorder {
            memory,
            layout: &python.layout,
            python,
            stacks: Stacks::default(),
            dead: Vec::new(),
            verdicts: Verdicts::default(),
            collections: vec![[0; 2]; lanes.len()],
            has_ended: vec![false; lanes.len()],
            glancers: lanes.into_iter().map(|lane| Glancer::new(reader, lane)).collect(),
            types,
            rule: RefcountRule::of(&python.layout, python.version),
            rng,
            group: 0,
            tick: 0,
            epoch: 0,
            due: FxHashMap::default(),
            newest: FxHashMap::default(),
            remembered: REMEMBERED,
        }
    }

    /// How many collectors are read.
    pub fn lanes(&self) -> usize {
        self.running().len()
    }

    /// The lanes whose interpreters have not ended.
    fn running(&self) -> Vec<usize> {
        (0..self.glancers.len()).filter(|&lane| !self.has_ended[lane]).collect()
    }

    /// Looks which interpreters there are now. Nothing changes where that cannot be read.
    pub fn refresh(&mut self) {
        let reader = Reader { memory: self.memory, layout: self.layout };
        let Ok(interpreters) = proof::interpreters(&reader, self.python.runtime.address) else { return };
        for (glancer, has_ended) in self.glancers.iter().zip(&mut self.has_ended) {
            *has_ended = !interpreters.iter().any(|interpreter| glancer.lane.is_of(interpreter));
        }
        let is_new = |interpreter: &Interpreter| !self.glancers.iter().any(|glancer| glancer.lane.is_of(interpreter));
        let new: Vec<Interpreter> = interpreters.into_iter().filter(is_new).collect();
        for lane in Lane::all(&reader, self.python, &new) {
            log::debug!("interpreter {} has begun", lane.interpreter.id);
            self.glancers.push(Glancer::new(reader, lane));
            self.has_ended.push(false);
            self.collections.push([0; 2]);
        }
    }

    /// Reads some instants in each lane, then looks at what is due. One answer for each lane. `is_apart`: the target runs
    /// while we look; where it cannot, one instant says as much as many.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn probe(&mut self, is_apart: bool) -> Result<Vec<Probe>, ReadError> {
        self.stacks.forget();
        let (count, gap) = if is_apart { (INSTANTS, GAP) } else { (1, Duration::ZERO) };
        let mut probes = Vec::new();
        for lane in self.running() {
            let moments = births::instants(&mut self.glancers[lane], count, gap)?;
            probes.push(self.digest_instants(lane, &moments)?);
        }
        self.next_tick()?;
        Ok(probes)
    }

    /// Looks at what is due.
    fn next_tick(&mut self) -> Result<(), ReadError> {
        self.tick += 1;
        self.due.remove(&self.tick).map_or(Ok(()), |due| self.look(due))
    }

    /// Reads a train in each lane. One answer for each lane.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn train(&mut self, length: Duration, dwell: Duration) -> Result<Vec<Vec<Seen>>, ReadError> {
        self.next_tick()?;
        let mut seen = Vec::new();
        for lane in self.running() {
            let windows = births::train(&mut self.glancers[lane], length, dwell)?;
            seen.push(self.digest(lane, windows)?);
        }
        Ok(seen)
    }

    fn digest_instants(&mut self, lane: usize, moments: &[births::Moment]) -> Result<Probe, ReadError> {
        let reader = Reader { memory: self.memory, layout: self.layout };
        let interpreter = self.glancers[lane].lane.interpreter.id;
        let mut drawn: Vec<(Birth, Found)> = Vec::new();
        let (mut born, mut lost) = (0, 0);
        let mut instants = Vec::new();
        if let Some((last, _)) = moments.last() {
            self.notice_collections(lane, last.collections);
        }
        for (glance, births) in moments.iter().filter(|(glance, _)| !glance.was_collecting) {
            let Some(found) = self.stacks.find(&reader, interpreter, glance) else {
                lost += usize::from(glance.is_moving && glance.is_own);
                continue;
            };
            for &birth in births.iter().flatten() {
                born += 1;
                self.is_born(birth);
                draw(&mut drawn, self.remembered, born, &mut self.rng, (birth, found.clone()));
            }
            let births = births.as_ref().map(|births| (glance.between.as_secs_f64(), births.len() as u64));
            instants.push(Instant { stack: found.stack, lines: found.lines, is_moving: glance.is_moving, births });
        }
        self.watch(lane, drawn, born)?;
        Ok(Probe { instants, lost, count: moments.len() })
    }

    fn notice_collections(&mut self, lane: usize, collections: [u32; 2]) {
        if self.collections[lane] != collections {
            self.collections[lane] = collections;
            self.epoch += 1;
        }
    }

    /// Whose place was taken is dead.
    fn is_born(&mut self, birth: Birth) {
        if let Some(newest) = self.newest.get_mut(&birth.address) {
            *newest = self.tick;
        }
    }

    /// From windows to what they say; some of the births are remembered.
    fn digest(&mut self, lane: usize, windows: Vec<Window>) -> Result<Vec<Seen>, ReadError> {
        let reader = Reader { memory: self.memory, layout: self.layout };
        let interpreter = self.glancers[lane].lane.interpreter.id;
        let mut seen = Vec::with_capacity(windows.len());
        let mut drawn: Vec<(Birth, Found)> = Vec::new();
        let mut births_drawn_from = 0;
        for window in &windows {
            self.notice_collections(lane, window.end.collections);
            let start = self.stacks.find(&reader, interpreter, &window.start);
            let last = self.stacks.find(&reader, interpreter, &window.end);
            let end = last.filter(|_| window.start.agrees(&window.end) && !window.is_late());
            if let Fate::Births(births) = &window.fate {
                births.iter().for_each(|&birth| self.is_born(birth));
            }
            let births = match &window.fate {
                Fate::Births(births) => Some(births.as_slice()),
                Fate::Torn | Fate::Collected => None,
            };
            let mut at = None;
            if let (Some(start), Some(end), Some(births)) = (&start, &end, births)
                && start.stack == end.stack
                && !window.start.collecting
            {
                let half = births.len() as f64 / 2.0;
                at = Some(match start.lines == end.lines {
                    true => vec![(end.lines.clone(), 2.0 * half)],
                    false => vec![(start.lines.clone(), half), (end.lines.clone(), half)],
                });
                for &birth in births {
                    births_drawn_from += 1;
                    let found = if self.rng.bool() { start } else { end };
                    draw(&mut drawn, self.remembered, births_drawn_from, &mut self.rng, (birth, found.clone()));
                }
            }
            seen.push(Seen {
                stack: start.filter(|_| !window.start.collecting).map(|found| found.stack),
                seconds: window.length().as_secs_f64(),
                births: births.map(|births| births.len() as u64),
                at,
                switched: window.start.holder != window.end.holder,
                collected: matches!(window.fate, Fate::Collected),
                is_late: window.is_late(),
            });
        }
        self.watch(lane, drawn, births_drawn_from)?;
        Ok(seen)
    }

    /// Watches a sample of so many births from now on.
    fn watch(&mut self, lane: usize, drawn: Vec<(Birth, Found)>, births: usize) -> Result<(), ReadError> {
        let weight = births as f64 / drawn.len().max(1) as f64;
        let (tick, group, epoch) = (self.tick, self.group, self.epoch);
        let watched = drawn.into_iter().map(|(birth, found)| Watched {
            address: birth.address,
            type_: birth.type_,
            stack: found.stack,
            lines: found.lines,
            tick,
            group,
            weight,
            bytes: 0,
            first_bytes: 0,
            epoch,
            is_tracked: true,
            lane,
        });
        let watched: Vec<Watched> = watched.collect();
        for object in &watched {
            self.newest.insert(object.address, tick);
        }
        self.look(watched)
    }

    /// Looks at objects, and plans the next look at those that are alive.
    fn look(&mut self, objects: Vec<Watched>) -> Result<(), ReadError> {
        for object in self.check(objects)? {
            let age = self.tick - object.tick;
            let next = self.tick + (age + 1).next_power_of_two().min(LOOK_MAX);
            self.due.entry(next).or_default().push(object);
        }
        Ok(())
    }

    /// Which of these are still the objects that they were; the others are dead.
    fn check(&mut self, objects: Vec<Watched>) -> Result<Vec<Watched>, ReadError> {
        let front = self.layout.constants.gc_head_size;
        let mut buffers = vec![[0u8; BODY_MAX]; objects.len()];
        let mut pieces: Vec<Piece<'_>> = objects
            .iter()
            .zip(&mut buffers)
            .map(|(object, buffer)| {
                let length = front + self.body_length(object.type_);
                Piece { address: object.address.back(front), buffer: &mut buffer[..length], filled: false }
            })
            .collect();
        self.memory.read_pieces(&mut pieces)?;
        let filled: Vec<(bool, usize)> = pieces.iter().map(|piece| (piece.filled, piece.buffer.len())).collect();
        let mut alive = Vec::with_capacity(objects.len());
        for ((mut object, buffer), (filled, length)) in objects.into_iter().zip(&buffers).zip(filled) {
            let is_newest = self.newest.get(&object.address) == Some(&object.tick);
            if filled && is_newest && self.is_alive(&object, &buffer[..length]) {
                let size = self.size(&object, &buffer[front..length]);
                if object.first_bytes == 0 {
                    object.first_bytes = size;
                }
                object.bytes = size;
                let links = &self.layout.gc_head;
                object.is_tracked = GcHead::read(buffer, links.gc_next, links.gc_prev) == GcHead::Tracked;
                alive.push(object);
            } else {
                if is_newest {
                    self.newest.remove(&object.address);
                }
                self.dead.push(object);
            }
        }
        Ok(alive)
    }

    fn is_alive(&self, object: &Watched, bytes: &[u8]) -> bool {
        let Some(body) = bytes.get(self.layout.constants.gc_head_size..) else { return false };
        let head = GcHead::read(bytes, self.layout.gc_head.gc_next, self.layout.gc_head.gc_prev);
        head != GcHead::Implausible
            && u64_at(body, self.layout.object.ob_type) == Some(object.type_.0)
            && refcount_word(self.layout, body).and_then(|word| self.rule.decode(word)).is_some()
    }

    /// Bytes of an object of this type that are read.
    fn body_length(&self, type_: Address) -> usize {
        let least = self.layout.object.ob_type + 8;
        let of_type = self.types.find(type_.0).map_or(0, |id| self.types.get(id).basicsize);
        usize::try_from(of_type).unwrap_or(0).clamp(least, BODY_MAX - self.layout.constants.gc_head_size)
    }

    /// The shallow size; 0 where it cannot be told.
    fn size(&self, object: &Watched, body: &[u8]) -> u64 {
        let Some(info) = self.types.find(object.type_.0).map(|id| self.types.get(id)) else { return 0 };
        let measure = Measure::new(self.layout, self.python.version, &self.types);
        let least = info.basicsize + info.front as u64;
        match measure.measure(info, object.address, body).map(|measured| measured.size) {
            Some(Size::Known(size)) => size,
            Some(Size::Deferred(deferred)) => {
                let (at, length) = deferred.first_read(self.layout);
                let mut bytes = vec![0; length];
                let read = self.memory.read_exact_at(at, &mut bytes).ok();
                read.and_then(|()| deferred.complete(&bytes, self.layout, self.memory)).unwrap_or(least)
            }
            None => least,
        }
    }

    /// What the collectors say of themselves, added up.
    ///
    /// # Errors
    /// As the memory.
    pub fn counters(&self) -> Result<Counters, ReadError> {
        let mut all = Counters { is_exact: true, is_enabled: true, ..Counters::default() };
        for glancer in self.running().into_iter().map(|lane| &self.glancers[lane]) {
            let one = Counters::read(&glancer.reader(), &glancer.lane)?;
            all.objects = all.objects.saturating_add(one.objects);
            all.is_exact &= one.is_exact;
            all.is_enabled &= one.is_enabled;
            all.collections.iter_mut().zip(one.collections).for_each(|(all, one)| *all = all.saturating_add(one));
        }
        Ok(all)
    }

    /// Learns the types that there are now.
    pub fn set_types(&mut self, types: TypeTable) {
        self.types = types;
    }

    /// The name of a type.
    pub fn type_name(&self, type_: Address) -> String {
        match self.types.find(type_.0) {
            Some(id) => self.types.get(id).full_name(),
            None => {
                let reader = Reader { memory: self.memory, layout: self.layout };
                reader.type_name(type_).unwrap_or_else(|_| "?".to_owned())
            }
        }
    }

    /// The last look: what is alive at the end. `is_gone`: the target cannot be read any more, and what was alive when it
    /// was last looked at counts.
    pub fn finish(&mut self, is_gone: bool) -> Vec<Watched> {
        let objects: Vec<Watched> = std::mem::take(&mut self.due).into_values().flatten().collect();
        if is_gone {
            let newest = &self.newest;
            return objects.into_iter().filter(|it| newest.get(&it.address) == Some(&it.tick)).collect();
        }
        self.refresh();
        let mut alive = self.look_closely(objects);
        let reader = Reader { memory: self.memory, layout: self.layout };
        let mut survivors = Vec::new();
        for lane in 0..self.glancers.len() {
            let (own, others): (Vec<Watched>, Vec<Watched>) = alive.into_iter().partition(|it| it.lane == lane);
            alive = others;
            if self.has_ended[lane] {
                self.dead.extend(own);
                continue;
            }
            if let Ok(glance) = self.glancers[lane].glance() {
                self.epoch += u64::from(glance.collections != self.collections[lane]);
            }
            let order = Order::read(&reader, &self.glancers[lane].lane, ORDER_MAX);
            log::debug!("{} objects stand in order, old lists whole: {}", order.len(), order.has_all_old());
            self.judge(own, &order, &mut survivors);
        }
        survivors
    }

    /// Looks again and again for a moment, with births in between: a place in which objects come and go is found empty, or
    /// taken by another type, or by an object that was just born.
    fn look_closely(&mut self, objects: Vec<Watched>) -> Vec<Watched> {
        let began = std::time::Instant::now();
        let mut alive = objects;
        for _ in 0..CLOSING_LOOKS {
            let before = alive.clone();
            alive = match self.check(alive) {
                Ok(alive) => alive,
                Err(_) => return before,
            };
            if began.elapsed() > CLOSING_MAX {
                break;
            }
            std::thread::sleep(CLOSING_PAUSE.mul_f64(2.0 * self.rng.f64()));
            self.tick += 1;
            for lane in self.running() {
                let windows = births::train(&mut self.glancers[lane], CLOSING_PAUSE / 10, Duration::from_micros(30));
                for window in windows.unwrap_or_default() {
                    let Fate::Births(births) = window.fate else { continue };
                    births.into_iter().for_each(|birth| self.is_born(birth));
                }
            }
        }
        alive
    }

    /// Which of these stand where an object of their age must: those of the youngest list in order of birth, and what a
    /// collection has seen in order of these collections.
    fn judge(&mut self, objects: Vec<Watched>, order: &Order, survivors: &mut Vec<Watched>) {
        let mut placed: Vec<(u64, u64, Watched)> = Vec::new();
        for object in objects {
            // A collection empties the youngest list.
            let is_old = object.epoch < self.epoch;
            match order.position(object.address) {
                Some((0, _)) if is_old => {
                    self.verdicts.out_of_order += 1;
                    self.dead.push(object);
                }
                Some((list, position)) => {
                    // The youngest list holds what was born since the last collection, one by one.
                    let birth = if list == 0 { object.tick } else { 0 };
                    placed.push((position, (object.epoch << 32) + birth, object));
                }
                None if is_old && object.is_tracked && order.has_all_old() => {
                    self.verdicts.out_of_order += 1;
                    self.dead.push(object);
                }
                None => {
                    let count =
                        if object.is_tracked { &mut self.verdicts.not_read } else { &mut self.verdicts.not_tracked };
                    *count += 1;
                    survivors.push(object);
                }
            }
        }
        placed.sort_by_key(|&(position, ..)| position);
        let births: Vec<u64> = placed.iter().map(|&(_, birth, _)| birth).collect();
        let mut in_order = vec![false; placed.len()];
        longest_rising(&births).into_iter().for_each(|index| in_order[index] = true);
        for ((.., object), in_order) in placed.into_iter().zip(in_order) {
            if in_order {
                self.verdicts.in_order += 1;
                survivors.push(object);
            } else {
                self.verdicts.out_of_order += 1;
                self.dead.push(object);
            }
        }
    }
}

/// Takes one more item into a sample of `most`, of which it is number `seen`: reservoir sampling (Vitter, 1985,
/// algorithm R).
fn draw<T>(sample: &mut Vec<T>, most: usize, seen: usize, rng: &mut Rng, item: T) {
    if sample.len() < most {
        sample.push(item);
    } else if let Some(slot) = sample.get_mut(rng.usize(..seen)) {
        *slot = item;
    }
}
