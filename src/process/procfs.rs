//! Reads what `/proc` shows to everyone about a process: state, family, user, container.
//!
//! Nothing here needs a permission; what the kernel hides is `None`. Files in `/proc` contain names that the process
//! chose, so every parser accepts any bytes. Mirrors `fs/proc/array.c` (`proc_pid_status`) of Linux.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// Upper bound on the bytes of a command line: enough to distinguish programs.
const COMMAND_MAX: usize = 4096;
/// Number of digits shown of a container id, as in `docker ps`.
const CONTAINER_ID_SHOWN: usize = 12;
/// Minimum number of hexadecimal digits for a container id in a control group's name: engines use 64, some 32.
const CONTAINER_ID_MIN: usize = 32;

/// Container engines as they appear in control groups.
const ENGINES: [&str; 8] = ["docker", "libpod", "cri-containerd", "crio", "containerd", "nerdctl", "garden", "ecs"];

/// The content of `/proc/PID/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The main thread's name, at most 15 bytes (`comm`).
    pub name: String,
    /// R, S, D, T (stopped), t (traced), Z (zombie), X (dead).
    pub state: Option<char>,
    /// The parent's id; 0 if it is outside our PID namespace.
    pub parent: i32,
    /// The tracer's id; 0 for none.
    pub tracer: i32,
    /// Real, effective, saved and file system user ids.
    pub uids: Vec<u32>,
    /// Real, effective, saved and file system group ids.
    pub gids: Vec<u32>,
    /// Its ids from our PID namespace to its own; a single one if it shares ours.
    pub pids_inward: Vec<i32>,
    /// Permitted capabilities, one bit each.
    pub permitted_capabilities: u64,
    /// Effective capabilities, one bit each.
    pub effective_capabilities: u64,
    /// 0: no seccomp, 1: strict, 2: filter. `None` if the kernel has no seccomp.
    pub seccomp: Option<u8>,
    /// Resident memory, bytes. `None` for kernel threads and exited processes.
    pub rss_bytes: Option<u64>,
    /// Whether it is a kernel thread.
    pub is_kernel_thread: bool,
}

impl Status {
    /// The status of a process. `None` if there is none, or it is hidden.
    pub fn of(pid: i32) -> Option<Status> {
        Status::parse(&fs::read(format!("/proc/{pid}/status")).ok()?)
    }

    /// The status of a process of which a thread runs, though the first one may have exited: that one has no memory
    /// and looks like a zombie.
    pub fn of_running(pid: i32) -> Option<Status> {
        let of_first = Status::of(pid)?;
        match thread_with_memory(pid) {
            thread if thread == pid => Some(of_first),
            thread => Some(Status { name: of_first.name, pids_inward: of_first.pids_inward, ..Status::of(thread)? }),
        }
    }

    /// Our own status.
    pub fn of_self() -> Option<Status> {
        Status::parse(&fs::read("/proc/self/status").ok()?)
    }

    /// Parses a status file. `None` if it lacks user ids, which every process has.
    pub fn parse(text: &[u8]) -> Option<Status> {
        let text = String::from_utf8_lossy(text);
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let ids = |name: &str| -> Vec<u32> {
            field(name).unwrap_or_default().split_whitespace().map_while(|id| id.parse().ok()).collect()
        };
        let number = |name: &str| field(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let bits = |name: &str| field(name).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        let pids = field("NSpid").unwrap_or_default().split_whitespace().map_while(|pid| pid.parse().ok());
        let kibibytes = field("VmRSS").and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok());
        let state = field("State").and_then(|state| state.chars().next());
        let status = Status {
            name: field("Name").unwrap_or_default().to_owned(),
            state,
            parent: number("PPid"),
            tracer: number("TracerPid"),
            uids: ids("Uid"),
            gids: ids("Gid"),
            pids_inward: pids.collect(),
            permitted_capabilities: bits("CapPrm"),
            effective_capabilities: bits("CapEff"),
            seccomp: field("Seccomp").and_then(|text| text.parse().ok()),
            rss_bytes: kibibytes.map(|kibibytes| kibibytes.saturating_mul(1024)),
            // Older kernels do not state it; there it is a process without memory that has not exited.
            is_kernel_thread: match field("Kthread") {
                Some(answer) => answer == "1",
                None => field("VmSize").is_none() && field("PPid").is_some_and(|parent| parent == "2" || parent == "0"),
            },
        };
        (status.uids.len() >= 3).then_some(status)
    }

    /// The real user id.
    pub fn uid(&self) -> u32 {
        self.uids.first().copied().unwrap_or(u32::MAX)
    }

    /// The effective user id.
    pub fn effective_uid(&self) -> u32 {
        self.uids.get(1).copied().unwrap_or(u32::MAX)
    }

    /// Whether it has exited; only its exit status is left.
    pub fn has_exited(&self) -> bool {
        matches!(self.state, Some('Z' | 'X'))
    }

    /// The id in its own PID namespace, if that is not ours.
    pub fn inner_pid(&self) -> Option<i32> {
        if self.pids_inward.len() > 1 { self.pids_inward.last().copied() } else { None }
    }
}

