//! Starts a program, waits until it is idle, and ends it with all that it started.

use std::collections::HashSet;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getppid, setgid, setgroups, setuid};

use super::procfs::{self, Status};
use super::signals::{self, Guard};
use super::sudo::{self, Caller};

/// Interval at which the program's state is polled.
const LOOK: Duration = Duration::from_millis(20);

/// A program is idle if it uses less than this share of a processor over [`QUIET`].
const QUIET_SHARE: f64 = 0.05;
/// How long it must be idle.
const QUIET: Duration = Duration::from_millis(400);

/// The unit of CPU times in `/proc`: USER_HZ is 100 on every Linux x86-64.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long to wait for killed processes: one that waits in the kernel for a disk ends later.
const GOING_MAX: Duration = Duration::from_secs(5);

/// How a program is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpawnOptions {
    /// Whether it keeps running after us.
    pub keep: bool,
    /// Whether it runs as root if `sudo` made us root, instead of as the user who called sudo.
    pub as_root: bool,
    /// Whether descendants whose parents have ended become our children (`PR_SET_CHILD_SUBREAPER`), so that those that
    /// left the program's process group are ended, too. Only for a process that starts nothing else: all children that
    /// it gets later are taken for the program's.
    pub adopt_orphans: bool,
}

/// A started program, in a process group of its own. Unless it is to be kept, it, its process group and its
/// descendants are killed when this is dropped and when a signal ends us; the kernel kills the program itself if we are
/// killed. Other children of this process are left alone, unless [`SpawnOptions::adopt_orphans`] is set.
pub struct Spawned {
    child: Child,
    /// `None` if it is kept.
    ending: Option<(Family, Guard)>,
}

/// The processes that end with the program.
#[derive(Clone, Debug)]
struct Family {
    /// The program's process id, which is also that of its group; 0 until it has been started.
    program: Arc<AtomicI32>,
    /// With [`SpawnOptions::adopt_orphans`]: our children from before, which are not the program's.
    others: Option<HashSet<i32>>,
}

impl Spawned {
    /// Starts `command`. Its standard output goes to our standard error, so that ours contains only our report.
    ///
    /// # Errors
    /// Those of the operating system: no such program, no permission.
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
            if options.adopt_orphans {
                prctl::set_child_subreaper(true)?;
            }
            let others = options.adopt_orphans.then(|| children().into_iter().collect());
            let family = Family { program: Arc::default(), others };
            let of_signal = family.clone();
            Some((family, signals::undo_at_end(move || of_signal.end())))
        };
        let (keep, us) = (options.keep, Pid::this());
        // SAFETY: between fork and exec the closure only makes system calls, which are async-signal-safe; their
        // arguments were prepared before, and it allocates nothing.
        unsafe {
            command.pre_exec(move || prepare(caller.as_ref(), keep, us));
        }
        let child = command.spawn()?;
        if let Some((family, _)) = &ending {
            family.program.store(child.id() as i32, Ordering::Relaxed);
        }
        Ok(Spawned { child, ending })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// Those of `waitpid`.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until `is_up` returns a value, polling every 20 ms, at most `limit`. `Ok(None)`: it ended or time ran out.
    ///
    /// # Errors
    /// Those of `waitpid`.
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

    /// Waits until the process is idle (waiting for requests, for example), at most `limit`. Returns how long that
    /// took.
    ///
    /// # Errors
    /// Those of `waitpid`.
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
            // It may have been reaped already.
            let _ = self.child.try_wait();
        }
    }
}

