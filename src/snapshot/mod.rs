//! A heap in a file: one Parquet file with a row for each object, which DuckDB, pandas and others open.
//!
//! | column | holds |
//! | --- | --- |
//! | `id` | the number of the object in this file |
//! | `address` | where it was |
//! | `type` | its type, with module |
//! | `size` | its shallow size, bytes |
//! | `refcount` | its reference count; null: it is never freed |
//! | `tracked` | whether it is in one of the collector's lists |
//! | `holder` | the nearest name that holds it alone, as in `histo --by holder` |
//! | `path` | how it is reached from its root, along owners; null: nothing reaches it |
//! | `owner` | the `id` of its dominator; null: a root, or what several roots hold |
//! | `retained` | bytes that would be freed with it |
//!
//! Beside the rows there are texts by name ([`notes`]): which process, how it was read, its types. A file holds no
//! values, and no references yet.

pub mod notes;
pub mod read;
pub mod write;