/// How long ago a process was started. `None` if it is gone, or `/proc` is not the kernel's own.
pub fn uptime(pid: i32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything. The start time is the 22nd field (proc(5)), the 20th behind it.
    let started: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok().filter(|&ticks| ticks > 0)?;
    let now: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(now - started as f64 / ticks as f64).ok()
}

/// All processes shown in `/proc`, in order of id.
pub fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// A thread of a process that has its memory: the first one or, if it has exited, another one. The process's own id if
/// there is none or nothing is known.
pub fn thread_with_memory(pid: i32) -> i32 {
    let is_living = |thread: i32| Status::of(thread).is_some_and(|status| !status.has_exited());
    if pid <= 0 || is_living(pid) {
        return pid;
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut threads = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    threads.find(|&thread| is_living(thread)).unwrap_or(pid)
}

/// A file of `/proc` that tells of a process's memory: for a thread that has exited it is empty.
pub fn memory_file(pid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{name}", thread_with_memory(pid)))
}

/// The processes that have the id `inner` in a PID namespace below ours.
pub fn pids_with_inner(inner: i32) -> Vec<i32> {
    let is_it = |pid: &i32| Status::of(*pid).is_some_and(|status| status.inner_pid() == Some(inner));
    all_pids().into_iter().filter(is_it).collect()
}

/// `root` and all its descendants, parents before their children. `root` itself is always included.
pub fn descendants(root: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> =
        all_pids().into_iter().filter_map(|pid| Some((pid, Status::of(pid)?.parent))).collect();
    let mut family = vec![root];
    let mut next = 0;
    // Each process is added at most once, which ends a cycle (ids may be reused meanwhile).
    while let Some(&parent) = family.get(next) {
        next += 1;
        let children = parents.iter().filter(|&&(_, of)| of == parent).map(|&(pid, _)| pid);
        let new: Vec<i32> = children.filter(|child| !family.contains(child)).collect();
        family.extend(new);
    }
    family
}

/// The command line (first 4 KiB) with words separated by spaces; for a process without one, its name in brackets, as
/// in `ps`.
pub fn command(pid: i32) -> String {
    arguments(pid).join(" ")
}

/// The words of the command line (first 4 KiB); for a process without one, its name in brackets, as in `ps`.
pub fn arguments(pid: i32) -> Vec<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = fs::File::open(memory_file(pid, "cmdline"))
        .and_then(|file| file.take(COMMAND_MAX as u64).read_to_end(&mut bytes));
    let words = words_of_command(&bytes);
    match Status::of(pid) {
        Some(status) if read.is_err() || words.is_empty() => vec![format!("[{}]", status.name)],
        _ => words,
    }
}

/// Splits a command line as stored in `/proc`, where each word ends with a zero byte.
pub fn words_of_command(bytes: &[u8]) -> Vec<String> {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let words = bytes[..end].split(|&byte| byte == 0).filter(|_| end > 0);
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The executable's path in the process's namespace, without the mark of a deleted file, as in
/// [`crate::process::regions`]. `None` if we may not know it.
pub fn exe(pid: i32) -> Option<PathBuf> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let path = fs::read_link(memory_file(pid, "exe")).ok()?;
    let bytes = path.as_os_str().as_bytes();
    Some(PathBuf::from(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes))))
}

/// The namespace of `kind` (`user`, `pid`, `mnt`) of a process, such as `user:[4026531837]`. `None` if we may not know
/// it.
pub fn namespace(pid: i32, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// Our own namespace.
pub fn own_namespace(kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/ns/{kind}")).ok()
}

/// Whether we are in the initial user namespace, in which ids are not mapped.
pub fn in_initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// What contains a process but not us: a container engine's name and id from its control group, or the namespaces that
/// differ from ours. `None` if nothing does.
pub fn container(pid: i32, status: &Status) -> Option<String> {
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let own_group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match container_of_group(&group) {
        Some(container) if container_of_group(&own_group).as_ref() != Some(&container) => return Some(container),
        _ => {}
    }
    if let Some(inner) = status.inner_pid() {
        return Some(format!("PID {inner} inside"));
    }
    let differs =
        |kind| namespace(pid, kind).is_some_and(|theirs| own_namespace(kind).is_some_and(|own| own != theirs));
    differs("mnt").then(|| "own mounts".to_owned()).or_else(|| differs("user").then(|| "own users".to_owned()))
}

/// The container named in `/proc/PID/cgroup`: `docker-…`, `/docker/…`, `cri-containerd-…`, `libpod-…`, `/lxc/name`,
/// a Kubernetes pod.
fn container_of_group(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        let mut parts = path.split('/').rev();
        let last = parts.find(|part| !part.is_empty() && *part != "init.scope")?;
        let before = parts.next().unwrap_or_default();
        let last = last.strip_suffix(".scope").unwrap_or(last);
        let (engine, id) = last.rsplit_once('-').unwrap_or((before, last));
        let is_id = id.len() >= CONTAINER_ID_MIN && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let engine = match ENGINES.contains(&engine) {
            false if path.contains("/kubepods") => "kubernetes",
            false => "",
            true => engine,
        };
        if is_id && !engine.is_empty() {
            return Some(format!("{engine} {}", &id[..CONTAINER_ID_SHOWN]));
        }
        let lxc = path.split('/').skip_while(|part| !matches!(*part, "lxc" | "lxc.payload"));
        lxc.clone().nth(1).map(|name| format!("lxc {name}"))
    })
}