/// Runs in the child before it executes the program.
fn prepare(caller: Option<&Caller>, keep: bool, parent: Pid) -> io::Result<()> {
    if let Some(caller) = caller {
        setgroups(&caller.groups)?;
        setgid(caller.group)?;
        setuid(caller.user)?;
    }
    if !keep {
        // After the change of user, which would reset it.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            // We ended before that took effect.
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    Ok(())
}

impl Family {
    /// Kills and reaps all of them.
    fn end(&self) {
        let start = Instant::now();
        // One whose parent has gone is no longer seen to be of the family, and may take a while to go.
        let mut going: HashSet<i32> = HashSet::new();
        loop {
            let alive = self.alive();
            for &pid in &alive {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            going.extend(alive);
            going.retain(|&pid| Status::of(pid).is_some_and(|status| !status.has_exited()));
            if going.is_empty() || start.elapsed() > GOING_MAX {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Reaped last: until then its number, by which the others are found, cannot be reused.
        let reaped = match (&self.others, self.program.load(Ordering::Relaxed)) {
            (Some(_), _) => None,
            (None, 0) => return,
            (None, program) => Some(Pid::from_raw(program)),
        };
        while let Ok(status) = waitpid(reaped, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }

    /// Those that have not ended.
    fn alive(&self) -> Vec<i32> {
        let us = std::process::id() as i32;
        let statuses: Vec<(i32, Status)> =
            procfs::all_pids().into_iter().filter_map(|pid| Some((pid, Status::of(pid)?))).collect();
        let program = self.program.load(Ordering::Relaxed);
        // The number of a process group is not reused while a process is in it. So if the program was reaped and its
        // number belongs to another process now, its group is empty.
        let is_reused = statuses.iter().any(|(pid, status)| *pid == program && status.parent != us);
        let in_group =
            |pid: i32| program != 0 && getpgid(Some(Pid::from_raw(pid))).is_ok_and(|it| it.as_raw() == program);
        let is_adopted = |pid: i32, status: &Status| {
            self.others.as_ref().is_some_and(|others| status.parent == us && !others.contains(&pid))
        };
        let is_member = |pid: i32, status: &Status| (!is_reused && in_group(pid)) || is_adopted(pid, status);
        let members = statuses.iter().filter(|(pid, status)| is_member(*pid, status));
        let mut family: HashSet<i32> = members.map(|(pid, _)| *pid).collect();
        // Each round finds a generation; there are at most as many as processes.
        for _ in 0..statuses.len() {
            let before = family.len();
            let new = statuses.iter().filter(|(_, status)| family.contains(&status.parent)).map(|it| it.0);
            let new: Vec<i32> = new.collect();
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
    // The command's name is in parentheses and may contain anything; fields are counted after the last one.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Sleeper {
            Sleeper(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// The program starts a child in its group, and a shell in a session of its own with another child.
    const PROGRAM: &str = "sleep 600 & setsid sh -c 'sleep 600 & wait' & wait";

    #[test]
    fn the_program_ends_with_its_family_and_other_children_stay() {
        let mut earlier = Sleeper::start();
        let command = ["sh", "-c", PROGRAM].map(str::to_owned);
        let mut spawned = Spawned::start(&command, SpawnOptions::default()).unwrap();
        let mut later = Sleeper::start();
        let pid = spawned.pid();
        let family = spawned.wait_until(Duration::from_secs(60), || {
            let family = procfs::descendants(pid);
            (family.len() == 4).then_some(family)
        });
        let family = family.unwrap().expect("the program starts three others");
        drop(spawned);
        assert!(family.iter().all(|&pid| Status::of(pid).is_none_or(|status| status.has_exited())), "{family:?}");
        for child in [&mut earlier, &mut later] {
            assert!(child.0.try_wait().unwrap().is_none(), "a child that is none of the program's was ended");
        }
    }

    #[test]
    fn what_the_program_left_in_its_group_is_ended() {
        let command = ["sh", "-c", "sleep 600 &"].map(str::to_owned);
        let mut spawned = Spawned::start(&command, SpawnOptions::default()).unwrap();
        spawned.wait_until(Duration::from_secs(60), || None::<()>).unwrap();
        let group = spawned.pid();
        let in_group = || {
            let is_alive = |&pid: &i32| Status::of(pid).is_some_and(|status| !status.has_exited());
            let all = procfs::all_pids().into_iter().filter(is_alive);
            all.filter(|&pid| getpgid(Some(Pid::from_raw(pid))).is_ok_and(|it| it.as_raw() == group)).count()
        };
        assert_eq!(in_group(), 1, "the sleeper has lost its parent");
        drop(spawned);
        assert_eq!(in_group(), 0);
    }
}
