//! Finds every live object through the structure of the allocators, and streams them to sinks without keeping them.

pub mod address_index;
pub mod block_use;
pub mod census;
pub mod classify;
pub mod debug_hooks;
pub mod foreign_malloc;
pub mod gc_lists;
pub mod layout_check;
pub mod movement;
pub mod object;
pub mod object_table;
pub mod part;
pub mod plan;
mod second_reading;
pub mod survey;
pub mod worker;

#[cfg(test)]
pub(crate) mod testing;
