//! Stops a process while its memory is copied, and resumes it on every path.
//!
//! Every thread is seized by ptrace (PTRACE_SEIZE and PTRACE_INTERRUPT, which send no signal that the target could
//! notice). A thread in an uninterruptible wait (state D) does not stop until that is over, so stopping has a time
//! limit; when it expires, all threads are released.
//!
//! ptrace is bound to a thread, so a dedicated thread does all of it. The kernel releases everything when that thread
//! ends, so killing heapsonde leaves no stopped process behind. While the target is stopped, signals that would stop
//! heapsonde (Ctrl-Z) are deferred.

use std::fs;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustc_hash::FxHashMap;

use super::gates;
use super::stop_signals::StopSignals;

/// Interval at which threads that have not stopped yet are polled.
const LOOK: Duration = Duration::from_micros(200);

/// Why a process could not be stopped. It keeps running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// ptrace was refused.
    #[error("cannot stop process {pid}: {}", tracer.as_deref().unwrap_or(errno.desc()))]
    Refused {
        /// The process id.
        pid: i32,
        /// The error of ptrace.
        errno: Errno,
        /// The process that already traces it, as text.
        tracer: Option<String>,
    },
    /// Some threads did not stop in time.
    #[error(
        "process {pid} did not stop within {} ms: {running} of {threads} threads {state}",
        limit.as_millis()
    )]
    TooSlow {
        /// The process id.
        pid: i32,
        /// The time limit.
        limit: Duration,
        /// Number of threads that did not stop.
        running: usize,
        /// Number of threads.
        threads: usize,
        /// What the first of them is doing.
        state: &'static str,
    },
}

impl FreezeError {
    /// The process id.
    pub fn pid(&self) -> i32 {
        match self {
            FreezeError::Refused { pid, .. } | FreezeError::TooSlow { pid, .. } => *pid,
        }
    }
}

/// A stopped process. It is resumed when this is dropped.
pub struct Freeze {
    /// `None` for a process that was already stopped by a signal or a debugger, which is not resumed.
    tracer: Option<Tracer>,
    since: Instant,
    /// How long stopping took. Releasing takes about as long.
    stopping: Duration,
    _signals: Option<StopSignals>,
}

/// The tracing thread.
struct Tracer {
    thread: Option<JoinHandle<()>>,
    /// Dropping it releases the threads.
    release: Option<Sender<()>>,
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.release.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Freeze {
    /// Stops all threads of `pid`, without a time limit.
    ///
    /// # Errors
    /// ptrace was refused.
    pub fn new(pid: i32) -> Result<Freeze, FreezeError> {
        Freeze::within(pid, None)
    }

    /// Stops all threads of `pid` within a time limit; otherwise none stays stopped.
    ///
    /// # Errors
    /// ptrace was refused, or a thread did not stop in time.
    pub fn within(pid: i32, limit: Option<Duration>) -> Result<Freeze, FreezeError> {
        let since = Instant::now();
        if matches!(gates::process_state(pid), Some('T' | 't')) {
            return Ok(Freeze { tracer: None, since, stopping: Duration::ZERO, _signals: None });
        }
        let signals = StopSignals::hold();
        let (release, released) = mpsc::channel();
        let (report, reported) = mpsc::channel();
        let thread = thread::spawn(move || trace(pid, limit, &report, &released));
        let tracer = Tracer { thread: Some(thread), release: Some(release) };
        // A tracing thread that panicked has released everything.
        let stopped = reported.recv().unwrap_or(Err(FreezeError::Refused { pid, errno: Errno::ECHILD, tracer: None }));
        stopped.map(|()| Freeze { tracer: Some(tracer), since, stopping: since.elapsed(), _signals: Some(signals) })
    }

    /// Whether the process was already stopped.
    pub fn was_stopped_already(&self) -> bool {
        self.tracer.is_none()
    }

    /// Resumes the process. Returns how long it was stopped by this, from the first thread seized to the last one
    /// released.
    pub fn release(self) -> Duration {
        let Freeze { tracer, since, .. } = self;
        let stopped = tracer.is_some();
        drop(tracer);
        if stopped { since.elapsed() } else { Duration::ZERO }
    }

    /// The time that is left for work while the process is stopped; releasing it takes some, too.
    fn left_of(&self, patience: Duration) -> Duration {
        patience.saturating_sub(self.since.elapsed()).saturating_sub(self.stopping)
    }
}

/// Stops a process, reports the result, and releases it on request.
fn trace(pid: i32, limit: Option<Duration>, report: &Sender<Result<(), FreezeError>>, released: &Receiver<()>) {
    let mut threads = Threads::default();
    let stopped = threads.stop(pid, limit);
    if stopped.is_err() {
        threads.let_go();
    }
    let holds = stopped.is_ok();
    if report.send(stopped).is_ok() && holds {
        let _ = released.recv();
    }
    if holds {
        threads.let_go();
    }
}

/// The state of a seized thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// It was interrupted and has not stopped yet.
    Running,
    /// It is stopped; holds a signal that is to be delivered on release.
    Stopped(Option<Signal>),
}

/// The threads of a process that this thread has seized.
#[derive(Default)]
struct Threads {
    held: FxHashMap<i32, Held>,
    running: Vec<i32>,
}

