//! Diagnoses why a process cannot be read: which permission check of the kernel fails, and how to pass it.
//!
//! The kernel's rule is `__ptrace_may_access` (`kernel/ptrace.c`): the same user and group ids and a dumpable target,
//! or CAP_SYS_PTRACE in the target's user namespace; then the security modules: capabilities
//! (`cap_ptrace_access_check`, `security/commoncap.c`: the target has none that we lack) and Yama. The kernel only
//! answers "no", so the checks are repeated here from what `/proc` shows to everyone.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::live::Way;
use super::procfs::{self, Status};

/// Linux's number of CAP_SYS_PTRACE (`linux/capability.h`).
const CAP_SYS_PTRACE: u32 = 19;

/// Number of host processes named if a PID of a container was given.
const HOST_PIDS_SHOWN: usize = 5;

/// The first check that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gate {
    /// There is no such process.
    NoSuchProcess,
    /// No process has this id here, but some have it in a container (a PID namespace below ours).
    InnerPid {
        /// The ids of these processes here.
        host_pids: Vec<i32>,
    },
    /// It exists, but `/proc` hides it (`hidepid`).
    Hidden,
    /// We cannot read `/proc` at all: it is not mounted, or we may not open another file.
    NoProc {
        /// The kernel's answer.
        why: Errno,
    },
    /// It has exited; only its exit status is left.
    Zombie,
    /// It is exiting; its memory is gone.
    Exiting,
    /// A kernel thread, which has no memory of its own.
    KernelThread,
    /// It belongs to another user, and we lack CAP_SYS_PTRACE.
    OtherUser {
        /// The target's user.
        target: u32,
        /// Ours.
        ours: u32,
    },
    /// It has capabilities that we lack.
    MoreCapable {
        /// These capabilities, one bit each.
        lacking: u64,
    },
    /// Yama allows only descendants (1), only CAP_SYS_PTRACE (2), or nothing (3).
    PtraceScope(u8),
    /// It runs as our user but is not dumpable (a set-uid program, or `prctl(PR_SET_DUMPABLE, 0)`).
    NotDumpable,
    /// It is in another user namespace, and we lack CAP_SYS_PTRACE there.
    OtherNamespace,
    /// We are root without CAP_SYS_PTRACE, as in a container.
    MissingCapability,
    /// A seccomp filter or the kernel's configuration refuses the system call for every process.
    CallRefused,
    /// None of the above: a security module.
    Unknown,
}

impl Gate {
    /// What fails, and the exact command or setting that fixes it, one line each.
    pub fn explain(&self, pid: i32) -> (String, Option<String>) {
        let sudo = || Some("run it as root: sudo env \"PATH=$PATH\" heapsonde …".to_owned());
        let listing = || Some("list the Python processes here: heapsonde ps".to_owned());
        let add_capability = || {
            Some(
                "start the container with --cap-add=SYS_PTRACE (Kubernetes: securityContext.capabilities.add: \
                 [SYS_PTRACE]), or run heapsonde on the host"
                    .to_owned(),
            )
        };
        match self {
            Gate::NoSuchProcess => (format!("there is no process {pid}"), listing()),
            Gate::InnerPid { host_pids } => {
                let names: Vec<String> = host_pids
                    .iter()
                    .take(HOST_PIDS_SHOWN)
                    .map(|&host| format!("{host} ({})", crop(&procfs::command(host))))
                    .collect();
                let more = if host_pids.len() > names.len() { ", …" } else { "" };
                let sentence = format!(
                    "there is no process {pid} here; {pid} is the number inside a container of process {}{more}",
                    names.join(", ")
                );
                (sentence, host_pids.first().map(|host| format!("use the number that it has here: heapsonde … {host}")))
            }
            Gate::Hidden => {
                (format!("process {pid} exists, and /proc hides it from us (mounted with hidepid)"), sudo())
            }
            Gate::NoProc { why } => (
                format!("/proc cannot be read here ({}), and process {pid} only by it", why.desc()),
                Some(match why {
                    Errno::EMFILE => "allow more open files: ulimit -n 1024".to_owned(),
                    _ => "mount it: mount -t proc proc /proc".to_owned(),
                }),
            ),
            Gate::Zombie => (format!("process {pid} has exited (a zombie): its memory is gone"), listing()),
            Gate::Exiting => (format!("process {pid} is exiting: its memory is gone"), listing()),
            Gate::KernelThread => (format!("process {pid} is a kernel thread, not a program"), listing()),
            Gate::OtherUser { target, ours } => (
                format!("process {pid} belongs to user {target}, and we are user {ours} without CAP_SYS_PTRACE"),
                sudo(),
            ),
            Gate::MoreCapable { lacking } => (
                format!(
                    "process {pid} has capabilities that we lack (mask {lacking:#x}), and we have no CAP_SYS_PTRACE"
                ),
                sudo(),
            ),
            Gate::PtraceScope(3) => (
                "kernel.yama.ptrace_scope is 3: nobody may read another process until the next boot".to_owned(),
                Some("boot with kernel.yama.ptrace_scope=0, or read a core file instead".to_owned()),
            ),
            Gate::PtraceScope(scope) => (
                format!("kernel.yama.ptrace_scope is {scope}: only root or a parent may read process {pid}"),
                Some(
                    "run it as root, or open the gate until the next boot: sudo sysctl kernel.yama.ptrace_scope=0"
                        .to_owned(),
                ),
            ),
            Gate::NotDumpable => (format!("process {pid} is not dumpable: only root may read it"), sudo()),
            Gate::OtherNamespace => (
                format!("process {pid} is in another user namespace than ours, where we have no CAP_SYS_PTRACE"),
                Some("run heapsonde as root on the host, outside of every container".to_owned()),
            ),
            Gate::MissingCapability => (
                format!("we are root without CAP_SYS_PTRACE, as in a container, and may not read process {pid}"),
                add_capability(),
            ),
            Gate::CallRefused => (
                "a seccomp filter refuses process_vm_readv whatever the process, as old containers do".to_owned(),
                add_capability(),
            ),
            Gate::Unknown => (
                format!(
                    "the kernel refuses to let us read process {pid}, perhaps by a seccomp filter or a security module"
                ),
                match Status::of_self() {
                    Some(ours) if ours.effective_uid() == 0 => {
                        Some("run it on the host, outside of every container, or read a core file instead".to_owned())
                    }
                    _ => sudo(),
                },
            ),
        }
    }

