//! Properties of this machine: available memory, and who is killed first when it runs out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, UsageWho, getrlimit, getrusage};

/// Bytes that can be allocated without evicting anything: the kernel's estimate, limited by our control groups and
/// resource limits. `None` if `/proc` does not tell.
pub fn available_bytes() -> Option<u64> {
    let host = meminfo("MemAvailable:")?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = [left_in_groups(&groups, Path::new(CGROUPS)), left_below_limits()];
    Some(limits.into_iter().flatten().fold(host, u64::min))
}

/// Bytes left to the tightest memory limit of a process's control groups, as we see them. `None` if there is no limit.
pub fn left_below_limit_of(pid: i32) -> Option<u64> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    left_in_groups(&groups, Path::new(CGROUPS)).filter(|&left| left < NO_LIMIT)
}

/// The most memory that a process may have, bytes: the tightest limit of its control groups as we see them, or else the
/// memory of the host. `None` if `/proc` does not tell.
pub fn memory_limit_of(pid: i32) -> Option<u64> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let limit = least_in_groups(&groups, Path::new(CGROUPS), Files::limit).filter(|&limit| limit < NO_LIMIT);
    limit.into_iter().chain(meminfo("MemTotal:")).min()
}

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// A limit beyond this is none: version 1 writes the largest number of pages.
const NO_LIMIT: u64 = 1 << 62;

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

/// Bytes left by our limits on address space and data (`RLIMIT_AS`, `RLIMIT_DATA`, getrlimit(2)). `None` if there is no
/// limit.
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

/// Our peak resident memory, bytes. `None` if `/proc` does not tell.
pub fn peak_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.saturating_mul(1024))
}

/// Our resident memory, bytes; 0 if `/proc` does not tell.
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

/// Processor time that the calling thread has used, in user and kernel mode; zero if the kernel does not tell.
pub fn thread_time() -> Duration {
    time_of(UsageWho::RUSAGE_THREAD)
}

/// The same of all our threads, also of those that have ended.
pub fn process_time() -> Duration {
    time_of(UsageWho::RUSAGE_SELF)
}

fn time_of(who: UsageWho) -> Duration {
    let Ok(usage) = getrusage(who) else { return Duration::ZERO };
    let times = [usage.user_time(), usage.system_time()];
    times
        .iter()
        .map(|time| Duration::new(time.tv_sec().unsigned_abs(), time.tv_usec().unsigned_abs() as u32 * 1000))
        .sum()
}

/// Makes us the first process that the kernel kills when memory runs out, before the target. Needs no permission;
/// children inherit it.
pub fn go_first_when_memory_is_short() {
    /// The maximum (`proc_pid_oom_score_adj(5)`).
    const FIRST: &str = "1000";
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", FIRST) {
        log::debug!("oom_score_adj is unchanged: {error}");
    }
}

/// Bytes left by the control groups in `/proc/self/cgroup` and their parents. `None` if no group has a limit.
fn left_in_groups(groups: &str, mount: &Path) -> Option<u64> {
    least_in_groups(groups, mount, Files::left)
}

/// The least figure of these control groups and their parents; files of both versions are searched under `mount`.
///
/// Mirrors the kernel's `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.
fn least_in_groups(groups: &str, mount: &Path, figure: impl Fn(&Files, &Path) -> Option<u64>) -> Option<u64> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mount, files) = match controllers {
            "" => (mount.to_owned(), &V2),
            _ if controllers.split(',').any(|controller| controller == "memory") => (mount.join("memory"), &V1),
            _ => continue,
        };
        // In a container the path may be the host's, and the limit is at the top of the mount.
        let mut group = PathBuf::from(path.trim_start_matches('/'));
        loop {
            found.extend(figure(files, &mount.join(&group)));
            if !group.pop() {
                break;
            }
        }
    }
    found.into_iter().min()
}

/// File names of a cgroup version.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` with file pages that can be dropped immediately but count as used.
    droppable: &'static str,
}

const V2: Files = Files { limit: "memory.max", used: "memory.current", droppable: "inactive_file " };
const V1: Files =
    Files { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", droppable: "total_inactive_file " };

impl Files {
    fn limit(&self, group: &Path) -> Option<u64> {
        std::fs::read_to_string(group.join(self.limit)).ok()?.trim().parse().ok()
    }

    fn left(&self, group: &Path) -> Option<u64> {
        let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let stat = read("memory.stat").unwrap_or_default();
        let droppable = stat.lines().find_map(|line| line.strip_prefix(self.droppable)?.trim().parse().ok());
        let used = number(self.used)?.saturating_sub(droppable.unwrap_or(0));
        Some(self.limit(group)?.saturating_sub(used))
    }
}

/// Lets the calling thread sleep for microseconds: by default the kernel adds some 50 µs to each sleep. Also asks for
/// a short time slice, because since Linux 6.12 the scheduler lets threads with short slices preempt others when they
/// wake (`PREEMPT_SHORT`, `kernel/sched/features.h`).
pub fn allow_short_sleeps() {
    // If it is refused, sleeps and therefore windows are longer.
    let _ = nix::sys::prctl::set_timerslack(1);
    ask_for_short_slices();
}

/// `sched_setattr(2)` with the shortest possible slice (`__setparam_fair`, `kernel/sched/fair.c`). Needs no permission.
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
    // SAFETY: the kernel reads `size` bytes of a struct that lives until the call returns, and writes nothing.
    let answer = unsafe { nix::libc::syscall(nix::libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if answer != 0 {
        log::debug!("time slices are unchanged: {}", std::io::Error::last_os_error());
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
        // A path that does not exist: the top of the mount.
        group(&at("memory"), &[("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "12")]);
        assert_eq!(left_in_groups("7:memory:/docker/0123\n", mount.path()), Some(9_223_372_036_854_771_700));
        assert_eq!(left_in_groups("nonsense\n::\n1:memory\n", mount.path()), None);
    }

    #[test]
    fn this_host_has_memory() {
        assert!(available_bytes().is_none_or(|bytes| bytes > 0));
    }
}
