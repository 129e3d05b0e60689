//! A program that we start ourselves, watch until it has settled, and end with us.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How often the program's state is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A program has settled once it used less than this share of a processor over [`QUIET`].
const QUIET_SHARE: f64 = 0.05;
/// How long it must be quiet.
const QUIET: Duration = Duration::from_millis(400);

/// The unit of CPU times in `/proc`: USER_HZ is 100 on every Linux x86-64.
const TICKS_PER_SECOND: f64 = 100.0;

/// A started program, in a process group of its own. Unless it is to be kept, its group is killed when this is
/// dropped, and the kernel kills it if we die without dropping anything.
pub struct Spawned {
    child: Child,
    keep: bool,
}

impl Spawned {
    /// Starts `command`. Its standard output goes to our standard error, so that ours holds only our report.
    ///
    /// # Errors
    /// As the operating system says: no such program, no permission.
    pub fn start(command: &[String], keep: bool) -> io::Result<Spawned> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let output = io::stderr();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::os::fd::AsFd::as_fd(&output).try_clone_to_owned()?))
            .process_group(0);
        if !keep {
            // SAFETY: between fork and exec the closure makes one system call, which is async-signal-safe; it touches
            // no memory of ours.
            unsafe {
                command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
            }
        }
        let child = command.spawn()?;
        Ok(Spawned { child, keep })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// As `waitpid`.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until `is_up` says so, looking every 20 ms, at most `limit`. `Ok(None)`: it ended or time ran out.
    ///
    /// # Errors
    /// As `waitpid`.
    pub fn wait_until<T>(&mut self, limit: Duration, mut is_up: impl FnMut() -> Option<T>) -> io::Result<Option<T>> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(answer) = is_up() {
                return Ok(Some(answer));
            }
            if self.exited()?.is_some() {
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        }
        Ok(None)
    }

    /// Waits until the process has been quiet for a moment (it waits for requests, say), at most `limit`. Returns how
    /// long that took.
    ///
    /// # Errors
    /// As `waitpid`.
    pub fn wait_until_quiet(&mut self, pid: i32, limit: Duration) -> io::Result<Duration> {
        let start = Instant::now();
        let mut since = (Instant::now(), cpu_seconds(pid).unwrap_or(0.0));
        self.wait_until(limit, || {
            let used = cpu_seconds(pid)? - since.1;
            let elapsed = since.0.elapsed();
            if elapsed < QUIET {
                return None;
            }
            since = (Instant::now(), since.1 + used);
            (used / elapsed.as_secs_f64() < QUIET_SHARE).then_some(())
        })?;
        Ok(start.elapsed())
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // The group may be gone already; then there is nobody left to end.
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// CPU time used by all threads of a process so far, in seconds. `None` if it is gone.
pub fn cpu_seconds(pid: i32) -> Option<f64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The command's name is in parentheses and may hold anything; fields are counted behind the last one.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
