//! The machine that we run on: how much memory there is to work with, and who goes first when there is none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// Bytes that can be allocated without pushing anything out: the kernel's own estimate, cut to what the control
/// groups that we run in and our own limits have left. `None` where `/proc` does not say.
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let host = kibibytes.saturating_mul(1024);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = [left_in_groups(&groups, Path::new("/sys/fs/cgroup")), left_below_limits()];
    Some(limits.into_iter().flatten().fold(host, u64::min))
}

/// What our own limits leave of address space and of data (`RLIMIT_AS`, `RLIMIT_DATA`, getrlimit(2)). `None` where
/// there is no limit.
fn left_below_limits() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let used = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.saturating_mul(1024))
    };
    let left = |resource: Resource, name: &str| {
        let (limit, _) = getrlimit(resource).ok()?;
        (limit != RLIM_INFINITY).then(|| limit.saturating_sub(used(name).unwrap_or(0)))
    };
    [left(Resource::RLIMIT_AS, "VmSize:"), left(Resource::RLIMIT_DATA, "VmData:")].into_iter().flatten().min()
}

/// The most memory that we have had resident, bytes. `None` where `/proc` does not say.
pub fn peak_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.saturating_mul(1024))
}

/// The memory that we have resident now, bytes; 0 where `/proc` does not say.
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

/// Makes us the first that the kernel ends when memory is short: never the program that we look at. Needs no right;
/// what we start inherits it.
pub fn go_first_when_memory_is_short() {
    /// The most that there is (`proc_pid_oom_score_adj(5)`).
    const FIRST: &str = "1000";
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", FIRST) {
        log::debug!("oom_score_adj stays as it is: {error}");
    }
}

/// What the control groups of `/proc/self/cgroup` have left below their limits, and those above them; both versions'
/// files are looked for under `mount`. `None` where none has a limit.
///
/// Mirrors the kernel's `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.
fn left_in_groups(groups: &str, mount: &Path) -> Option<u64> {
    let mut left = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mount, files) = match controllers {
            "" => (mount.to_owned(), &V2),
            _ if controllers.split(',').any(|controller| controller == "memory") => (mount.join("memory"), &V1),
            _ => continue,
        };
        // In a container the path may be the host's, and the limit stands at the top of what is mounted.
        let mut group = PathBuf::from(path.trim_start_matches('/'));
        loop {
            left.extend(files.left(&mount.join(&group)));
            if !group.pop() {
                break;
            }
        }
    }
    left.into_iter().min()
}

/// What a version calls its files.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// A line of `memory.stat`: file pages that can be dropped at once, which count as used.
    droppable: &'static str,
}

const V2: Files = Files { limit: "memory.max", used: "memory.current", droppable: "inactive_file " };
const V1: Files =
    Files { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", droppable: "total_inactive_file " };

impl Files {
    fn left(&self, group: &Path) -> Option<u64> {
        let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let stat = read("memory.stat").unwrap_or_default();
        let droppable = stat.lines().find_map(|line| line.strip_prefix(self.droppable)?.trim().parse().ok());
        let used = number(self.used)?.saturating_sub(droppable.unwrap_or(0));
        Some(number(self.limit)?.saturating_sub(used))
    }
}

/// Lets the calling thread sleep for microseconds: the kernel otherwise adds some 50 to each sleep, to wake fewer
/// times. And asks that it be let run soon when it wakes, in turn for running only briefly then: since Linux 6.12 the
/// scheduler lets those that ask for short slices go before others (`PREEMPT_SHORT`, `kernel/sched/features.h`).
pub fn allow_short_sleeps() {
    // Where it is refused, sleeps are longer: windows are then longer, too.
    let _ = nix::sys::prctl::set_timerslack(1);
    ask_for_short_slices();
}

/// `sched_setattr(2)` with the shortest slice that there is (`__setparam_fair`, `kernel/sched/fair.c`). Needs no right.
fn ask_for_short_slices() {
    /// `struct sched_attr` (`include/uapi/linux/sched/types.h`), first version.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const SHORTEST: Duration = Duration::from_micros(100);
    // SAFETY: takes two numbers and returns one.
    let nice = unsafe { nix::libc::getpriority(nix::libc::PRIO_PROCESS, 0) };
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: nix::libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime: SHORTEST.as_nanos() as u64,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of a structure that lives until the call returns, and writes nothing.
    let answer = unsafe { nix::libc::syscall(nix::libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if answer != 0 {
        log::debug!("slices stay as they are: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
    }

    #[test]
    fn the_tightest_group_of_either_version_counts() {
        let mount = tempfile::tempdir().unwrap();
        let at = |path: &str| mount.path().join(path);
        group(&at("a/b"), &[("memory.max", "max\n"), ("memory.current", "5\n")]);
        assert_eq!(left_in_groups("0::/a/b\n", mount.path()), None);
        group(
            &at("a"),
            &[("memory.max", "1000\n"), ("memory.current", "700\n"), ("memory.stat", "anon 1\ninactive_file 50\n")],
        );
        assert_eq!(left_in_groups("0::/a/b\n", mount.path()), Some(350));
        group(&at("memory/x"), &[("memory.limit_in_bytes", "90"), ("memory.usage_in_bytes", "100")]);
        assert_eq!(left_in_groups("7:cpu,memory:/x\n3:pids:/y\n0::/a/b\n", mount.path()), Some(0));
        // A path that is not there: the top of the mount.
        group(&at("memory"), &[("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "12")]);
        assert_eq!(left_in_groups("7:memory:/docker/0123\n", mount.path()), Some(9_223_372_036_854_771_700));
        assert_eq!(left_in_groups("nonsense\n::\n1:memory\n", mount.path()), None);
    }

    #[test]
    fn this_host_has_memory() {
        assert!(available_bytes().is_none_or(|bytes| bytes > 0));
    }
}
