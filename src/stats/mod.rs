//! Quantiles of confidence intervals, and variances by the jackknife.

pub mod jackknife;
pub(crate) mod quantiles;
