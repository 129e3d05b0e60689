//! Classifies blocks: whether a block holds a live object, its type and its size.

pub mod classifier;
pub(crate) mod fast_path;
pub mod freelists;
pub mod statics;
pub(crate) mod type_summary;
