//! Why a process cannot be read: which of the kernel's gates is shut, and what opens it.
//!
//! The kernel's rule is `__ptrace_may_access` (`kernel/ptrace.c`): same user and group ids and a dumpable target, or
//! CAP_SYS_PTRACE in the target's user namespace; then the security modules, of which Yama is the common one. It
//! answers only "no", so the gates are tried one by one here, from what `/proc` shows to everybody.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// Linux's number of CAP_SYS_PTRACE (`linux/capability.h`).
const CAP_SYS_PTRACE: u32 = 19;

/// The first gate found shut.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gate {
    /// There is no such process (or `/proc` hides it).
    NoSuchProcess,
    /// It has exited; only its exit status is left.
    Zombie,
    /// A thread of the kernel: it has no memory of its own.
    KernelThread,
    /// It belongs to another user and we lack CAP_SYS_PTRACE.
    OtherUser {
        /// The target's user.
        target: u32,
        /// Ours.
        ours: u32,
    },
    /// Yama allows only descendants (1), only CAP_SYS_PTRACE (2), or nobody (3).
    PtraceScope(u8),
    /// It runs as our user but has forbidden dumping (a set-uid program, or `prctl(PR_SET_DUMPABLE, 0)`).
    NotDumpable,
    /// It is in another user namespace, a container's, and we lack CAP_SYS_PTRACE there.
    OtherNamespace,
    /// We are root, but without CAP_SYS_PTRACE: a container's root.
    MissingCapability,
    /// None of the above explains it: a security module or a seccomp filter.
    Unknown,
}

impl Gate {
    /// What is shut, and the exact command to try, each a line.
    pub fn explain(&self, pid: i32) -> (String, Option<String>) {
        let sudo = || Some("run it as root: sudo env \"PATH=$PATH\" heapsonde …".to_owned());
        match self {
            Gate::NoSuchProcess => {
                (format!("there is no process {pid}"), Some("list what runs: ps -eo pid,user,args".to_owned()))
            }
            Gate::Zombie => (format!("process {pid} has exited (a zombie): its memory is gone"), None),
            Gate::KernelThread => (format!("process {pid} is a thread of the kernel, not a program"), None),
            Gate::OtherUser { target, ours } => {
                (format!("process {pid} belongs to user {target}, and we are user {ours} without CAP_SYS_PTRACE"), sudo())
            }
            Gate::PtraceScope(3) => (
                "kernel.yama.ptrace_scope is 3: nobody may read another process until the next boot".to_owned(),
                Some("boot with kernel.yama.ptrace_scope=0, or read a core file instead".to_owned()),
            ),
            Gate::PtraceScope(scope) => (
                format!("kernel.yama.ptrace_scope is {scope}: only root or a parent may read process {pid}"),
                Some("run it as root, or open the gate until the next boot: sudo sysctl kernel.yama.ptrace_scope=0".to_owned()),
            ),
            Gate::NotDumpable => (format!("process {pid} is not dumpable: only root may read it"), sudo()),
            Gate::OtherNamespace => (
                format!("process {pid} is in another user namespace (a container), where we have no CAP_SYS_PTRACE"),
                Some("run heapsonde as root on the host".to_owned()),
            ),
            Gate::MissingCapability => (
                "we are root without CAP_SYS_PTRACE, as in a container".to_owned(),
                Some(
                    "start the container with --cap-add=SYS_PTRACE (Kubernetes: securityContext.capabilities.add: [SYS_PTRACE]), or run heapsonde on the host"
                        .to_owned(),
                ),
            ),
            Gate::Unknown => (
                format!("the kernel refuses to let us read process {pid}, perhaps by a seccomp filter or a security module"),
                sudo(),
            ),
        }
    }
}

/// Finds the gate that is shut for `pid`. Call it after a read was refused: an open gate is reported as
/// [`Gate::Unknown`].
pub fn diagnose(pid: i32) -> Gate {
    let Some(status) = Status::of(&pid.to_string()) else { return Gate::NoSuchProcess };
    match status.state {
        Some('Z' | 'X') => return Gate::Zombie,
        _ if status.is_kernel_thread => return Gate::KernelThread,
        _ => {}
    }
    let Some(ours) = Status::of("self") else { return Gate::Unknown };
    let capable = ours.effective_capabilities >> CAP_SYS_PTRACE & 1 == 1;
    if capable {
        let same_namespace = namespace(&pid.to_string()).is_none_or(|theirs| Some(theirs) == namespace("self"));
        return if same_namespace { Gate::Unknown } else { Gate::OtherNamespace };
    }
    if ours.effective_uid == 0 {
        return Gate::MissingCapability;
    }
    if status.uid != ours.effective_uid {
        return Gate::OtherUser { target: status.uid, ours: ours.effective_uid };
    }
    // The kernel gives the files of a process that is not dumpable to root.
    let owner = fs::metadata(format!("/proc/{pid}/environ")).map(|metadata| metadata.uid());
    if owner.is_ok_and(|owner| owner != status.uid) {
        return Gate::NotDumpable;
    }
    match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").map(|text| text.trim().parse()) {
        Ok(Ok(scope)) if scope > 0 => Gate::PtraceScope(scope),
        _ => Gate::Unknown,
    }
}

/// The state letter of a process: R, S, D, T (stopped), t (traced), Z (zombie), X (dead); `None` if it is gone.
pub fn process_state(pid: i32) -> Option<char> {
    Status::of(&pid.to_string())?.state
}

fn namespace(pid: &str) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/user")).ok()
}

/// What `/proc/PID/status` tells everybody.
struct Status {
    state: Option<char>,
    uid: u32,
    effective_uid: u32,
    effective_capabilities: u64,
    is_kernel_thread: bool,
}

impl Status {
    fn of(pid: &str) -> Option<Status> {
        let text = fs::read(format!("/proc/{pid}/status")).ok()?;
        let text = String::from_utf8_lossy(&text);
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let ids: Vec<u32> = field("Uid")?.split_whitespace().filter_map(|id| id.parse().ok()).collect();
        Some(Status {
            state: field("State").and_then(|state| state.chars().next()),
            uid: *ids.first()?,
            effective_uid: *ids.get(1)?,
            effective_capabilities: field("CapEff").and_then(|caps| u64::from_str_radix(caps, 16).ok()).unwrap_or(0),
            is_kernel_thread: field("Kthread").map_or_else(|| field("VmSize").is_none(), |answer| answer == "1"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_does_not_exist_is_said_to_not_exist() {
        // Larger than PID_MAX_LIMIT, 2^22.
        assert_eq!(diagnose(1 << 30), Gate::NoSuchProcess);
    }

    #[test]
    fn every_gate_has_a_sentence() {
        let gates = [
            Gate::NoSuchProcess,
            Gate::Zombie,
            Gate::KernelThread,
            Gate::OtherUser { target: 0, ours: 1000 },
            Gate::PtraceScope(1),
            Gate::PtraceScope(3),
            Gate::NotDumpable,
            Gate::OtherNamespace,
            Gate::MissingCapability,
            Gate::Unknown,
        ];
        for gate in gates {
            let (sentence, _) = gate.explain(7);
            assert!(sentence.len() > 20 && !sentence.ends_with('.'), "{sentence}");
        }
    }
}
