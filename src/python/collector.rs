//! Reads the state of the cyclic garbage collector of an interpreter.

use serde::{Deserialize, Serialize};

use crate::process::memory::{Memory, MemoryExt};

use super::gc_links::{self, GENERATIONS};
use super::interpreter::Interpreter;
use super::proof_error::ProofError;
use super::reader::Reader;

/// The state of a collector: `gc.isenabled()`, `gc.get_threshold()`, `gc.get_count()` and so on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collector {
    /// Whether it collects by itself: it is enabled, and the first threshold is not 0.
    #[serde(rename = "automatic")]
    pub is_automatic: bool,
    /// The thresholds of the generations, youngest first.
    pub thresholds: Vec<u32>,
    /// Their counts.
    pub counts: Vec<u32>,
    /// Whether `gc.freeze` set objects aside, which are never collected. `None` in builds that keep no lists.
    #[serde(rename = "frozen")]
    pub has_frozen: Option<bool>,
    /// Number of objects in `gc.garbage`: they could not be freed, or are kept there for debugging.
    pub uncollectable: u64,
}

impl Collector {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read, or the list of generations is invalid.
    pub fn read<M: Memory + ?Sized>(
        reader: &Reader<'_, M>,
        interpreter: &Interpreter,
    ) -> Result<Collector, ProofError> {
        let (layout, gc) = (reader.layout, interpreter.gc);
        let is_enabled = reader.memory.read_u32(gc.offset(layout.gc.enabled))? != 0;
        let (mut thresholds, mut counts) = (Vec::new(), Vec::new());
        let heads = gc_links::generation_heads(reader, interpreter)?;
        for head in heads.iter().take(GENERATIONS) {
            // A generation begins with the head of its list.
            let generation = head.back(layout.gc_generation.head);
            let number = |offset: usize| reader.memory.read_u32(generation.offset(offset));
            thresholds.push(number(layout.gc_generation.threshold)?);
            counts.push(number(layout.gc_generation.count)?);
        }
        let has_frozen = match heads.get(GENERATIONS) {
            Some(&head) if layout.constants.gc_head_size > 0 => {
                Some(gc_links::list_pointer(reader, head, layout.gc_head.gc_next)? != head)
            }
            _ => None,
        };
        let list = reader.pointer(gc, layout.gc.garbage)?;
        let uncollectable = match list.is_null() {
            true => 0,
            false => reader.memory.read_u64(list.offset(layout.var_object.ob_size))?,
        };
        let is_automatic = is_enabled && thresholds.first() != Some(&0);
        Ok(Collector { is_automatic, thresholds, counts, has_frozen, uncollectable })
    }
}
