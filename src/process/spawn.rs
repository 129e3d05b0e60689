//! A program that we start ourselves, watch until it has settled, and end with us, with all that it started.

use std::collections::HashSet;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid, setgid, setgroups, setuid};

use super::procfs::{self, Status};
use super::signals::{self, Guard};
use super::sudo::{self, Caller};

/// How often the program's state is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A program has settled once it used less than this share of a processor over [`QUIET`].
const QUIET_SHARE: f64 = 0.05;
/// How long it must be quiet.
const QUIET: Duration = Duration::from_millis(400);

/// The unit of CPU times in `/proc`: USER_HZ is 100 on every Linux x86-64.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long what was killed may take to go: what waits in the kernel for a disk goes later, without us.
const GOING_MAX: Duration = Duration::from_secs(5);

/// How a program is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpawnOptions {
    /// Whether it lives on after us.
    pub keep: bool,
    /// Whether it runs as root where `sudo` made us root, instead of as who called that.
    pub as_root: bool,
}

/// A started program, in a process group of its own. Unless it is to be kept, it and all its descendants are killed
/// when this is dropped and when a signal ends us; the kernel kills the program itself if we are killed. Descendants
/// whose parents have ended become children of ours (`PR_SET_CHILD_SUBREAPER`), so none is lost: no other part of this
/// process may start programs meanwhile.
pub struct Spawned {
    child: Child,
    /// `None` where it is kept.
    ending: Option<(Family, Guard)>,
}

/// All that is ours to end: what descends from us, but for who did before the program was started.
#[derive(Clone, Debug)]
struct Family {
    others: HashSet<i32>,
}

impl Spawned {
    /// Starts `command`. Its standard output goes to our standard error, so that ours holds only our report.
    ///
    /// # Errors
    /// As the operating system says: no such program, no permission.
    pub fn start(command: &[String], options: SpawnOptions) -> io::Result<Spawned> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let output = io::stderr();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::os::fd::AsFd::as_fd(&output).try_clone_to_owned()?))
            .process_group(0);
        let caller = if options.as_root { None } else { sudo::caller() };
        if let Some(caller) = &caller {
            command.envs(caller.environment());
        }
        let ending = if options.keep {
            None
        } else {
            prctl::set_child_subreaper(true)?;
            let family = Family { others: children().into_iter().collect() };
            let of_signal = family.clone();
            Some((family, signals::undo_at_end(move || of_signal.end())))
        };
        let (keep, us) = (options.keep, Pid::this());
        // SAFETY: between fork and exec the closure makes system calls only, each of which is async-signal-safe; what
        // it passes to them was put together before, and it allocates nothing.
        unsafe {
            command.pre_exec(move || prepare(caller.as_ref(), keep, us));
        }
        let child = command.spawn()?;
        Ok(Spawned { child, ending })
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
        if let Some((family, _)) = &self.ending {
            family.end();
            // It may be reaped already.
            let _ = self.child.try_wait();
        }
    }
}

/// In the child, before it becomes the program.
fn prepare(caller: Option<&Caller>, keep: bool, parent: Pid) -> io::Result<()> {
    if let Some(caller) = caller {
        setgroups(&caller.groups)?;
        setgid(caller.group)?;
        setuid(caller.user)?;
    }
    if !keep {
        // Behind the change of user, which would undo it.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            // We have ended before that was said.
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    Ok(())
}

impl Family {
    /// Kills and reaps all of them.
    fn end(&self) {
        let start = Instant::now();
        loop {
            let alive = self.alive();
            for &pid in &alive {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                if status == WaitStatus::StillAlive {
                    break;
                }
            }
            if alive.is_empty() || start.elapsed() > GOING_MAX {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Those that have not ended.
    fn alive(&self) -> Vec<i32> {
        let us = std::process::id() as i32;
        let statuses: Vec<(i32, Status)> =
            procfs::all_pids().into_iter().filter_map(|pid| Some((pid, Status::of(pid)?))).collect();
        let mut family = HashSet::from([us]);
        // Each round finds a generation; there are no more than processes.
        for _ in 0..statuses.len() {
            let before = family.len();
            let is_new = |pid: &i32, status: &Status| family.contains(&status.parent) && !self.others.contains(pid);
            let new: Vec<i32> = statuses.iter().filter(|(pid, status)| is_new(pid, status)).map(|it| it.0).collect();
            family.extend(new);
            if family.len() == before {
                break;
            }
        }
        let alive = statuses.iter().filter(|(pid, status)| *pid != us && family.contains(pid) && !status.has_exited());
        alive.map(|(pid, _)| *pid).collect()
    }
}

/// Our own children.
fn children() -> Vec<i32> {
    let us = std::process::id() as i32;
    procfs::all_pids().into_iter().filter(|&pid| Status::of(pid).is_some_and(|status| status.parent == us)).collect()
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
