//! Which objects were born between two instants, and on which stack?
//!
//! Two facts make this possible without touching the target. The collector keeps its objects in lists in order of birth
//! (a new one is linked in at the tail of the youngest, `_PyObject_GC_TRACK`), so that what is new since a known object
//! stands behind it. And the frames of the thread that holds the lock can be read at the same instants. What was born in
//! a *window* between two [glances](crate::record::glance) that found the same thread in the same frames was born there.
//!
//! # Why windows at instants of their own
//!
//! Giving all that is new since the last tick to the stack of now would sample *time*: a function that computes for 9 ms
//! after another one has allocated for 1 ms would be found running at nine ticks of ten, and get nine tenths of what the
//! other has allocated. What is looked at here is what is born in a window of fixed place and length. An instant is drawn
//! at random in each part of the recording (a stratum) before anything of it is known, so each birth is as likely to fall
//! into a window as any other of its stratum, whoever runs: the births of windows, each weighted by its stratum's time over
//! its window's, are an unbiased sample of all births (Horvitz and Thompson, *A generalization of sampling without
//! replacement from a finite universe*, 1952). Nothing that is found may decide when the next look comes: instants of a
//! probe are a fixed time apart, and those that come late come late for all.
//!
//! # Instants
//!
//! The window is a glance itself ([`instant`]): the newest object, then who runs, then the newest object again, within some
//! microseconds. What was born in it counts for the stack found in the middle of it. So in calls longer than that births are
//! those of their stack but at the ends, and shorter ones share them with their neighbours in time: a glance that looked
//! whether the same frame is topmost before and after, and left out the others, would leave out nearly all of a program that
//! consists of short calls, and find those at which it was held up.
//!
//! The object that was newest at the first look may be gone at the second one, or another one may be in its place, as what stands
//! behind it tells; then the second look cannot tell what came after it. Such
//! instants cannot be left out either, since in programs that make short-lived objects they are the most. The births
//! between the looks are then a part, by time, of all that is left of those since some objects that were known a moment before. That is
//! right for what lives on, and for what survives, but far too little where most dies within ten microseconds.
//!
//! For such programs there is a third look, some three microseconds after the second one, with which the newest objects are read at
//! once ([`at_once`]). So much is seldom born meanwhile that it says as much as the others, and whose it was is less sure where calls
//! are short: it counts only where births are many more by it ([`crate::record::allocations`]).
//!
//! Reading slows the target, above all what it is about to write, so an instant comes some time after we have woken, and little
//! is read just before it and between its looks.
//!
//! For all that the target must run while we look, and so we keep off its processor ([`crate::process::processors`]); where it
//! does not run just then, nothing is born, which is no error.
//!
//! # Trains
//!
//! Where there is one processor only, the target stands still while we look, and nothing is ever born in an instant. For
//! that there are *trains* of longer windows, in which we sleep ([`train`]): what was born in one that found the same thread
//! in the same frames at both ends is taken to be born there. They also see more births to be remembered.
//!
//! # What is not seen
//!
//! An object that dies before the third look is not counted, nor are all those that come and go between two looks. Objects that the collector does not track (str, bytes, int, float; tuples and dicts of
//! such, in some versions) are in no list. A window that ends while the collector runs, or whose list
//! changed too fast to be read, counts for time, not for births.

use std::time::{Duration, Instant};

use rustc_hash::FxHashSet;

use crate::process::Address;
use crate::process::memory::{Memory, ReadError};

use super::glance::{Glance, Glancer, spin_until};
use super::newest::{BIRTHS_MAX, Birth, KNOWN, LISTS, Newest, TRIES, Walk};

/// The longest window whose ends can agree. Longer ones are those in which the system gave the processor to others. What
/// is born in them counts, since where processors are few the target runs just when we do not.
const LENGTH_MAX: Duration = Duration::from_micros(160);
/// How long before an instant the newest objects are read: long enough for that, and no longer than need be.
const NEAR: Duration = Duration::from_micros(20);
/// Objects born in an instant; in some microseconds a tight loop of 3.14 makes some three hundred.
const WITHIN_MAX: usize = 2048;
/// An object that is allocated is counted at once, and tracked a little later: of so many one may be missing.
const UNTRACKED: usize = 8;
/// So many fewer between two looks are not those few that calls make and lose.
const DYING: i32 = 8;
/// Windows in one train.
const WINDOWS_MAX: usize = 1024;

/// What happened in a window.
#[derive(Clone, Debug)]
pub enum Fate {
    /// These were born, oldest first.
    Births(Vec<Birth>),
    /// The list changed faster than it could be read.
    Torn,
    /// It ended while the collector ran, when lists cannot be read.
    Collected,
}

/// The time between two glances.
#[derive(Clone, Debug)]
pub struct Window {
    /// How it began.
    pub start: Glance,
    /// How it ended.
    pub end: Glance,
    /// What was born.
    pub fate: Fate,
}