impl Threads {
    /// Seizes all threads and waits until they have stopped. They may start others meanwhile, so the list is read again
    /// until it has no new threads.
    fn stop(&mut self, pid: i32, limit: Option<Duration>) -> Result<(), FreezeError> {
        let since = Instant::now();
        let is_late = || limit.is_some_and(|limit| since.elapsed() >= limit);
        loop {
            let mut is_new = false;
            for thread in threads_of(pid) {
                if is_late() {
                    return Err(self.too_slow(pid, limit));
                }
                is_new |= !self.held.contains_key(&thread) && self.seize(pid, thread)?;
            }
            while !self.running.is_empty() {
                self.collect();
                if self.running.is_empty() {
                    break;
                }
                if is_late() {
                    return Err(self.too_slow(pid, limit));
                }
                thread::sleep(LOOK);
            }
            if !is_new {
                break;
            }
        }
        match self.held.is_empty() {
            true => Err(FreezeError::Refused { pid, errno: Errno::ESRCH, tracer: None }),
            false => Ok(()),
        }
    }

    /// Seizes a thread and interrupts it. `false` if it has exited.
    fn seize(&mut self, pid: i32, thread: i32) -> Result<bool, FreezeError> {
        let id = Pid::from_raw(thread);
        match ptrace::seize(id, ptrace::Options::empty()) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Ok(false),
            // The kernel returns the same for an exiting thread.
            Err(Errno::EPERM) if is_exiting(thread) => return Ok(false),
            Err(errno) => {
                let tracer = gates::tracer(thread).map(|tracer| {
                    let name = super::procfs::command(tracer);
                    format!("process {tracer} ({}) traces it already", gates::crop(&name))
                });
                return Err(FreezeError::Refused { pid, errno, tracer });
            }
        }
        if ptrace::interrupt(id).is_err() {
            return Ok(false);
        }
        self.held.insert(thread, Held::Running);
        self.running.push(thread);
        Ok(true)
    }

    /// Updates the state of threads that have stopped or exited since.
    fn collect(&mut self) {
        let held = &mut self.held;
        self.running.retain(|&thread| {
            match waitpid(Pid::from_raw(thread), Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => true,
                Ok(WaitStatus::Stopped(_, signal)) => {
                    held.insert(thread, Held::Stopped(Some(signal)));
                    false
                }
                // A real-time signal, which has no name here: the thread gets it when this thread ends.
                Err(Errno::EINVAL) => false,
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => {
                    held.remove(&thread);
                    false
                }
                Ok(_) => {
                    held.insert(thread, Held::Stopped(None));
                    false
                }
            }
        });
    }

    fn too_slow(&self, pid: i32, limit: Option<Duration>) -> FreezeError {
        let is_waiting = self.running.iter().any(|&thread| gates::process_state(thread) == Some('D'));
        FreezeError::TooSlow {
            pid,
            limit: limit.unwrap_or_default(),
            running: self.running.len(),
            threads: threads_of(pid).len(),
            state: if is_waiting { "wait in the kernel (state D)" } else { "were still running" },
        }
    }

    /// Releases all threads. The kernel releases those that have not stopped when this thread ends.
    fn let_go(&mut self) {
        self.collect();
        for (thread, held) in self.held.drain() {
            if let Held::Stopped(signal) = held {
                let _ = ptrace::detach(Pid::from_raw(thread), signal);
            }
        }
    }
}

fn threads_of(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn is_exiting(thread: i32) -> bool {
    matches!(gates::process_state(thread), None | Some('Z' | 'X'))
}

/// The result of work on a stopped process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched<R> {
    /// The result; `None` if the work panicked.
    pub result: Option<R>,
    /// How long the process was stopped; `None` if it was not to be stopped.
    pub paused: Option<Duration>,
    /// Whether the work was finished before the process was resumed.
    pub in_time: bool,
}

/// Runs work while a process is stopped. After `patience` the process is resumed and the work continues. The work runs
/// on another thread, since this one watches the clock.
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
        // The channel closes when the work is done; nothing is ever sent.
        let in_time = match (&freeze, patience) {
            (Some(freeze), Some(patience)) => {
                is_done.recv_timeout(freeze.left_of(patience)) != Err(mpsc::RecvTimeoutError::Timeout)
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
    use std::process::{Child, Command, Stdio};

    /// A process that waits until its input is closed.
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
        // Work that ends only once the process has been resumed; if it were not, the deadline would end it.
        let work = || {
            let since = Instant::now();
            let was_stopped = is_stopped(pid);
            while is_stopped(pid) && since.elapsed() < Duration::from_secs(60) {
                thread::yield_now();
            }
            (was_stopped, is_stopped(pid))
        };
        let freeze = Freeze::new(pid).expect("a child may be stopped");
        // Long enough for a busy machine to start the work in.
        let watched = while_stopped(Some(freeze), Some(Duration::from_secs(2)), work);
        assert_eq!(watched.result, Some((true, false)));
        assert!(!watched.in_time && watched.paused < Some(Duration::from_secs(60)), "{watched:?}");
        // Short work is done while the process is stopped, which is resumed afterwards.
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
        let watched = while_stopped(Some(freeze), None, || assert!(!is_stopped(pid), "the process is stopped"));
        assert!(watched.result.is_none() && !is_stopped(pid));
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    #[test]
    fn when_the_limit_passes_all_is_let_go() {
        let mut child =
            Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().expect("sh starts");
        let pid = child.id() as i32;
        let error = Freeze::within(pid, Some(Duration::ZERO)).err().expect("there is no time");
        assert!(matches!(error, FreezeError::TooSlow { .. }), "{error}");
        assert!(!is_stopped(pid) && gates::tracer(pid).is_none());
        // Releasing and stopping again is possible immediately.
        let freeze = Freeze::within(pid, Some(Duration::from_secs(60))).expect("it stops");
        assert!(is_stopped(pid) && gates::tracer(pid).is_some());
        freeze.release();
        assert!(!is_stopped(pid) && gates::tracer(pid).is_none());
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }
}
