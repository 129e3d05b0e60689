//! Is there a live object in this block, of which type, and how large is it?

pub mod classifier;
pub(crate) mod fast_path;
pub mod freelists;
pub mod statics;
pub(crate) mod type_summary;
