//! Meaning: what the bytes of a CPython process say.

pub mod layout;
pub mod version;
