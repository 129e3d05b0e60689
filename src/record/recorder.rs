//! A recording: probes and trains of windows, and the objects of them that are watched until the end.
//!
//! A probe makes some glances in each lane, a train some windows ([`crate::record::births`]). Of their births some are drawn at
//! random and watched ([`crate::record::watcher`]).

use std::time::{self, Duration};

use fastrand::Rng;

use crate::process::memory::{Memory, ReadError};
use crate::python::interpreter::Interpreter;
use crate::python::interpreter::Python;
use crate::python::layout::Layout;
use crate::python::proof;
use crate::python::reader::Reader;
use crate::python::types::TypeTable;

use super::births::{self, Fate, Moment, Window};
use super::counters::Counters;
use super::glance::{Glancer, Lane};
use super::newest::Birth;
use super::order::Order;
use super::stacks::{StackId, Stacks};
use super::standing::{self, Standing};
use super::watched::{SeenIn, Watched};
use super::watcher::{Drawn, Watcher};

/// Births watched of one probe or train, at most.
const WATCHED: usize = 32;
/// Instants of one probe, at most.
const INSTANTS: u32 = 4;
/// From waking to the first, at most: for some hundred microseconds after we wake and read, a loop that allocates was seen to run
/// at three quarters of its speed; after twice that no more.
const FIRST: Duration = Duration::from_micros(200);
/// From one to the next: long enough to read what was born in the one before. With a gap of 50 to 100 microseconds half of them came
/// later, after those that had found much: a function that allocates was then found to run at 39 % of first instants, and at 27 %
/// of fourth ones.
const GAP: Duration = Duration::from_micros(400);
/// How long before an instant nothing else is looked at.
const QUIET: Duration = Duration::from_micros(100);
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
    /// From its first look to its second one, in whose middle the stack was read.
    pub middle: Looks,
    /// From there to a third one: what was there at once.
    pub further: Looks,
}

/// What two looks at the list tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looks {
    /// Whether something was born between them, or the collector began.
    pub is_moving: bool,
    /// Seconds between them.
    pub between: f64,
    /// Births in that time, on average where no more is known; `None`: not known.
    pub births: Option<f64>,
}

impl Looks {
    /// The births, where there was something to be counted.
    pub fn counted(&self) -> Option<f64> {
        self.births.filter(|_| self.is_moving)
    }
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

/// When the instants of a probe come, after we have woken.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// From waking to the first one; zero where the target cannot run meanwhile.
    first: Duration,
    /// From one to the next.
    gap: Duration,
    /// How many.
    count: u32,
}

impl Pace {
    /// From waking to the last one.
    fn length(&self) -> Duration {
        self.first + self.gap * self.count.saturating_sub(1)
    }
}

/// Records.
pub struct Recorder<'a, M: Memory + ?Sized> {
    memory: &'a M,
    layout: &'a Layout,
    python: &'a Python,
    /// Stacks met so far.
    pub stacks: Stacks,
    /// The objects that are watched.
    pub watcher: Watcher<'a, M>,
    glancers: Vec<Glancer<'a, M>>,
    /// Of each of these, whether its interpreter has ended.
    has_ended: Vec<bool>,
    /// How long a probe may take.
    longest: Duration,
    rng: Rng,
}

impl<'a, M: Memory + ?Sized> Recorder<'a, M> {
    /// A recorder that has seen nothing yet. Of one probe or train at most `most` births are watched; a probe may take about
    /// `longest`.
    pub fn new(
        memory: &'a M,
        python: &'a Python,
        types: TypeTable,
        most: usize,
        longest: Duration,
        mut rng: Rng,
    ) -> Self {
        let reader = Reader { memory, layout: &python.layout };
        let lanes = Lane::all(&reader, python, &python.interpreters);
        let most = most.clamp(1, WATCHED);
        Recorder {
            memory,
            layout: &python.layout,
            python,
            stacks: Stacks::default(),
            watcher: Watcher::new(reader, python.version, types, lanes.len(), most, Rng::with_seed(rng.u64(..))),
            has_ended: vec![false; lanes.len()],
            longest,
            glancers: lanes.into_iter().map(|lane| Glancer::new(reader, lane)).collect(),
            rng,
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
            self.watcher.add_lane();
        }
    }

    /// How long a probe waits, in all lanes together. `is_apart`: as for [`Recorder::probe`].
    pub fn waits(&self, is_apart: bool) -> Duration {
        self.pace(is_apart).length() * u32::try_from(self.lanes()).unwrap_or(u32::MAX)
    }

    fn pace(&self, is_apart: bool) -> Pace {
        if !is_apart {
            return Pace { count: 1, ..Pace::default() };
        }
        let longest = self.longest / u32::try_from(self.lanes().max(1)).unwrap_or(u32::MAX);
        let first = FIRST.min(longest / 2);
        let further = (longest - first).as_nanos() / GAP.as_nanos();
        Pace { first, gap: GAP, count: u32::try_from(further).map_or(INSTANTS, |further| INSTANTS.min(1 + further)) }
    }

