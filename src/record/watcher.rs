//! Objects that are watched from birth to the end: which of them live?
//!
//! A new object's place is followed closely ([`crate::record::batch`], [`crate::record::follow`]), then looked at again at growing intervals: what
//! is no longer an object of its type with references, is in no list before any collection, or whose address was seen to be born
//! again, has died. At the end those that are left must also stand in the lists in the order in which they were born
//! ([`crate::record::order`]): an object that took the place of a dead one was born later, and stands later. What no list decides is
//! counted ([`Verdicts`]).

use std::time::{Duration, Instant};

use fastrand::Rng;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::process::Address;
use crate::process::memory::{Memory, Piece, ReadError};
use crate::python::layout::Layout;
use crate::python::measure::{Measure, Size};
use crate::python::object_header::RefcountRule;
use crate::python::reader::Reader;
use crate::python::types::TypeTable;
use crate::python::version::Version;

use super::batch::Batch;
use super::births::wait_closely;
use super::follow::{self, Place};
use super::glance::Glancer;
use super::newest::Birth;
use super::order::{Order, longest_rising};
use super::watched::{SeenIn, Watched};

/// How long births are followed.
const YOUNG: Duration = Duration::from_millis(10);
/// How long at once; the stacks are still to be read. And between other things that take some ten microseconds each.
const NEWBORN: Duration = Duration::from_micros(50);
const BETWEEN: Duration = Duration::from_micros(5);
/// Probes between two looks at an object, at most, and of its age.
const LOOK_MAX: u64 = 512;
const LOOKS_OF_AGE: u64 = 4;
/// Pages on which they lie, at most: to look at objects on many pages takes longer than new ones may be out of sight. Each is as likely to
/// be drawn as any other.
const PAGES: usize = 8;
/// Bytes of an object read to know its size.
const BODY_MAX: usize = 512;

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
    /// They stand in order, but more seemed to live than stand there: these stand the farthest from where they should
    /// ([`crate::record::standing`]).
    pub too_many: u64,
    /// They were seen to die, and others in their places live.
    pub replaced: u64,
    /// Of all that were watched these were out of sight for too long when they were young, dead or alive. They count only where
    /// few others of their stack were watched.
    pub out_of_sight: u64,
}

/// Births to draw from.
#[derive(Clone, Copy, Debug)]
pub struct Drawn<'a> {
    /// Whose collector's they are.
    pub lane: usize,
    /// In what they were seen.
    pub seen_in: SeenIn,
    /// In which windows or instants of the probe or train, by number.
    pub windows: &'a [(usize, &'a [Birth])],
    /// For how many they stand.
    pub count: f64,
    /// When they were all there.
    pub born: Instant,
}

/// What is known of a collector's runs.
#[derive(Clone, Copy, Debug, Default)]
struct Collections {
    counters: [u32; 2],
    /// How often these were seen to change, and how often that of older lists than the youngest.
    epoch: u64,
    promotions: u64,
}

/// Watches.
pub struct Watcher<'a, M: Memory + ?Sized> {
    memory: &'a M,
    layout: &'a Layout,
    version: Version,
    types: TypeTable,
    rule: RefcountRule,
    rng: Rng,
    /// Births watched of one probe or train.
    pub most: usize,
    /// The group of what is seen now: a part of the recording that varies as a whole.
    pub group: usize,
    /// Objects that died, since they were last taken.
    pub dead: Vec<Watched>,
    /// How it was decided what survived.
    pub verdicts: Verdicts,
    tick: u64,
    lanes: Vec<Collections>,
    /// What was born a short while ago, which is followed closely.
    young: Vec<Batch>,
    /// Others, by the probe after which they are looked at next.
    due: FxHashMap<u64, Vec<Watched>>,
    /// After which probe the newest object at an address was born.
    newest: FxHashMap<Address, u64>,
}

