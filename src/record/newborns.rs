//! What was made in windows, followed until it dies or the recording ends.
//!
//! An object is alive while its place holds the type that was seen there and a count of references. One of the same
//! type that takes the place later is told apart where it is seen itself.
//!
//! There are never more than [`FOLLOWED_MAX`]: of too many each second one is left out, and the others stand for two.

use fastrand::Rng;
use rustc_hash::FxHashMap;

use crate::process::Address;
use crate::process::memory::{Memory, Piece, ReadError, u32_at, u64_at};
use crate::python::gc_links::link;
use crate::python::reader::Reader;

use super::stacks::StackId;
use super::window::{Birth, WatchedWindow};

/// Objects followed at most: some ten megabytes, and shares known to a tenth of a percent.
const FOLLOWED_MAX: usize = 200_000;
/// Objects of one window that are followed, of those that were seen themselves and of the others: more would say little
/// more about it, since births come in clusters.
const OF_WINDOW_MAX: usize = 1000;
/// Objects looked at after each window.
const CHECKED: usize = 1024;
/// Objects read in one call.
const BATCH: usize = 256;
/// Bytes read of an object and its GC head.
const HEADER_MAX: usize = 64;

/// An object that is followed.
#[derive(Clone, Copy, Debug)]
pub struct Newborn {
    /// It, its stack, and whether it was seen itself.
    pub birth: Birth,
    /// The window that found it.
    pub window: u32,
    /// How many objects it stands for.
    pub weight: f64,
    /// Whether that window slept at times, and missed what was made at the beginning of work.
    pub is_of_naps: bool,
    /// Whether the collector tracks it still: it leaves out tuples that hold nothing that it tracks.
    pub is_tracked: bool,
}

/// All of one recording.
#[derive(Debug)]
pub struct Newborns {
    alive: Vec<Newborn>,
    /// Index of the newest object in each place.
    at: FxHashMap<Address, usize>,
    /// Objects made on each stack, whether they live on or not.
    pub made: FxHashMap<StackId, f64>,
    /// Of these, those without a stack.
    pub made_without_stack: f64,
    /// Objects that were seen themselves, and of these, those that have died.
    pub marks: u64,
    /// See `marks`.
    pub died: u64,
    /// Each kept object stands for so many.
    thinned: f64,
    next: usize,
    rng: Rng,
}

impl Newborns {
    /// None yet.
    pub fn new(rng: Rng) -> Newborns {
        Newborns {
            alive: Vec::new(),
            at: FxHashMap::default(),
            made: FxHashMap::default(),
            made_without_stack: 0.0,
            marks: 0,
            died: 0,
            thinned: 1.0,
            next: 0,
            rng,
        }
    }

    /// Those that live, as far as is known.
    pub fn alive(&self) -> &[Newborn] {
        &self.alive
    }

    /// Adds what a window found, each object of which stands for `weight`.
    pub fn add(&mut self, number: u32, window: &WatchedWindow, weight: f64) {
        for birth in &window.births {
            *self.made.entry(birth.stack).or_default() += weight;
            self.marks += u64::from(birth.is_mark);
        }
        let is_of_naps = window.has_naps;
        self.made_without_stack += window.without_stack as f64 * weight;
        let wanted = ((OF_WINDOW_MAX as f64 / self.thinned) as usize).max(1);
        for is_mark in [true, false] {
            let births = window.births.iter().filter(|birth| birth.is_mark == is_mark);
            let all = births.clone().count();
            let kept = self.rng.choose_multiple(births, wanted.min(all));
            let weight = weight * all as f64 / kept.len().max(1) as f64;
            kept.into_iter()
                .for_each(|&birth| self.keep(Newborn { birth, window: number, weight, is_of_naps, is_tracked: true }));
        }
        if self.alive.len() > FOLLOWED_MAX {
            self.thinned *= 2.0;
            let rng = &mut self.rng;
            self.alive.retain(|_| rng.bool());
            self.alive.iter_mut().for_each(|newborn| newborn.weight *= 2.0);
            self.index();
        }
    }

    fn keep(&mut self, newborn: Newborn) {
        let head = newborn.birth.node.head;
        match self.at.get(&head).and_then(|&index| self.alive.get_mut(index)) {
            // What was there before has died.
            Some(before) => {
                self.died += u64::from(before.birth.is_mark);
                *before = newborn;
            }
            None => {
                self.at.insert(head, self.alive.len());
                self.alive.push(newborn);
            }
        }
    }

    fn index(&mut self) {
        self.at = self.alive.iter().map(|newborn| newborn.birth.node.head).zip(0..).collect();
    }

    /// Looks at some of them, in turn.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn check_some<M: Memory + ?Sized>(&mut self, reader: &Reader<'_, M>) -> Result<(), ReadError> {
        let start = if self.next < self.alive.len() { self.next } else { 0 };
        let end = self.alive.len().min(start + CHECKED);
        let died = self.check(reader, start, end)?;
        self.next = end - died;
        Ok(())
    }

    /// Looks at all of them.
    ///
    /// # Errors
    /// Where the target cannot be read at all any more.
    pub fn check_all<M: Memory + ?Sized>(&mut self, reader: &Reader<'_, M>) -> Result<(), ReadError> {
        self.check(reader, 0, self.alive.len()).map(|_| ())
    }

    /// Leaves out the dead in a range. Returns how many.
    fn check<M: Memory + ?Sized>(
        &mut self,
        reader: &Reader<'_, M>,
        start: usize,
        end: usize,
    ) -> Result<usize, ReadError> {
        let layout = reader.layout;
        let front = layout.constants.gc_head_size;
        let refcount = front + layout.object.ob_refcnt.unwrap_or(0);
        let type_at = front + layout.object.ob_type;
        let length = (type_at.max(refcount) + 8).min(HEADER_MAX);
        let mut dead = Vec::new();
        for (batch, of) in self.alive.get_mut(start..end).unwrap_or_default().chunks_mut(BATCH).enumerate() {
            let mut bytes = vec![[0; HEADER_MAX]; of.len()];
            let pieces = of.iter().zip(&mut bytes).map(|(newborn, bytes)| Piece {
                address: newborn.birth.node.head,
                buffer: &mut bytes[..length],
                filled: false,
            });
            let mut pieces: Vec<Piece<'_>> = pieces.collect();
            reader.memory.read_pieces(&mut pieces)?;
            // Pieces come back in an order of their own.
            let filled: FxHashMap<Address, bool> = pieces.iter().map(|piece| (piece.address, piece.filled)).collect();
            for (index, (newborn, bytes)) in of.iter_mut().zip(&bytes).enumerate() {
                let is_read = filled.get(&newborn.birth.node.head).is_some_and(|&filled| filled);
                let type_ = u64_at(bytes, type_at).map(Address);
                let count = u32_at(bytes, refcount);
                if !is_read || type_ != Some(newborn.birth.node.type_) || count == Some(0) {
                    dead.push(start + batch * BATCH + index);
                }
                newborn.is_tracked = u64_at(bytes, layout.gc_head.gc_next).is_some_and(|next| !link(next).is_null());
            }
        }
        for &index in dead.iter().rev() {
            let gone = self.alive.swap_remove(index);
            self.died += u64::from(gone.birth.is_mark);
            self.at.remove(&gone.birth.node.head);
            if let Some(moved) = self.alive.get(index) {
                self.at.insert(moved.birth.node.head, index);
            }
        }
        Ok(dead.len())
    }
}
