//! Interprets the memory of a CPython process: finds the interpreter, selects its layout, reads its types.

pub mod address_table;
pub mod attach;
pub mod code;
pub mod collector;
pub mod command_line;
pub mod deferred;
pub mod gc_links;
pub mod heap_types;
pub mod identifier;
pub mod interpreter;
pub mod layout;
pub mod library_sizes;
pub mod measure;
pub mod object_header;
pub mod proof;
pub mod proof_error;
pub mod reader;
pub mod recognize;
pub mod runtime;
pub mod sample_objects;
pub mod sizes;
pub mod stack;
pub mod type_flags;
pub mod type_metadata;
pub mod types;
pub mod version;
