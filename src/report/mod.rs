//! Writes results, one file per format. Everything here writes to a `Write` and knows nothing about terminals.

pub mod checkup;
pub mod escape;
pub mod estimate_table;
pub mod family;
pub mod flamegraph;
pub mod flamegraph_json;
pub mod folded;
pub mod graph;
pub mod growth_json;
pub mod growth_table;
pub mod histogram_json;
pub mod histogram_table;
pub mod json;
pub mod limits;
pub mod memory_family;
pub mod memory_json;
pub mod memory_svg;
pub mod memory_table;
pub mod ndjson;
pub mod processes;
pub mod recording_json;
pub mod speedscope;
pub mod summary;
pub mod timeline;
pub mod units;
