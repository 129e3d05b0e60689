//! Is what was born still there, or another object in its place?
//!
//! An object that dies soon leaves its place to the next one of its size, as a rule of the same type and made by another
//! function. If that one stays, the place looks as if the first had: same address, same type, the same neighbours in the
//! collector's list, and the same batch of the collector. Nothing in memory tells the two apart; all that can be seen is the
//! place while it is empty. So the places of new objects are looked at every few microseconds, then at growing intervals.
//!
//! A place that is empty for less than the time between two looks is found so only at times. Say deaths are equally likely at
//! all times and gaps of all such lengths equally frequent. Then of the gaps about one look, those that begin within the time
//! `b` before it and end within the time `a` after it are as `b a`, and those that both begin and end within `b`, and are
//! missed, as `b² / 2`. So for each place that was found empty at one look only there are `b / 2a` that were empty
//! unseen. What happens later to places at which an object is known to have died is what happens to so many that pass for
//! survivors, and is subtracted ([`crate::record::allocations`]).

use std::time::{Duration, Instant};

use crate::process::Address;
use crate::process::memory::{Memory, Piece, ReadError, u64_at};
use crate::python::layout::Layout;
use crate::python::object_header::GcHead;
use crate::python::object_header::RefcountRule;
use crate::python::object_header::refcount_word;
use crate::python::reader::Reader;

use super::newest::Birth;

/// Places in one page are read in one piece.
pub(crate) const PAGE: u64 = 4096;
/// How many missed ones a place may stand for: where looks are far apart, gaps of all lengths are no longer equally frequent.
const MISSED_MAX: f64 = 4.0;
/// The shortest time between two looks that is told apart from none.
const SHORTEST: Duration = Duration::from_nanos(100);

/// What was seen at the place of an object since its birth.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    /// The object, or one like it, at each look.
    Taken,
    /// Nothing at the last look, which came so long after the one before.
    Empty(Duration),
    /// Nothing at one look, and something like the object since: it has died, and so many others unseen.
    TakenAgain(f64),
    /// Nothing at more than one.
    EmptyAgain,
}

/// The place of an object since its birth.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    looked: Instant,
    seen: Seen,
}

impl Place {
    /// Of an object that was seen at an instant.
    pub fn new(at: Instant) -> Place {
        Place { looked: at, seen: Seen::Taken }
    }

    /// Looked at, at an instant: whether something like the object was there.
    pub fn look(&mut self, at: Instant, is_taken: bool) {
        let since = at.saturating_duration_since(self.looked).max(SHORTEST);
        self.looked = at;
        self.seen = match (self.seen, is_taken) {
            (Seen::Taken, true) => Seen::Taken,
            (Seen::Taken, false) => Seen::Empty(since),
            (Seen::Empty(before), true) => {
                Seen::TakenAgain((before.as_secs_f64() / (2.0 * since.as_secs_f64())).min(MISSED_MAX))
            }
            (Seen::TakenAgain(missed), true) => Seen::TakenAgain(missed),
            (Seen::Empty(_) | Seen::TakenAgain(_), false) | (Seen::EmptyAgain, _) => Seen::EmptyAgain,
        };
    }

    /// Whether nothing was there when it was last looked at.
    pub fn is_empty(&self) -> bool {
        matches!(self.seen, Seen::Empty(_) | Seen::EmptyAgain)
    }

    /// Whether nothing more can be learned from it.
    pub fn is_over(&self) -> bool {
        self.seen == Seen::EmptyAgain
    }

    /// `Some`: the object has died, another one is in its place, and so many others of which the same is true were not
    /// noticed.
    pub fn missed(&self) -> Option<f64> {
        match self.seen {
            Seen::TakenAgain(missed) => Some(missed),
            _ => None,
        }
    }
}

