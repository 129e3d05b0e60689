//! What grows? Compares looks at the owners of a heap, path by path.
//!
//! A look is the whole tree of owners ([`super::owners`]), not what a picture shows of it. Owners are compared by
//! *path*: how each is referred to and of which type it is, without what differs between objects of one shape (keys,
//! indices, numbers of threads and lines). So a dict that has moved is the same dict, and an address that is used again
//! is not.
//!
//! That something grows at each look does not make it a leak: caches fill, pools warm up, batches end. [`verdict`]
//! tells these apart by the shape of the growth, by its age, and by bounds that the program has set itself.
//! Significance tests would not help: most growth that is no leak is real.

pub mod bounds;
pub mod describe;
pub mod figures;
pub mod growing_garbage;
pub mod moves;
mod owner_lines;
pub mod paths;
pub mod series;
pub mod suspects;
pub mod verdict;
