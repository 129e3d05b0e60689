//! A heap in a file: one Parquet file with a row for each object, which DuckDB, pandas and others open.
//!
//! | column | holds |
//! | --- | --- |
//! | `id` | the number of the object in this file |
//! | `address` | where it was |
//! | `type` | its type, with module |
//! | `type_address` | where its type was |
//! | `size` | its shallow size, bytes |
//! | `refcount` | its reference count; null: it is never freed |
//! | `immortal` | what its header has in place of a count, if it is never freed |
//! | `tracked` | whether it is in one of the collector's lists |
//! | `root` | what kind of root it is; null: none |
//! | `native` | how many references to it only native code explains; null: none |
//! | `holder` | the nearest name that holds it alone, as in `histo --by holder` |
//! | `path` | how it is reached from its root, along owners; null: nothing reaches it |
//! | `owner` | the `id` of its dominator; null: a root, or what several roots hold |
//! | `retained` | bytes that would be freed with it |
//! | `state` | names of the inspectors ([`inspectors`](crate::analysis::inspectors)) that it answers; null: none |
//! | `references` | the `id`s of the objects that it refers to; consecutive equal ones are one |
//! | `labels` | for each of them the number of its label in the text `heapsonde.labels`, from 0 on |
//! | `items` | which items of a sequence the references are that are items; null: the first, the second and so on |
//!
//! Beside the rows there are texts by name ([`notes`]): which process, how it was read, its types, the roots by name,
//! the labels of references ([`words`]), the account of memory. A file holds no values. Files of version 1 have no
//! references.
//!
//! A file tells what the process told, except where references of native code come from, for which all of its memory is
//! searched, and the references of the dict of interned strings, which keeps none of them. The account of memory has
//! the owners of native memory only where there is much of it.

mod columns;
pub mod graph;
pub mod labels;
pub mod notes;
pub mod open;
pub mod read;
mod shared_file;
pub mod words;
pub mod write;
