//! A core file as a target: what it holds, its notes, and the files that hold what it leaves out.

pub mod backing;
pub mod file;
mod headers;
pub mod notes;
pub mod unpack;
