//! Meaning: what the bytes of a CPython process say.

pub mod version;
