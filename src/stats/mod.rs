//! Quantiles of confidence intervals.

pub(crate) mod quantiles;
