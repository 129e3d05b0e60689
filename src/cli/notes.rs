//! Notes on standard error beside a report: where it was written, how the target was read, what could not be read.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// Leaves notes and progress bars out from now on, as `--quiet` asks. Errors are still printed.
pub fn silence() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// Whether notes are left out.
pub fn are_silent() -> bool {
    IS_QUIET.load(Ordering::Relaxed)
}

/// Where notes go.
pub fn out() -> Box<dyn Write> {
    if are_silent() { Box::new(io::sink()) } else { Box::new(io::stderr().lock()) }
}