/// What changes when a process becomes another program: where the kernel has put its first data, at random. `None` if
/// the process is gone or not ours to read.
pub fn program_identity(pid: i32) -> Option<Vec<u8>> {
    fs::read(memory_file(pid, "auxv")).ok()
}

/// Identity of a mapped file: device and inode, as in `/proc/PID/maps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Major and minor device number.
    pub device: (u64, u64),
    /// The inode number.
    pub inode: u64,
}

/// The identity of the file that a process has mapped at `start`, and the mapping's name in `/proc/PID/map_files`.
/// `None` if no mapping begins there.
pub fn mapped_file(pid: i32, start: u64) -> Option<(FileId, String)> {
    let text = fs::read(memory_file(pid, "maps")).ok()?;
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace();
        let range = words.next()?;
        (u64::from_str_radix(range.split_once('-')?.0, 16).ok()? == start).then_some(())?;
        let (major, minor) = words.nth(2)?.split_once(':')?;
        let device = (u64::from_str_radix(major, 16).ok()?, u64::from_str_radix(minor, 16).ok()?);
        Some((FileId { device, inode: words.next()?.parse().ok()? }, range.to_owned()))
    })
}

/// The last part of a path as text; empty if there is none.
pub fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tpython3\nState:\tS (sleeping)\nPPid:\t7\nTracerPid:\t9\n\
                          Uid:\t1\t2\t3\t4\nGid:\t5\t5\t5\t5\n\
                          NSpid:\t20087\t44\t1\nVmSize:\t    8 kB\nVmRSS:\t     12 kB\nCapPrm:\t0000000000080000\n\
                          CapEff:\t000001fffeffffff\nSeccomp:\t2\n";

    #[test]
    fn a_status_is_read() {
        let status = Status::parse(STATUS.as_bytes()).unwrap();
        assert_eq!((status.name.as_str(), status.state, status.parent, status.tracer), ("python3", Some('S'), 7, 9));
        assert_eq!((status.uid(), status.effective_uid(), status.gids[0]), (1, 2, 5));
        assert_eq!((status.inner_pid(), status.rss_bytes, status.seccomp), (Some(1), Some(12 << 10), Some(2)));
        assert_eq!(status.permitted_capabilities, 1 << 19);
        assert!(!status.is_kernel_thread && !status.has_exited());
    }

    #[test]
    fn a_status_of_nonsense_is_refused_or_poor_and_never_a_panic() {
        assert_eq!(Status::parse(b""), None);
        assert_eq!(Status::parse(b"Uid:\t1\n"), None);
        let poor =
            b"Name:\t\xff\nUid: 1 1 1 x\nState:\nNSpid: x\nVmRSS: 99999999999999999999 kB\nCapEff: zz\nPPid: -\n";
        let status = Status::parse(poor).unwrap();
        assert_eq!((status.inner_pid(), status.rss_bytes, status.parent, status.state), (None, None, 0, None));
    }

    #[test]
    fn a_command_line_is_cut_into_words() {
        assert_eq!(words_of_command(b"python3\0-c\0\0x y\0"), ["python3", "-c", "", "x y"]);
        // A process that changes its title leaves zero bytes at the end.
        assert_eq!(words_of_command(b"gunicorn: master\0\0\0\0"), ["gunicorn: master"]);
        assert!(words_of_command(b"\0\0").is_empty() && words_of_command(b"").is_empty());
    }

    #[test]
    fn control_groups_name_containers() {
        let id = "0123456789abcdef".repeat(4);
        let of = |text: String| container_of_group(&text);
        assert_eq!(of(format!("0::/system.slice/docker-{id}.scope\n")).unwrap(), "docker 0123456789ab");
        assert_eq!(of(format!("9:name=systemd:/docker/{id}\n")).unwrap(), "docker 0123456789ab");
        let pod = format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope");
        assert_eq!(of(pod).unwrap(), "cri-containerd 0123456789ab");
        assert_eq!(of(format!("3:cpu:/kubepods/burstable/pod7/{id}")).unwrap(), "kubernetes 0123456789ab");
        assert_eq!(of("0::/lxc.payload/web/init.scope".into()).unwrap(), "lxc web");
        assert_eq!(of(format!("4:memory:/a_supervisor/{id}")), None, "hexadecimal names alone are no containers");
        for none in ["", "0::/\n", "0::/user.slice/user-0.slice/session-1.scope", "x", "1:a", "::", "0::/é-ü"] {
            assert_eq!(of(none.into()), None, "{none}");
        }
    }

    #[test]
    fn we_are_in_our_own_family_and_our_memory_is_of_our_file() {
        let me = std::process::id() as i32;
        assert_eq!(descendants(me)[0], me);
        assert!(all_pids().contains(&me));
        assert!(mapped_file(me, 1).is_none());
    }
}