    /// Whether a permission is missing, rather than a process.
    pub fn is_permission(&self) -> bool {
        !matches!(self, Gate::NoSuchProcess | Gate::InnerPid { .. } | Gate::Zombie | Gate::Exiting | Gate::KernelThread)
    }
}

/// Shortens a command line to fit a sentence.
pub fn crop(command: &str) -> String {
    let safe: String = command.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    match safe.char_indices().nth(40) {
        Some((at, _)) => format!("{}…", &safe[..at]),
        None => safe,
    }
}

/// What is known about the target and us.
struct Parties {
    pid: i32,
    target: Status,
    ours: Status,
}

impl Parties {
    /// Whether we have CAP_SYS_PTRACE in any namespace.
    fn capable(&self) -> bool {
        self.ours.effective_capabilities >> CAP_SYS_PTRACE & 1 == 1
    }

    /// Whether all ids of the target are those that we act with.
    fn same_user(&self) -> bool {
        let all = |ids: &[u32], own: Option<&u32>| ids.iter().take(3).all(|id| Some(id) == own);
        all(&self.target.uids, self.ours.uids.get(3)) && all(&self.target.gids, self.ours.gids.get(3))
    }

    fn dumpable(&self) -> bool {
        // The kernel assigns the files of a process that is not dumpable to root.
        let owner = fs::metadata(format!("/proc/{}/environ", self.pid)).map(|metadata| metadata.uid());
        owner.is_ok_and(|owner| owner == self.target.effective_uid())
    }

    fn other_namespace(&self) -> bool {
        match (procfs::namespace(self.pid, "user"), procfs::own_namespace("user")) {
            (Some(theirs), Some(ours)) => theirs != ours,
            // If we may not even ask, it is outside the namespace we were put into.
            _ => !procfs::in_initial_user_namespace(),
        }
    }

    fn lacking(&self) -> u64 {
        self.target.permitted_capabilities & !self.ours.effective_capabilities
    }
}

fn ptrace_scope() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?.trim().parse().ok()
}

/// Why a process has no status.
fn absent(pid: i32) -> Gate {
    if let Err(error) = fs::File::open("/proc/self/status") {
        return Gate::NoProc { why: error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw) };
    }
    let host_pids = procfs::pids_with_inner(pid);
    if pid > 0 && matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM)) {
        return Gate::Hidden;
    }
    if pid > 0 && !host_pids.is_empty() { Gate::InnerPid { host_pids } } else { Gate::NoSuchProcess }
}