/// Whether something like these objects is in their places now, of their types and with references, and if so whether it is in
/// a list of the collector's. A few microseconds.
///
/// # Errors
/// Where the target cannot be read at all any more.
pub fn taken<M: Memory + ?Sized>(
    reader: &Reader<'_, M>,
    rule: RefcountRule,
    births: &[Birth],
) -> Result<Vec<Option<bool>>, ReadError> {
    let layout = reader.layout;
    let front = layout.constants.gc_head_size;
    let length = front + layout.object.ob_type + 8;
    let mut order: Vec<usize> = (0..births.len()).collect();
    order.sort_unstable_by_key(|&index| births[index].address);
    let mut spans: Vec<(Address, Vec<u8>)> = Vec::new();
    let mut of_birth = vec![(0, 0); births.len()];
    for index in order {
        let start = births[index].address.back(front);
        let page = start.0.wrapping_add(length as u64 - 1) / PAGE;
        match spans.last_mut().filter(|(first, _)| first.0 / PAGE == page) {
            Some((first, bytes)) => bytes.resize((start.0 - first.0) as usize + length, 0),
            None => spans.push((start, vec![0; length])),
        }
        let at = spans.last().map_or(0, |(first, _)| (start.0 - first.0) as usize);
        of_birth[index] = (spans.len() - 1, at);
    }
    let mut pieces: Vec<Piece<'_>> =
        spans.iter_mut().map(|(address, bytes)| Piece { address: *address, buffer: bytes, filled: false }).collect();
    reader.memory.read_pieces(&mut pieces)?;
    let is_taken = |(birth, (piece, at)): (&Birth, (usize, usize))| {
        let piece = &pieces[piece];
        let bytes = piece.buffer.get(at..at + length).filter(|_| piece.filled)?;
        is_taken(layout, rule, birth.type_, bytes)
    };
    Ok(births.iter().zip(of_birth).map(is_taken).collect())
}

/// Whether these bytes, GC head first, are of an object of that type with references, and if so whether it is in a list of
/// the collector's.
pub fn is_taken(layout: &Layout, rule: RefcountRule, type_: Address, bytes: &[u8]) -> Option<bool> {
    let head = GcHead::read(bytes, layout.gc_head.gc_next, layout.gc_head.gc_prev);
    let body = bytes.get(layout.constants.gc_head_size..)?;
    let is_taken = head != GcHead::Implausible
        && u64_at(body, layout.object.ob_type) == Some(type_.0)
        && refcount_word(layout, body).and_then(|word| rule.decode(word)).is_some();
    is_taken.then_some(head == GcHead::Tracked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    fn after(looks: &[(u32, bool)]) -> Place {
        let mut now = Instant::now();
        let mut place = Place::new(now);
        for &(microseconds, is_taken) in looks {
            now += MICROSECOND * microseconds;
            place.look(now, is_taken);
        }
        place
    }

    #[test]
    fn a_place_that_was_empty_once_stands_for_those_that_were_missed() {
        let place = after(&[(5, true), (5, false), (5, true), (5, true)]);
        assert_eq!((place.is_empty(), place.is_over(), place.missed()), (false, false, Some(0.5)));
        let place = after(&[(20, false), (5, true)]);
        assert_eq!(place.missed(), Some(2.0));
        let place = after(&[(5, false)]);
        assert_eq!((place.is_empty(), place.is_over(), place.missed()), (true, false, None));
        for looks in [&[(5, false), (5, false)][..], &[(5, false), (5, true), (5, false), (5, true)]] {
            let place = after(looks);
            assert_eq!((place.is_empty(), place.is_over(), place.missed()), (true, true, None));
        }
        assert_eq!(after(&[(5, true), (90, true)]).missed(), None);
    }

    /// Objects live and leave gaps of random lengths; what is subtracted is what was missed.
    #[test]
    fn as_many_are_subtracted_as_pass_for_alive() {
        let mut rng = fastrand::Rng::with_seed(11);
        let (start, mut passed, mut subtracted) = (Instant::now(), 0.0, 0.0);
        for _ in 0..200_000 {
            let dies = Duration::from_secs_f64(rng.f64() * 400e-6);
            let gap = Duration::from_secs_f64(rng.f64() * 60e-6);
            let mut place = Place::new(start);
            let mut now = start + Duration::from_micros(9);
            while now < start + Duration::from_micros(600) {
                place.look(now, !(start + dies..start + dies + gap).contains(&now));
                now += (now.duration_since(start) / 10).max(5 * MICROSECOND);
            }
            match place.missed() {
                Some(missed) => subtracted += missed,
                None => passed += f64::from(u8::from(!place.is_empty())),
            }
        }
        assert!((subtracted / passed - 1.0f64).abs() < 0.05, "{passed} {subtracted}");
    }
}