    /// Reads some instants in each lane. One answer for each lane. `is_apart`: the target runs while we look; where it cannot,
    /// one instant says as much as many. `watches`: what is born is to be watched; [`Recorder::follow`] is to be called at once.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn probe(&mut self, is_apart: bool, watches: bool) -> Result<Vec<Probe>, ReadError> {
        self.stacks.forget();
        let pace = self.pace(is_apart);
        let mut probes = Vec::new();
        // What was born in one lane is out of sight while others are probed: it is that of the last one that is watched.
        let mut lanes = self.running();
        let first = self.rng.usize(..lanes.len().max(1));
        lanes.rotate_left(first);
        for (index, &lane) in lanes.iter().enumerate() {
            let watches = watches && index + 1 == lanes.len();
            let moments = self.moments(lane, pace, is_apart)?;
            // Those of the last instant are watched, unless it was late: of the others some have died meanwhile.
            let mut is_drawn = false;
            if let Some(Some(Moment { glance, births, .. })) = moments.last() {
                self.watcher.notice_collections(lane, glance.collections);
                if let Some(births) = births.as_ref().filter(|births| watches && !births.births.is_empty()) {
                    let windows = &[(moments.len() - 1, births.births.as_slice())];
                    let (seen_in, count) = (SeenIn::Instants, births.count);
                    let drawn = Drawn { lane, seen_in, windows, count, born: births.at };
                    self.watcher.draw(&drawn, is_apart, &self.glancers)?;
                    is_drawn = true;
                }
            }
            probes.push(self.digest_instants(lane, &moments, is_apart)?);
            if is_drawn {
                self.watcher.watch(&self.glancers)?;
            }
            self.watcher.glimpse(is_apart, &self.glancers)?;
        }
        Ok(probes)
    }

    /// The instants of a probe in a lane, at times that do not depend on what they find; `None` for one that was late. What is
    /// young is looked at meanwhile.
    fn moments(&mut self, lane: usize, pace: Pace, is_apart: bool) -> Result<Vec<Option<Moment>>, ReadError> {
        let began = time::Instant::now();
        // Long after the last one nothing that is guessed is right: this one learns what to guess.
        self.glancers[lane].glance()?;
        let mut moments = Vec::new();
        for index in 0..pace.count {
            let start = began + pace.first + pace.gap * index;
            if is_apart {
                self.watcher.follow_until(start.checked_sub(QUIET), &self.glancers)?;
            }
            moments.push(births::instant(&mut self.glancers[lane], start, is_apart)?);
        }
        Ok(moments)
    }

    /// Reads a train in each lane. One answer for each lane. `is_apart`: as for [`Recorder::probe`].
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn train(&mut self, length: Duration, dwell: Duration, is_apart: bool) -> Result<Vec<Vec<Seen>>, ReadError> {
        self.watcher.next_tick(&self.glancers)?;
        let mut seen = Vec::new();
        for lane in self.running() {
            let windows = births::train(&mut self.glancers[lane], length, dwell)?;
            // The last ones: what happened to those before while we looked at others is not known.
            let mut last: Vec<(usize, &[Birth])> = Vec::new();
            for (index, window) in windows.iter().enumerate().rev() {
                if let Fate::Births(births) = &window.fate {
                    last.push((index, births));
                }
                if last.iter().map(|(_, births)| births.len()).sum::<usize>() >= self.watcher.most {
                    break;
                }
            }
            let count: usize = last.iter().map(|(_, births)| births.len()).sum();
            if let Some(Window { end, .. }) = windows.last() {
                self.watcher.notice_collections(lane, end.collections);
                if count > 0 {
                    let (seen_in, count) = (SeenIn::Windows, count as f64);
                    let drawn = Drawn { lane, seen_in, windows: &last, count, born: end.at };
                    self.watcher.draw(&drawn, is_apart, &self.glancers)?;
                }
            }
            seen.push(self.digest(lane, &windows));
            if count > 0 {
                self.watcher.watch(&self.glancers)?;
            }
            self.watcher.glimpse(is_apart, &self.glancers)?;
        }
        Ok(seen)
    }

    fn digest_instants(&mut self, lane: usize, moments: &[Option<Moment>], is_apart: bool) -> Result<Probe, ReadError> {
        let reader = Reader { memory: self.memory, layout: self.layout };
        let interpreter = self.glancers[lane].lane.interpreter.id;
        let mut lost = 0;
        let mut instants = Vec::new();
        let mut count = 0;
        for (index, moment) in moments.iter().enumerate() {
            let Some(Moment { glance, births, at_once }) = moment else { continue };
            count += 1;
            if glance.was_collecting {
                continue;
            }
            while self.stacks.read_on(&reader, glance) {
                self.watcher.glimpse(is_apart, &self.glancers)?;
            }
            let Some(found) = self.stacks.find(&reader, interpreter, glance) else {
                lost += usize::from(glance.is_moving && glance.is_own);
                continue;
            };
            self.watcher.glimpse(is_apart, &self.glancers)?;
            for birth in births.iter().flat_map(|births| &births.births) {
                self.watcher.is_born(*birth);
            }
            for object in self.watcher.newborn(lane, index) {
                object.found = Some(found.clone());
            }
            instants.push(Instant {
                stack: found.stack,
                lines: found.lines,
                middle: Looks {
                    is_moving: glance.is_moving,
                    between: glance.between.as_secs_f64(),
                    births: births.as_ref().map(|births| births.count),
                },
                further: Looks {
                    is_moving: glance.further.is_moving,
                    between: glance.further.between.as_secs_f64(),
                    births: *at_once,
                },
            });
        }
        Ok(Probe { instants, lost, count })
    }

    /// From windows to what they say; some of the births are remembered.
    fn digest(&mut self, lane: usize, windows: &[Window]) -> Vec<Seen> {
        let reader = Reader { memory: self.memory, layout: self.layout };
        let interpreter = self.glancers[lane].lane.interpreter.id;
        let mut seen = Vec::with_capacity(windows.len());
        for (index, window) in windows.iter().enumerate() {
            let start = self.stacks.find(&reader, interpreter, &window.start);
            let last = self.stacks.find(&reader, interpreter, &window.end);
            let end = last.filter(|_| window.start.agrees(&window.end) && !window.is_late());
            if let Fate::Births(births) = &window.fate {
                births.iter().for_each(|&birth| self.watcher.is_born(birth));
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
                for object in self.watcher.newborn(lane, index) {
                    object.found = Some(if self.rng.bool() { start.clone() } else { end.clone() });
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
        seen
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

    /// Looks at what was born a short while ago, until `end`, then at what is due; `None` where the target cannot run while we
    /// look. To follow each probe at once: what was born at it must not be out of sight for long.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn follow(&mut self, end: Option<time::Instant>) -> Result<(), ReadError> {
        self.watcher.follow(end, &self.glancers)?;
        self.watcher.next_tick(&self.glancers)?;
        self.watcher.glimpse(end.is_some(), &self.glancers)
    }

    /// The last look: what is alive at the end. `is_gone`: the target cannot be read any more, and what was alive when it
    /// was last looked at counts. With what stands in the lists of each lane since the first of these was born, where that is known.
    pub fn finish(&mut self, is_gone: bool) -> (Vec<Watched>, Vec<Option<Standing>>) {
        let objects = self.watcher.take_all(is_gone);
        if is_gone {
            return (objects, Vec::new());
        }
        self.refresh();
        // After the refresh: it adds the lanes of interpreters that have begun meanwhile.
        let mut standing = vec![None; self.glancers.len()];
        let mut alive = self.look_closely(objects);
        let reader = Reader { memory: self.memory, layout: self.layout };
        let mut survivors = Vec::new();
        for (lane, glancer) in self.glancers.iter_mut().enumerate() {
            let (own, others): (Vec<Watched>, Vec<Watched>) = alive.into_iter().partition(|it| it.lane == lane);
            alive = others;
            if self.has_ended[lane] {
                self.watcher.end(own);
                continue;
            }
            if let Ok(glance) = glancer.glance() {
                self.watcher.notice_collections(lane, glance.collections);
            }
            let order = Order::read(&reader, &glancer.lane, ORDER_MAX);
            log::debug!(
                "{} objects stand in order, old lists whole: {}, oldest {}",
                order.len(),
                order.has_all_old(),
                order.has_oldest()
            );
            let before = survivors.len();
            self.watcher.judge(own, &order, &mut survivors);
            let own = survivors.get_mut(before..).unwrap_or_default();
            if let Some(standing) = standing.get_mut(lane) {
                *standing = standing::count(&reader, &order, own);
            }
        }
        (survivors, standing)
    }

    /// Looks again and again for a moment, with births in between: a place in which objects come and go is found empty, or
    /// taken by another type, or by an object that was just born.
    fn look_closely(&mut self, objects: Vec<Watched>) -> Vec<Watched> {
        let began = std::time::Instant::now();
        let mut alive = objects;
        for _ in 0..CLOSING_LOOKS {
            let before = alive.clone();
            alive = match self.watcher.check(alive, &self.glancers) {
                Ok(alive) => alive,
                Err(_) => return before,
            };
            if began.elapsed() > CLOSING_MAX {
                break;
            }
            std::thread::sleep(CLOSING_PAUSE.mul_f64(2.0 * self.rng.f64()));
            self.watcher.tick();
            for lane in self.running() {
                let windows = births::train(&mut self.glancers[lane], CLOSING_PAUSE / 10, Duration::from_micros(30));
                for window in windows.unwrap_or_default() {
                    let Fate::Births(births) = window.fate else { continue };
                    births.into_iter().for_each(|birth| self.watcher.is_born(birth));
                }
            }
        }
        alive
    }
}