impl Window {
    /// Whether we were kept waiting: in so long a time a thread may leave a function and come back to it.
    pub fn is_late(&self) -> bool {
        self.length() > LENGTH_MAX
    }

    /// How long it took.
    pub fn length(&self) -> Duration {
        self.end.at.saturating_duration_since(self.start.at)
    }
}

/// Reads windows one after another for as long as `length_wanted`, each at least `dwell` long; at least one. Empty where the
/// lists could not be read.
///
/// # Errors
/// Where the target cannot be read at all any more.
pub fn train<M: Memory + ?Sized>(
    glancer: &mut Glancer<'_, M>,
    length_wanted: Duration,
    dwell: Duration,
) -> Result<Vec<Window>, ReadError> {
    let began = Instant::now();
    let mut windows: Vec<Window> = Vec::new();
    let Some((mut start, mut known)) = base(glancer, &FxHashSet::default())? else { return Ok(windows) };
    loop {
        // Also where reading has taken that long: the target must be able to run.
        std::thread::sleep(dwell);
        let end = glancer.glance()?;
        let length = end.at.saturating_duration_since(start.at);
        let mut is_quiet = false;
        let fate = if start.collecting && end.collecting && start.collections == end.collections {
            is_quiet = true;
            Fate::Births(Vec::new())
        } else if end.collecting {
            Fate::Collected
        } else if start.tail == end.tail {
            is_quiet = true;
            Fate::Births(Vec::new())
        } else {
            // While the collector runs the youngest list is empty, and what is in it later was born later.
            let lists = if start.collecting { 1 } else { LISTS };
            match Walk::new(glancer, lists).back_to(end.tail, &known, BIRTHS_MAX)? {
                Some(nodes) => {
                    known = nodes.iter().map(|node| node.head).collect();
                    let new = nodes.iter().position(|node| !node.is_new).unwrap_or(nodes.len());
                    Fate::Births(nodes.iter().take(new).rev().map(|node| node.birth).collect())
                }
                None => Fate::Torn,
            }
        };
        log::trace!(
            "window of {length:?}: {}, tail {} {}, {:?} {}",
            match &fate {
                Fate::Births(births) => births.len().to_string(),
                Fate::Torn => "torn".into(),
                Fate::Collected => "collected".into(),
            },
            start.tail,
            end.tail,
            end.collections,
            end.collecting
        );
        let is_whole = matches!(fate, Fate::Births(_));
        windows.push(Window { start, end: end.clone(), fate });
        if began.elapsed() >= length_wanted || windows.len() >= WINDOWS_MAX {
            break;
        }
        if is_quiet {
            start = end;
            continue;
        }
        // Reading the list took a while: what was born meanwhile belongs to no window.
        if !is_whole {
            known.clear();
        }
        let Some((fresh, more)) = base(glancer, &known)? else { break };
        (start, known) = (fresh, more);
    }
    Ok(windows)
}

/// What was born between the two looks of a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct Between {
    /// The objects. Where it is not known which ones were born in that time, those of a longer time: the newest alone
    /// would be those that live the shortest.
    pub births: Vec<Birth>,
    /// How many were born, on average where that is all that is known.
    pub count: f64,
    /// When the last of them was read: they were there then.
    pub at: Instant,
}

impl Between {
    /// Nothing was born.
    fn nothing(at: Instant) -> Self {
        Between { births: Vec::new(), count: 0.0, at }
    }
}

/// An instant.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The glance.
    pub glance: Glance,
    /// What was born between its first two looks at the list, where that can be told.
    pub births: Option<Between>,
    /// How many were born between its second and its third, where that can be told.
    pub at_once: Option<f64>,
}

/// Makes a glance at an instant that does not depend on what is found: with what was born between its looks, where that can be
/// told. `None` where we were kept from making it in time. Waits awake, but for the most of a long time. `is_apart`: the target
/// runs meanwhile.
///
/// # Errors
/// Where the target cannot be read at all any more.
pub fn instant<M: Memory + ?Sized>(
    glancer: &mut Glancer<'_, M>,
    start: Instant,
    is_apart: bool,
) -> Result<Option<Moment>, ReadError> {
    wait_closely(start);
    let known = Newest::read(glancer)?;
    glancer.aim()?;
    if is_apart {
        wait_closely(start + NEAR);
    }
    let glance = glancer.glance()?;
    if glance.is_late() {
        return Ok(None);
    }
    let at_once = at_once(glancer, &glance)?;
    // What stands behind the first look is known only where no collection came in between.
    let is_quiet = !glance.collecting && !glance.was_collecting && glance.is_known();
    let births = match is_quiet {
        true if !glance.is_moving => Some(Between::nothing(glance.at)),
        true => within(glancer, &glance, &known)?,
        false => None,
    };
    log::trace!(
        "instant of {:?}: {} more, {:?} births; {:?} further: {at_once:?} births",
        glance.between,
        glance.more,
        births.as_ref().map(|births| births.count),
        glance.further.between
    );
    Ok(Some(Moment { glance, births, at_once }))
}

