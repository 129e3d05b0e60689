//! What an inspector found, as a line.

use crate::analysis::inspectors::Finding;

use super::escape::printable;
use super::units;

/// `5,600 of 5,602 asyncio.Task: done, but still held`. Of a single object without numbers.
pub fn fact(finding: &Finding) -> String {
    let Finding { type_name, found, asked, says, .. } = finding;
    let numbers = match asked {
        1 => String::new(),
        _ => format!("{} of {} ", units::count(*found), units::count(*asked)),
    };
    format!("{numbers}{}: {says}", printable(type_name))
}

/// The same with what to do.
pub fn sentence(finding: &Finding) -> String {
    format!("{}; {}", fact(finding), finding.advice)
}