/// Why an existing process has no memory. `None` if it has.
fn without_memory(pid: i32, status: &Status) -> Option<Gate> {
    // The first thread may have exited while others run.
    let thread = procfs::thread_with_memory(pid);
    if status.has_exited() && thread == pid {
        return Some(Gate::Zombie);
    }
    if status.is_kernel_thread {
        return Some(Gate::KernelThread);
    }
    // If it is readable and empty, the kernel has released the memory.
    let empty = fs::read(format!("/proc/{thread}/maps")).is_ok_and(|maps| maps.is_empty());
    (empty && (status.rss_bytes.is_none() || thread != pid)).then_some(Gate::Exiting)
}

/// Finds the check that fails for `pid`. Call it after a read was refused: if every check passes, the result is
/// [`Gate::Unknown`].
pub fn diagnose(pid: i32) -> Gate {
    let Some(target) = Status::of(pid) else { return absent(pid) };
    if let Some(gate) = without_memory(pid, &target) {
        return gate;
    }
    let Some(ours) = Status::of_self() else { return Gate::Unknown };
    let parties = Parties { pid, target, ours };
    let call_refused = || Way::VmReadv.probe(std::process::id() as i32).is_err();
    if parties.capable() {
        return match parties.other_namespace() {
            true => Gate::OtherNamespace,
            false if call_refused() => Gate::CallRefused,
            false => Gate::Unknown,
        };
    }
    if parties.ours.effective_uid() == 0 && procfs::in_initial_user_namespace() {
        return Gate::MissingCapability;
    }
    if !parties.same_user() {
        return Gate::OtherUser { target: parties.target.uid(), ours: parties.ours.effective_uid() };
    }
    if !parties.dumpable() {
        return Gate::NotDumpable;
    }
    if parties.lacking() != 0 {
        return Gate::MoreCapable { lacking: parties.lacking() };
    }
    match ptrace_scope() {
        Some(scope) if scope > 0 => Gate::PtraceScope(scope),
        _ if parties.other_namespace() => Gate::OtherNamespace,
        _ if call_refused() => Gate::CallRefused,
        _ => Gate::Unknown,
    }
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Passed.
    Open,
    /// Failed, and prevents reading.
    Shut(Gate),
    /// Not applicable, or failed without preventing reading.
    NotApplicable,
}

/// A check and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, a constant.
    pub name: &'static str,
    /// Its result.
    pub standing: Standing,
    /// What was observed, in a few words.
    pub detail: String,
}

impl Check {
    fn new(name: &'static str, standing: Standing, detail: impl Into<String>) -> Check {
        Check { name, standing, detail: detail.into() }
    }

    /// Passed if `open`, otherwise failed because of `gate`.
    fn judged(name: &'static str, open: bool, gate: Gate, detail: impl Into<String>) -> Check {
        Check::new(name, if open { Standing::Open } else { Standing::Shut(gate) }, detail)
    }
}

/// Checks whether there is a process with memory.
pub fn check_existence(pid: i32) -> Check {
    let name = "exists";
    let Some(status) = Status::of(pid) else { return Check::judged(name, false, absent(pid), "no such process here") };
    match without_memory(pid, &status) {
        Some(gate) => Check::judged(name, false, gate, "it has no memory"),
        None => Check::new(name, Standing::Open, format!("state {}", status.state.unwrap_or('?'))),
    }
}

