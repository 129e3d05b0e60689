//! Stopping a process while its bytes are copied, and letting it run again on every path.
//!
//! `remoteprocess` seizes every thread by ptrace (PTRACE_SEIZE and PTRACE_INTERRUPT: no signal is sent that the
//! target could see). The kernel lets go of the threads when the tracer dies, so a heapsonde that is killed leaves no
//! stopped process behind.

use std::sync::mpsc;
use std::thread;
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
        if matches!(crate::process::gates::process_state(pid), Some('T' | 't')) {
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

/// What came of work on a stopped process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched<R> {
    /// What the work gave; `None` where it panicked.
    pub result: Option<R>,
    /// For how long the process stood still because of us; `None` where it was not to be stopped.
    pub paused: Option<Duration>,
    /// Whether the work ended before the process was let go.
    pub in_time: bool,
}

/// Works on a process that is stopped, for at most so long: then the process runs again, and the work goes on
/// meanwhile. The work is done on another thread, since this one, which alone can let the process run, watches the
/// clock.
pub fn while_stopped<R: Send>(
    freeze: Option<Freeze>,
    patience: Option<Duration>,
    work: impl FnOnce() -> R + Send,
) -> Watched<R> {
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let working = scope.spawn(move || {
            let _done = done;
            work()
        });
        // The channel ends when the work is done; nothing is ever sent.
        let in_time = match (&freeze, patience) {
            (Some(freeze), Some(patience)) => {
                let left = patience.saturating_sub(freeze.since.elapsed());
                is_done.recv_timeout(left) != Err(mpsc::RecvTimeoutError::Timeout)
            }
            _ => is_done.recv().is_err(),
        };
        let paused = freeze.map(Freeze::release);
        Watched { result: working.join().ok(), paused, in_time }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::gates;
    use std::process::{Child, Command, Stdio};

    /// A process that waits until its input ends.
    fn waiting() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat starts")
    }

    fn is_stopped(pid: i32) -> bool {
        matches!(gates::process_state(pid), Some('T' | 't'))
    }

    #[test]
    fn work_that_takes_too_long_does_not_hold_the_process() {
        let mut child = waiting();
        let pid = child.id() as i32;
        // Work that ends only once the process runs again: were it not let go, the deadline would end it.
        let work = || {
            let since = Instant::now();
            let was_stopped = is_stopped(pid);
            while is_stopped(pid) && since.elapsed() < Duration::from_secs(60) {
                thread::yield_now();
            }
            (was_stopped, is_stopped(pid))
        };
        let freeze = Freeze::new(pid).expect("a child may be stopped");
        let watched = while_stopped(Some(freeze), Some(Duration::from_millis(50)), work);
        assert_eq!(watched.result, Some((true, false)));
        assert!(!watched.in_time && watched.paused >= Some(Duration::from_millis(50)), "{watched:?}");
        // What is quick is done while it stands still, and it runs afterwards.
        let freeze = Freeze::new(pid).expect("a child may be stopped");
        let watched = while_stopped(Some(freeze), Some(Duration::from_secs(60)), || is_stopped(pid));
        assert!(watched.in_time && watched.result == Some(true) && !is_stopped(pid), "{watched:?}");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    #[test]
    fn a_process_is_let_go_after_a_panic() {
        let mut child = waiting();
        let pid = child.id() as i32;
        let freeze = Freeze::new(pid).expect("a child may be stopped");
        let watched = while_stopped(Some(freeze), None, || assert!(!is_stopped(pid), "as it must be"));
        assert!(watched.result.is_none() && !is_stopped(pid));
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }
}