/// How many were born between the second and the third look of a glance, and were there then. `None` where that cannot be told.
fn at_once<M: Memory + ?Sized>(glancer: &Glancer<'_, M>, glance: &Glance) -> Result<Option<f64>, ReadError> {
    if glance.further.is_collected || !glance.is_known() {
        return Ok(None);
    }
    let head = glancer.lane.heads().first().copied().unwrap_or_default();
    let mut walk = Walk::after_glance(glancer, 1);
    let (mut count, mut newer, mut at) = (0, head, glance.further.tail);
    while at != glance.tail {
        let node = if at == head || count >= WITHIN_MAX { None } else { walk.node(at)? };
        // Behind the newest one more have been born since.
        let Some((_, previous, _)) = node.filter(|&(next, ..)| next == newer || count == 0) else {
            // As in `since`.
            return Ok((glance.further.more < -DYING).then_some(0.0));
        };
        count += 1;
        (newer, at) = (at, previous);
    }
    Ok(Some(count as f64))
}

/// What was born between the two looks of a glance. `None` where that cannot be told.
fn within<M: Memory + ?Sized>(
    glancer: &Glancer<'_, M>,
    glance: &Glance,
    known: &Newest,
) -> Result<Option<Between>, ReadError> {
    let head = glancer.lane.heads().first().copied().unwrap_or_default();
    let mut walk = Walk::after_glance(glancer, 1);
    let mut births: Vec<Birth> = Vec::new();
    let (mut newer, mut at) = (head, glance.tail);
    while at != glance.before {
        let node = if at == head || births.len() >= WITHIN_MAX { None } else { walk.node(at)? };
        // Behind the newest one more have been born since.
        let Some((_, previous, type_)) = node.filter(|&(next, ..)| next == newer || births.is_empty()) else {
            return since(glancer, glance, known);
        };
        births.push(walk.birth(at, type_));
        (newer, at) = (at, previous);
    }
    let is_same = at == head || walk.node(at)?.is_some_and(|(_, previous, _)| Some(previous) == glance.older);
    if !is_same || i64::from(glance.more) > (births.len() + births.len() / UNTRACKED) as i64 {
        // What was newest at the first look is another object by now, in the same place.
        return since(glancer, glance, known);
    }
    Ok(Some(Between { count: births.len() as f64, births, at: walk.read_at }))
}

/// The same, by what was born since some objects were the newest: that part which the glance is of the time since then.
fn since<M: Memory + ?Sized>(
    glancer: &Glancer<'_, M>,
    glance: &Glance,
    known: &Newest,
) -> Result<Option<Between>, ReadError> {
    let found = known.births(glancer)?;
    let state = glancer.state()?;
    if state.collecting || state.collections != known.collections {
        return Ok(None);
    }
    let Some((births, until)) = found else {
        // Where the newest are all gone and there are far fewer than before, they die, as when a list goes with all it held.
        return Ok((glance.more < -DYING).then(|| Between::nothing(glance.at)));
    };
    let part = glance.between.as_secs_f64() / until.duration_since(known.at).as_secs_f64();
    let count = births.len() as f64 * part.min(1.0);
    Ok(Some(Between { births, count, at: until }))
}

/// A glance, and what was alive at it, so far as a walk needs it. `known` shortens the walk.
fn base<M: Memory + ?Sized>(
    glancer: &mut Glancer<'_, M>,
    known: &FxHashSet<Address>,
) -> Result<Option<(Glance, FxHashSet<Address>)>, ReadError> {
    let nobody = FxHashSet::default();
    for attempt in 0..TRIES {
        let glance = glancer.glance()?;
        if glance.collecting {
            // It may take long; the time counts, and nothing is born meanwhile.
            return Ok(Some((glance, nobody)));
        }
        let (known, limit) = if attempt == 0 && !known.is_empty() { (known, BIRTHS_MAX) } else { (&nobody, KNOWN) };
        if let Some(nodes) = Walk::new(glancer, LISTS).back_to(glance.tail, known, limit)? {
            return Ok(Some((glance, nodes.iter().map(|node| node.head).collect())));
        }
    }
    Ok(None)
}

/// Sleeps until an instant. Never waits awake: where processors are few, that would keep the target from running, and
/// a window that it sleeps through shows nothing.
pub fn wait_until(instant: Instant) {
    loop {
        let left = instant.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left);
    }
}

/// Waits for an instant, the last of it awake.
pub fn wait_closely(instant: Instant) {
    /// What a sleep may take too long.
    const AWAKE: Duration = Duration::from_micros(60);
    if let Some(sleep) = instant.saturating_duration_since(Instant::now()).checked_sub(AWAKE) {
        std::thread::sleep(sleep);
    }
    spin_until(instant);
}
