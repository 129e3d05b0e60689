//! Estimates of a heap from a sample of its pools and chunks, each with a 95 % confidence interval.
//!
#![doc = include_str!("ACCURACY.md")]

pub mod design;
pub(crate) mod draw;
pub mod estimator;
pub(crate) mod expansion;
pub(crate) mod interval;
pub mod large_blocks;
pub(crate) mod outliers;
pub mod pool_headers;
pub mod sample;
pub(crate) mod sample_reading;
pub mod strata;
pub(crate) mod unit_tally;
