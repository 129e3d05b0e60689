//! Stopping a process while its bytes are copied, and letting it run again on every path.
//!
//! `remoteprocess` seizes every thread by ptrace (PTRACE_SEIZE and PTRACE_INTERRUPT: no signal is sent that the
//! target could see). The kernel lets go of the threads when the tracer dies, so a heapsonde that is killed leaves no
//! stopped process behind.

use std::time::{Duration, Instant};

/// Why a process could not be stopped.
#[derive(Debug, thiserror::Error)]
#[error("cannot stop process {pid}: {source}")]
pub struct FreezeError {
    /// The process.
    pub pid: i32,
    /// What ptrace said.
    pub source: remoteprocess::Error,
}

/// A stopped process. It runs again when this is dropped.
pub struct Freeze {
    /// `None` for a process that was stopped already, by a signal or a debugger: we did not stop it and we do not
    /// let it go.
    lock: Option<remoteprocess::Lock>,
    since: Instant,
}

impl Freeze {
    /// Stops all threads of `pid`. The guard must be dropped on the same thread: ptrace belongs to a thread.
    ///
    /// # Errors
    /// Where ptrace refuses.
    pub fn new(pid: i32) -> Result<Freeze, FreezeError> {
        let since = Instant::now();
        if matches!(super::gates::process_state(pid), Some('T' | 't')) {
            return Ok(Freeze { lock: None, since });
        }
        let lock = remoteprocess::Process::new(pid)
            .and_then(|process| process.lock())
            .map_err(|source| FreezeError { pid, source })?;
        Ok(Freeze { lock: Some(lock), since })
    }

    /// Whether the process stood still before we came.
    pub fn was_stopped_already(&self) -> bool {
        self.lock.is_none()
    }

    /// Lets the process run and says for how long it stood still because of us, from the first thread seized to the
    /// last one released.
    pub fn release(self) -> Duration {
        let Freeze { lock, since } = self;
        let stopped = lock.is_some();
        drop(lock);
        if stopped { since.elapsed() } else { Duration::ZERO }
    }
}