impl<'a, M: Memory + ?Sized> Watcher<'a, M> {
    /// That watches nothing yet, of so many lanes.
    pub fn new(reader: Reader<'a, M>, version: Version, types: TypeTable, lanes: usize, most: usize, rng: Rng) -> Self {
        Watcher {
            memory: reader.memory,
            layout: reader.layout,
            version,
            types,
            rule: RefcountRule::of(reader.layout, version),
            rng,
            most,
            group: 0,
            dead: Vec::new(),
            verdicts: Verdicts::default(),
            tick: 0,
            lanes: vec![Collections::default(); lanes],
            young: Vec::new(),
            due: FxHashMap::default(),
            newest: FxHashMap::default(),
        }
    }

    fn reader(&self) -> Reader<'a, M> {
        Reader { memory: self.memory, layout: self.layout }
    }

    /// One more lane.
    pub fn add_lane(&mut self) {
        self.lanes.push(Collections::default());
    }

    /// A lane's collector says this of itself.
    pub fn notice_collections(&mut self, lane: usize, counters: [u32; 2]) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        if lane.counters != counters {
            let promotions = lane.promotions + u64::from(lane.counters[1] != counters[1]);
            *lane = Collections { counters, epoch: lane.epoch + 1, promotions };
        }
    }

    /// Something was born: whose place it took is dead.
    pub fn is_born(&mut self, birth: Birth) {
        if let Some(newest) = self.newest.get_mut(&birth.address) {
            *newest = self.tick;
        }
    }

    /// Draws from the births of some windows, which were all there at an instant, and stand for `count`, and looks at them as
    /// closely as can be, but not for long where the target runs meanwhile (`is_apart`), and else not at all. Whose they are is not
    /// known yet: to be told to [`Watcher::newborn`], then to [`Watcher::watch`].
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn draw(&mut self, drawn: &Drawn<'_>, is_apart: bool, glancers: &[Glancer<'a, M>]) -> Result<(), ReadError> {
        let &Drawn { lane, seen_in, windows, count, born } = drawn;
        let births = windows.iter().flat_map(|(window, births)| births.iter().map(|&birth| (*window, birth)));
        let births: Vec<(usize, Birth)> = births.collect();
        let pages: FxHashSet<u64> = births.iter().map(|(_, birth)| page_of(birth)).collect();
        let pages: FxHashSet<u64> = self.rng.choose_multiple(pages, PAGES).into_iter().collect();
        let on_pages = births.into_iter().filter(|(_, birth)| pages.contains(&page_of(birth)));
        let mut drawn = self.rng.choose_multiple(on_pages, self.most);
        drawn.sort_by_key(|&(window, _)| window);
        let weight = count / drawn.len().max(1) as f64;
        let new = |(window, birth)| Watched {
            birth,
            found: None,
            seen_in,
            window,
            group: self.group,
            weight,
            bytes: 0,
            first_bytes: 0,
            place: Place::new(born),
            tick: self.tick,
            epoch: self.lanes.get(lane).map_or(0, |lane| lane.epoch),
            promotions: self.lanes.get(lane).map_or(0, |lane| lane.promotions),
            behind: None,
            is_tracked: true,
            was_lost: false,
            lane,
        };
        let in_sight = match seen_in {
            SeenIn::Instants => born,
            // Long windows were read, and what was born before the last of them.
            SeenIn::Windows => Instant::now(),
        };
        self.young.push(Batch::new(drawn.into_iter().map(new).collect(), in_sight));
        self.follow_until(is_apart.then(|| Instant::now() + NEWBORN), glancers)
    }

    /// What was just drawn of the births in a lane's window or instant, for the stack to be told on which it was born.
    pub fn newborn(&mut self, lane: usize, window: usize) -> impl Iterator<Item = &mut Watched> {
        let key = (self.tick, lane, window);
        let newborn = self.young.last_mut().into_iter().flat_map(|batch| &mut batch.objects);
        newborn.filter(move |object| (object.tick, object.lane, object.window) == key)
    }

    /// Looks between other things that take some ten microseconds each.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn glimpse(&mut self, is_apart: bool, glancers: &[Glancer<'a, M>]) -> Result<(), ReadError> {
        self.follow_until(is_apart.then(|| Instant::now() + BETWEEN), glancers)
    }

    /// Watches what was drawn last from now on: the objects whose stacks were found.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn watch(&mut self, glancers: &[Glancer<'a, M>]) -> Result<(), ReadError> {
        let Some(mut batch) = self.young.pop() else { return Ok(()) };
        let mut left = Vec::with_capacity(batch.objects.len());
        // Backwards: what is at an address that was born twice is the later one.
        for object in std::mem::take(&mut batch.objects).into_iter().rev().filter(|object| object.found.is_some()) {
            let is_newest = self.newest.insert(object.birth.address, object.tick) != Some(object.tick);
            if is_newest { &mut left } else { &mut batch.dead }.push(object);
        }
        batch.objects = left;
        batch.look(Instant::now());
        let measured = self.measure(&mut batch.objects, glancers);
        self.young.push(batch);
        measured
    }

    /// Looks at what was born a short while ago at growing intervals until `end`, awake where these are short. `None`: not now,
    /// and not later.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn follow(&mut self, end: Option<Instant>, glancers: &[Glancer<'a, M>]) -> Result<(), ReadError> {
        self.follow_until(end, glancers)?;
        let now = Instant::now();
        let mut grown = Vec::new();
        for batch in std::mem::take(&mut self.young) {
            let was_lost = end.is_none() || batch.is_lost(now);
            if !was_lost && batch.age(now) < YOUNG {
                self.young.push(batch);
            } else {
                grown.extend(self.release(batch, was_lost));
            }
        }
        self.look(grown, glancers)
    }

    /// Looks at what was born a short while ago until `end`, and buries nothing.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn follow_until(&mut self, end: Option<Instant>, glancers: &[Glancer<'a, M>]) -> Result<(), ReadError> {
        let Some(end) = end else { return Ok(()) };
        let mut young = std::mem::take(&mut self.young);
        let followed = self.look_until(&mut young, end, glancers);
        self.young = young;
        followed
    }

    fn look_until(&self, batches: &mut [Batch], end: Instant, glancers: &[Glancer<'a, M>]) -> Result<(), ReadError> {
        loop {
            let now = Instant::now();
            let next = batches.iter().map(Batch::next_look).min();
            let Some(next) = next.filter(|next| *next.max(&now) < end) else { return Ok(()) };
            wait_closely(next);
            let at = Instant::now();
            let mut places: Vec<&mut Watched> = Vec::new();
            for batch in batches.iter_mut().filter(|batch| batch.next_look() <= at) {
                batch.look(at);
                places.extend(batch.objects.iter_mut().filter(|object| !object.place.is_over()));
            }
            let births: Vec<Birth> = places.iter().map(|object| object.birth).collect();
            let taken = follow::taken(&self.reader(), self.rule, &births)?;
            let quiet = self.quiet(glancers);
            for (object, taken) in places.into_iter().zip(taken) {
                let is_there = taken.is_some_and(|is_tracked| is_tracked || !self.must_be_tracked(object, &quiet));
                object.place.look(at, is_there);
            }
        }
    }

    /// What is no longer followed closely, but for the dead.
    fn release(&mut self, batch: Batch, was_lost: bool) -> Vec<Watched> {
        let Batch { mut objects, mut dead, .. } = batch;
        objects.iter_mut().chain(&mut dead).for_each(|object| object.was_lost = was_lost);
        self.verdicts.out_of_sight += if was_lost { objects.len() + dead.len() } else { 0 } as u64;
        dead.into_iter().for_each(|object| self.bury(object));
        objects
    }

    /// Only a collection takes what is alive out of the lists. `quiet` is asked after the object was read: what was read before
    /// is from before.
    fn must_be_tracked(&self, object: &Watched, quiet: &[bool]) -> bool {
        let epoch = self.lanes.get(object.lane).map(|lane| lane.epoch);
        Some(object.epoch) == epoch && quiet.get(object.lane) == Some(&true)
    }

    /// Of each lane, whether no collection has begun since the last one that was noticed.
    fn quiet(&self, glancers: &[Glancer<'a, M>]) -> Vec<bool> {
        let is_quiet = |(glancer, lane): (&Glancer<'a, M>, &Collections)| {
            glancer.state().is_ok_and(|state| !state.collecting && state.collections == lane.counters)
        };
        glancers.iter().zip(&self.lanes).map(is_quiet).collect()
    }

    /// One more probe: looks at what is due.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn next_tick(&mut self, glancers: &[Glancer<'a, M>]) -> Result<(), ReadError> {
        self.tick += 1;
        self.due.remove(&self.tick).map_or(Ok(()), |due| self.look(due, glancers))
    }

    /// Looks at objects, and plans the next look at those that may be alive.
    fn look(&mut self, objects: Vec<Watched>, glancers: &[Glancer<'a, M>]) -> Result<(), ReadError> {
        for object in self.check(objects, glancers)? {
            let age = self.tick - object.tick;
            let next = self.tick + (age / LOOKS_OF_AGE + 1).min(LOOK_MAX);
            self.due.entry(next).or_default().push(object);
        }
        Ok(())
    }

    /// Looks at objects; the dead are buried, and the others returned: those that may be alive.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn check(&mut self, mut objects: Vec<Watched>, glancers: &[Glancer<'a, M>]) -> Result<Vec<Watched>, ReadError> {
        self.measure(&mut objects, glancers)?;
        let mut alive = Vec::with_capacity(objects.len());
        for object in objects {
            let is_newest = self.newest.get(&object.birth.address) == Some(&object.tick);
            if is_newest && !object.place.is_over() {
                alive.push(object);
                continue;
            }
            if is_newest {
                self.newest.remove(&object.birth.address);
            }
            self.bury(object);
        }
        Ok(alive)
    }

    /// Looks at objects, and how large they are.
    fn measure(&self, objects: &mut [Watched], glancers: &[Glancer<'a, M>]) -> Result<(), ReadError> {
        if objects.is_empty() {
            return Ok(());
        }
        let front = self.layout.constants.gc_head_size;
        let mut buffers = vec![[0u8; BODY_MAX]; objects.len()];
        let mut pieces: Vec<Piece<'_>> = objects
            .iter()
            .zip(&mut buffers)
            .map(|(object, buffer)| {
                let length = front + self.body_length(object.birth.type_);
                Piece { address: object.birth.address.back(front), buffer: &mut buffer[..length], filled: false }
            })
            .collect();
        let at = Instant::now();
        self.memory.read_pieces(&mut pieces)?;
        let filled: Vec<(bool, usize)> = pieces.iter().map(|piece| (piece.filled, piece.buffer.len())).collect();
        let quiet = self.quiet(glancers);
        for ((object, buffer), (filled, length)) in objects.iter_mut().zip(&buffers).zip(filled) {
            let bytes = &buffer[..length];
            let taken = follow::is_taken(self.layout, self.rule, object.birth.type_, bytes).filter(|_| filled);
            let is_there = taken.is_some_and(|is_tracked| is_tracked || !self.must_be_tracked(object, &quiet));
            object.place.look(at, is_there);
            if is_there && !object.place.is_over() {
                object.bytes = self.size(object, &bytes[front..]);
                object.is_tracked = taken == Some(true);
                if object.first_bytes == 0 {
                    object.first_bytes = object.bytes;
                }
            }
        }
        Ok(())
    }

    fn bury(&mut self, mut object: Watched) {
        if object.first_bytes == 0 {
            // It died before it was measured.
            let info = self.types.find(object.birth.type_.0).map(|id| self.types.get(id));
            object.first_bytes = info.map_or(0, |info| info.basicsize.saturating_add(info.front as u64));
        }
        self.dead.push(object);
    }

    /// Bytes of an object of this type that are read.
    fn body_length(&self, type_: Address) -> usize {
        let least = self.layout.object.ob_type + 8;
        let of_type = self.types.find(type_.0).map_or(0, |id| self.types.get(id).basicsize);
        usize::try_from(of_type).unwrap_or(0).clamp(least, BODY_MAX - self.layout.constants.gc_head_size)
    }

    /// The shallow size; 0 where it cannot be told.
    fn size(&self, object: &Watched, body: &[u8]) -> u64 {
        let Some(info) = self.types.find(object.birth.type_.0).map(|id| self.types.get(id)) else { return 0 };
        let measure = Measure::new(self.layout, self.version, &self.types);
        let least = info.basicsize + info.front as u64;
        match measure.measure(info, object.birth.address, body).map(|measured| measured.size) {
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

    /// All that may be alive, for the last looks. `is_gone`: the target cannot be read any more, and what was alive when it
    /// was last looked at counts.
    pub fn take_all(&mut self, is_gone: bool) -> Vec<Watched> {
        let mut objects: Vec<Watched> = std::mem::take(&mut self.due).into_values().flatten().collect();
        for batch in std::mem::take(&mut self.young) {
            let was_lost = batch.is_lost(Instant::now());
            objects.extend(self.release(batch, was_lost));
        }
        if !is_gone {
            return objects;
        }
        let is_alive = |it: &Watched| self.newest.get(&it.birth.address) == Some(&it.tick) && !it.place.is_empty();
        let (alive, dead): (Vec<Watched>, Vec<Watched>) = objects.into_iter().partition(is_alive);
        dead.into_iter().for_each(|object| self.bury(object));
        alive
    }

    /// Another look at the end, without a probe.
    pub fn tick(&mut self) {
        self.tick += 1;
    }

    /// These have ended with their interpreter.
    pub fn end(&mut self, objects: Vec<Watched>) {
        objects.into_iter().for_each(|object| self.bury(object));
    }

    /// Which of these stand where an object of their age must: those of the youngest list in order of birth, and what a
    /// collection has seen in order of these collections.
    pub fn judge(&mut self, objects: Vec<Watched>, order: &Order, survivors: &mut Vec<Watched>) {
        let mut placed: Vec<(u64, u64, Watched)> = Vec::new();
        for object in objects {
            if object.place.is_empty() {
                self.bury(object);
                continue;
            }
            // A collection empties the youngest list, one of the middle list that as well.
            let lane = self.lanes.get(object.lane).copied().unwrap_or_default();
            let (is_old, is_oldest) = (object.epoch < lane.epoch, object.promotions < lane.promotions);
            let is_read = order.has_all_old() || is_oldest && order.has_oldest();
            let has_died = object.place.missed().is_some();
            match order.position(object.birth.address) {
                Some((list, _)) if list == 0 && is_old || list == 1 && is_oldest => {
                    self.verdicts.out_of_order += u64::from(!has_died);
                    self.bury(object);
                }
                Some((list, position)) => {
                    // The youngest list holds what was born since the last collection, one by one.
                    let birth = if list == 0 { object.tick } else { 0 };
                    placed.push((position, (object.epoch << 32) + birth, object));
                }
                None if is_old && object.is_tracked && is_read => {
                    self.verdicts.out_of_order += u64::from(!has_died);
                    self.bury(object);
                }
                None => {
                    let count = match object.is_tracked {
                        _ if has_died => &mut self.verdicts.replaced,
                        true => &mut self.verdicts.not_read,
                        false => &mut self.verdicts.not_tracked,
                    };
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
            let has_died = object.place.missed().is_some();
            if in_order {
                let count = if has_died { &mut self.verdicts.replaced } else { &mut self.verdicts.in_order };
                *count += 1;
                survivors.push(object);
            } else {
                self.verdicts.out_of_order += u64::from(!has_died);
                self.bury(object);
            }
        }
    }
}

/// By number.
fn page_of(birth: &Birth) -> u64 {
    birth.address.0 / follow::PAGE
}
