//! Waits for the moment at which a process is worth reading.

use std::thread;
use std::time::{Duration, Instant};

use crate::process::host;
use crate::process::procfs::Status;
use crate::process::source::Source;

use super::error::Error;
use super::open::Target;

/// How often resident memory is asked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// A moment in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Moment {
    /// Its resident memory exceeds this many bytes.
    RssAbove(u64),
    /// Its resident memory exceeds this share of the memory that it may have: the limit of its control group, or the
    /// memory of the host.
    RssAboveShare(f64),
}

impl Moment {
    /// The bytes that resident memory must exceed. `None` if the limit is not known.
    pub fn bytes(self, pid: i32) -> Option<u64> {
        match self {
            Moment::RssAbove(bytes) => Some(bytes),
            Moment::RssAboveShare(share) => Some((host::memory_limit_of(pid)? as f64 * share) as u64),
        }
    }
}

impl Target {
    /// Waits for a moment, at most until `end`. Returns whether it came, and the most resident memory that was seen.
    ///
    /// # Errors
    /// The target ended or is a core, or no limit is known of which the moment is a share.
    pub fn wait_for(&self, moment: Moment, end: Option<Instant>) -> Result<(bool, u64), Error> {
        let Source::Live(process) = &self.source else { return Err(Error::NotRunning) };
        let pid = process.pid();
        let mut most = 0;
        loop {
            let status = Status::of_running(pid).filter(|status| !status.has_exited());
            let rss = status.and_then(|status| status.rss_bytes).ok_or(Error::Exited { pid })?;
            most = most.max(rss);
            // A limit may be raised meanwhile.
            if rss > moment.bytes(pid).ok_or(Error::NoMemoryLimit { pid })? {
                return Ok((true, most));
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok((false, most));
            }
            thread::sleep(INTERVAL);
        }
    }
}
