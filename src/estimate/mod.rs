//! Estimates of a heap from a sample of its pools and chunks, each with a 95 % confidence interval.

pub mod design;
pub(crate) mod draw;
pub mod estimator;
pub(crate) mod expansion;
pub(crate) mod interval;
pub mod large_blocks;
pub(crate) mod outliers;
pub mod pool_headers;
pub mod prediction;
pub mod predictor;
pub(crate) mod regression;
pub mod sample;
pub(crate) mod sample_reading;
pub mod strata;
pub(crate) mod unit_tally;
