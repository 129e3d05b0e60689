//! Core files as targets: their content, their notes, and the files with what they leave out.

pub mod backing;
pub mod file;
mod headers;
pub mod notes;
pub mod unpack;
