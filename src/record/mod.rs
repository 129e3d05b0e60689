//! Who makes what stays: amounts are counted, and divided among Python stacks as a sample says.
//!
//! - [`window`]: for a short time a collector is looked at every few microseconds ([`look`]); one walk of its lists at
//!   the end ([`list_walk`]) tells which objects made in that time are still there, and on which stacks.
//! - [`newborns`]: these are followed until the end.
//! - [`shares`]: how many objects there are more than at the start is counted by two censuses, for each type. A type's
//!   growth is divided among stacks as those of its newborns that still live (post-stratification: Cochran, *Sampling
//!   Techniques*, 1977, 5A.9).
//! - [`profile`]: the same by name.
//!
#![doc = include_str!("ACCURACY.md")]

pub mod gc_stats;
pub mod lane;
pub mod list_walk;
pub mod look;
pub mod newborns;
pub mod profile;
pub mod shares;
pub mod stacks;
pub mod window;
