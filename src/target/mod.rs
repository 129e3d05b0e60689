//! Bytes: processes, regions and reads. Nothing here knows Python.

pub mod address;