/// Runs the kernel's checks between us and an existing process, in the kernel's order.
pub fn check_permissions(pid: i32) -> Vec<Check> {
    let (Some(target), Some(ours)) = (Status::of(pid), Status::of_self()) else { return Vec::new() };
    let parties = Parties { pid, target, ours };
    let (target, ours) = (&parties.target, &parties.ours);
    let capable = parties.capable();
    let thread = procfs::thread_with_memory(pid);
    let by_call = Way::VmReadv.probe(thread);
    let by_file = Way::ProcMem.probe(thread);
    let readable = by_call.is_ok() || by_file.is_ok();
    let mut checks = Vec::new();
    // If the process can be read, the kernel did not apply a check that fails here.
    let mut push = |name, open: bool, gate: Gate, detail: String| {
        checks.push(match !open && readable {
            true => Check::new(name, Standing::NotApplicable, detail),
            false => Check::judged(name, open, gate, detail),
        });
    };

    let whose = format!("it is user {}, we are user {}", target.uid(), ours.effective_uid());
    let other = match ours.effective_uid() {
        0 => Gate::MissingCapability,
        ours => Gate::OtherUser { target: target.uid(), ours },
    };
    push("user", parties.same_user() || capable, other, whose + if capable { ", with CAP_SYS_PTRACE" } else { "" });
    let dumpable = parties.dumpable();
    let told = if dumpable { "it is dumpable" } else { "it is not dumpable" };
    push("dumpable", dumpable || capable || !parties.same_user(), Gate::NotDumpable, told.to_owned());
    let scope = ptrace_scope();
    let scope_open = match scope {
        None | Some(0) => true,
        Some(1 | 2) => capable,
        Some(_) => false,
    };
    let told =
        scope.map_or("this kernel has no Yama".to_owned(), |scope| format!("kernel.yama.ptrace_scope is {scope}"));
    push("ptrace scope", scope_open, Gate::PtraceScope(scope.unwrap_or(0)), told);
    let lacking = parties.lacking();
    let (gate, told) = match (capable, lacking) {
        (true, _) => (Gate::Unknown, "we have CAP_SYS_PTRACE".to_owned()),
        (false, 0) => (Gate::Unknown, "it has none that we lack".to_owned()),
        (false, _) if ours.effective_uid() == 0 => (Gate::MissingCapability, "we lack CAP_SYS_PTRACE".to_owned()),
        (false, _) => (Gate::MoreCapable { lacking }, format!("it has some that we lack: {lacking:#x}")),
    };
    push("capabilities", capable || lacking == 0, gate, told);
    let refused = Way::VmReadv.probe(std::process::id() as i32).err();
    let told = match (refused, ours.seccomp) {
        (Some(error), _) => format!("process_vm_readv is refused even on ourselves ({error})"),
        (None, Some(1..)) => "we have a filter, and it lets process_vm_readv pass".to_owned(),
        (None, _) => "we have no filter".to_owned(),
    };
    push("seccomp", refused.is_none(), Gate::CallRefused, told);
    for (name, answer) in [("process_vm_readv", by_call), ("/proc/PID/mem", by_file)] {
        let told = match answer {
            Ok(()) => "the kernel allows it".to_owned(),
            Err(error) if readable => format!("refused ({error}), and not needed: the other way is open"),
            Err(error) => format!("refused ({error})"),
        };
        push(name, answer.is_ok(), diagnose(pid), told);
    }
    let other = parties.other_namespace();
    let inner = target.inner_pid().map(|inner| format!("; inside it is PID {inner}")).unwrap_or_default();
    let told = match procfs::container(pid, target) {
        Some(container) => format!("it is in a container ({container}){inner}"),
        None if other => "it is in another user namespace".to_owned(),
        None => "it shares ours".to_owned(),
    };
    push("namespaces", !other, Gate::OtherNamespace, told);
    checks
}

/// The state letter of a process: R, S, D, T (stopped), t (traced), Z (zombie), X (dead). `None` if it is gone.
pub fn process_state(pid: i32) -> Option<char> {
    Status::of(pid)?.state
}

/// The debugger or other tracer of a process.
pub fn tracer(pid: i32) -> Option<i32> {
    Status::of(pid).map(|status| status.tracer).filter(|&tracer| tracer != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_does_not_exist_is_said_to_not_exist() {
        // Larger than PID_MAX_LIMIT, 2^22.
        assert_eq!(diagnose(1 << 30), Gate::NoSuchProcess);
        assert_eq!(check_existence(1 << 30).standing, Standing::Shut(Gate::NoSuchProcess));
        assert!(check_permissions(1 << 30).is_empty());
    }

    #[test]
    fn every_gate_has_a_sentence_and_a_way_on() {
        let gates = [
            Gate::NoSuchProcess,
            Gate::InnerPid { host_pids: vec![1] },
            Gate::Hidden,
            Gate::NoProc { why: Errno::ENOENT },
            Gate::NoProc { why: Errno::EMFILE },
            Gate::Zombie,
            Gate::Exiting,
            Gate::KernelThread,
            Gate::OtherUser { target: 0, ours: 1000 },
            Gate::MoreCapable { lacking: 1 },
            Gate::PtraceScope(1),
            Gate::PtraceScope(3),
            Gate::NotDumpable,
            Gate::OtherNamespace,
            Gate::MissingCapability,
            Gate::CallRefused,
            Gate::Unknown,
        ];
        for gate in gates {
            let (sentence, way_on) = gate.explain(7);
            assert!(sentence.len() > 20 && !sentence.ends_with('.'), "{sentence}");
            assert!(way_on.is_some_and(|way_on| way_on.len() > 20), "{gate:?}");
        }
    }

    #[test]
    fn we_may_read_ourselves() {
        let checks = check_permissions(std::process::id() as i32);
        assert_eq!(checks.len(), 8);
        assert!(checks.iter().all(|check| !matches!(check.standing, Standing::Shut(_))), "{checks:?}");
    }
}
