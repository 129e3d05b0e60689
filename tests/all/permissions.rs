//! Tests who may read whom: a matrix of users and settings, each with the expected message. Needs root, to become other
//! users.
//!
//! Readers and targets are started with `setpriv`, which executes the program, so its PID is the program's. Targets run
//! the system's Python, since pyenv's may be in a directory that is closed to others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::case::{TestCase, cases};
use crate::common;
use crate::common::target::Target;
use crate::common::tool::{self, Run, finish};
use crate::common::{copy_program, skipped};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        root_reads_everybody,
        a_user_reads_its_own_and_nobody_else,
        a_user_with_the_capability_reads_everybody,
        root_of_a_container_reads_only_its_like,
        a_filter_that_refuses_the_call_leaves_the_file,
        a_process_that_proc_hides_is_said_to_be_hidden,
        a_host_without_proc_is_said_to_have_none,
    ]
}

const PYTHON: &str = "/usr/bin/python3";
const READY: &str = "import os; os.write(1, b'ready %d\\n' % os.getpid()); os.read(0, 1)";
const NOT_DUMPABLE: &str = "import ctypes, os; assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0; \
                            os.write(1, b'ready %d\\n' % os.getpid()); os.read(0, 1)";

/// Options of `setpriv`: two users, one of them with the capability, and a container's root.
const ROOT: &[&str] = &[];
const USER: &[&str] = &["--reuid=1234", "--regid=1234", "--clear-groups"];
const OTHER: &[&str] = &["--reuid=4321", "--regid=4321", "--clear-groups"];
const CAPABLE_USER: &[&str] =
    &["--reuid=1234", "--regid=1234", "--clear-groups", "--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace"];
const CONTAINER_ROOT: &[&str] = &[
    "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
     +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap",
    "--inh-caps=-all",
];
const ROOT_WITHOUT_PTRACE: &[&str] = &["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"];

/// A copy of the tool that everybody may run: the folder that cargo builds into may be closed to others.
struct Tool {
    path: PathBuf,
    _folder: TempDir,
}

impl Tool {
    fn new() -> Tool {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("heapsonde");
        copy_program(tool::binary(), &path);
        for path in [folder.path(), &path] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("they are ours");
        }
        Tool { path, _folder: folder }
    }

    fn command(&self, reader: &[&str], args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(reader).arg(&self.path).args(args).env_remove("RUST_BACKTRACE");
        command
    }

    fn run(&self, reader: &[&str], args: &[&str]) -> Run {
        finish(self.command(reader, args)).expect("setpriv starts and ends")
    }

    /// The cell of the matrix where the reader may.
    #[track_caller]
    fn may(&self, reader: &[&str], target: &Target) {
        let pid = target.pid().to_string();
        let run = self.run(reader, &["histo", "--json", &pid]);
        assert!(run.status.success(), "{reader:?}: {}", run.stderr);
        let doctor = self.run(reader, &["doctor", &pid]);
        assert!(doctor.status.success(), "{reader:?}: {}", doctor.text());
        assert!(!doctor.text().contains("failed"), "{reader:?}: {}", doctor.text());
        assert_eq!(self.listed(reader, target), Some(true), "{reader:?}");
    }

    /// The cell where it may not, and is told why.
    #[track_caller]
    fn may_not(&self, reader: &[&str], target: &Target, why: &str, remedy: &str) {
        let pid = target.pid().to_string();
        for verb in ["histo", "dump", "flamegraph"] {
            let run = self.run(reader, &[verb, &pid]);
            assert_eq!(run.status.code(), Some(2), "{verb} {reader:?}: {}", run.stderr);
            assert!(run.stdout.is_empty(), "{verb} {reader:?}");
            let doctor = format!("heapsonde doctor {pid}");
            for words in [why, remedy, &doctor] {
                assert!(run.stderr.contains(words), "{verb} {reader:?} says nothing of {words:?}: {}", run.stderr);
            }
        }
        let doctor = self.run(reader, &["doctor", &pid]);
        assert_eq!(doctor.status.code(), Some(2), "{reader:?}: {}", doctor.text());
        for words in ["failed", why, remedy] {
            assert!(doctor.text().contains(words), "doctor {reader:?} says nothing of {words:?}: {}", doctor.text());
        }
        assert_eq!(self.listed(reader, target), Some(false), "{reader:?}");
    }

    /// What `ps` says of a process: whether it can be read. `None`: nothing.
    fn listed(&self, reader: &[&str], target: &Target) -> Option<bool> {
        let run = self.run(reader, &["ps", "--json"]);
        assert!(run.status.success(), "{}", run.stderr);
        let list: serde_json::Value = serde_json::from_slice(&run.stdout).expect("ps writes JSON");
        let row = list.as_array().expect("a list").iter().find(|row| row["pid"] == target.pid())?;
        assert_eq!(row["schema_version"], 1);
        assert!(row["readable"] == true || row["why"].is_string(), "{row}");
        row["readable"].as_bool()
    }
}

fn python(who: &[&str], program: &str) -> Target {
    let mut command = Command::new("setpriv");
    command.args(who).args([PYTHON, "-c", program]).current_dir("/");
    let mut target = Target::start(command).expect("setpriv starts");
    let line = target.read_line().expect("the system's Python says ready");
    assert_eq!(line, format!("ready {}", target.pid()));
    target
}

/// The tool, where the matrix can be tested.
fn tool(test: &str) -> Option<Tool> {
    let why = match (common::is_root(), Path::new(PYTHON).exists()) {
        (false, _) => "only root can become others",
        (_, false) => "the system has no Python",
        _ if finish(Command::new("setpriv")).is_err() => "there is no setpriv",
        _ => return Some(Tool::new()),
    };
    skipped(test, why);
    None
}

fn root_reads_everybody() {
    let Some(tool) = tool("root reads everybody") else { return };
    tool.may(ROOT, &python(USER, READY));
    tool.may(ROOT, &python(USER, NOT_DUMPABLE));
    tool.may(ROOT, &python(CONTAINER_ROOT, READY));
}

fn a_user_reads_its_own_and_nobody_else() {
    let Some(tool) = tool("a user reads its own") else { return };
    if fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() != "0") {
        tool.may_not(USER, &python(USER, READY), "kernel.yama.ptrace_scope is", "sysctl kernel.yama.ptrace_scope=0");
    } else {
        tool.may(USER, &python(USER, READY));
    }
    tool.may_not(USER, &python(OTHER, READY), "belongs to user 4321, and we are user 1234", "sudo");
    tool.may_not(USER, &python(ROOT, READY), "belongs to user 0, and we are user 1234", "sudo");
    tool.may_not(USER, &python(USER, NOT_DUMPABLE), "is not dumpable", "sudo");
}

fn a_user_with_the_capability_reads_everybody() {
    let Some(tool) = tool("CAP_SYS_PTRACE") else { return };
    // The file belongs to another user, which leaves the call.
    let target = python(OTHER, READY);
    let by_call = tool.run(CAPABLE_USER, &["-v", "histo", "-j", &target.pid().to_string()]);
    assert!(by_call.stderr.contains("is read by process_vm_readv"), "{}", by_call.stderr);
    tool.may(CAPABLE_USER, &python(OTHER, READY));
    tool.may(CAPABLE_USER, &python(ROOT, READY));
    tool.may(CAPABLE_USER, &python(USER, NOT_DUMPABLE));
}

fn root_of_a_container_reads_only_its_like() {
    let Some(tool) = tool("a container's root") else { return };
    let why = "we are root without CAP_SYS_PTRACE";
    for reader in [CONTAINER_ROOT, ROOT_WITHOUT_PTRACE] {
        tool.may_not(reader, &python(OTHER, READY), why, "--cap-add=SYS_PTRACE");
        tool.may_not(reader, &python(ROOT, READY), why, "capabilities.add: [SYS_PTRACE]");
        tool.may(reader, &python(reader, READY));
    }
}

#[expect(unsafe_code, reason = "what runs between fork and exec")]
fn a_filter_that_refuses_the_call_leaves_the_file() {
    let Some(tool) = tool("seccomp") else { return };
    let target = python(ROOT, READY);
    let pid = target.pid().to_string();
    let filtered = |args: &[&str]| {
        let mut command = Command::new(&tool.path);
        command.args(args);
        // SAFETY: between fork and exec the closure makes one system call, on data that lives on its stack.
        unsafe {
            command.pre_exec(refuse_process_vm_readv);
        }
        finish(command).expect("the tool starts and ends")
    };
    let (plain, filtered_run) = (tool.run(ROOT, &["histo", "-j", &pid]), filtered(&["histo", "-j", &pid]));
    assert!(filtered_run.status.success(), "{}", filtered_run.stderr);
    let totals = |run: &Run| run.json().expect("a document")["totals"].clone();
    assert_eq!(totals(&plain), totals(&filtered_run));
    let doctor = filtered(&["doctor", &pid]);
    assert!(doctor.status.success(), "{}", doctor.text());
    assert!(doctor.text().contains("the other way is open"), "{}", doctor.text());
}

/// Installs a seccomp filter under which process_vm_readv fails with EPERM.
#[expect(unsafe_code, reason = "what runs between fork and exec")]
fn refuse_process_vm_readv() -> std::io::Result<()> {
    use nix::libc::{self, sock_filter, sock_fprog};
    let statement = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the call's number
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_process_vm_readv as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its statements outlive the call, which copies them. We are root: no_new_privs is not
    // needed.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program as *const sock_fprog) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn a_process_that_proc_hides_is_said_to_be_hidden() {
    if !common::is_root() {
        return skipped("hidepid", "only root mounts /proc");
    }
    let (tool, target) = (Tool::new(), python(ROOT, READY));
    let pid = target.pid().to_string();
    let hidden = |args: &[&str]| {
        /// What the shell ends with where it may not mount.
        const NO_MOUNT: i32 = 77;
        let script = format!("mount -t proc -o hidepid=2 proc /proc || exit {NO_MOUNT}; exec setpriv \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-c", &script, "sh"]).args(USER);
        command.arg(&tool.path).args(args).env_remove("RUST_BACKTRACE");
        finish(command).ok().filter(|run| run.status.code() != Some(NO_MOUNT))
    };
    for verb in ["histo", "dump", "flamegraph"] {
        let Some(run) = hidden(&[verb, &pid]) else { return skipped("hidepid", "no mount namespaces here") };
        assert_eq!(run.status.code(), Some(2), "{verb}: {}", run.stderr);
        assert!(run.stdout.is_empty(), "{verb}: {}", run.text());
        let sentence = format!("heapsonde: process {pid} exists, and /proc hides it from us (mounted with hidepid)\n");
        assert!(run.stderr.starts_with(&sentence), "{verb}: {}", run.stderr);
    }
    let listed = hidden(&["ps", "--json"]).expect("it ran before");
    assert!(listed.status.success() && !listed.text().contains(&format!("\"pid\": {pid},")), "{}", listed.text());
}

fn a_host_without_proc_is_said_to_have_none() {
    if !common::is_root() {
        return skipped("no /proc", "only root mounts over it");
    }
    const NO_MOUNT: i32 = 77;
    let (tool, target) = (Tool::new(), python(ROOT, READY));
    let pid = target.pid().to_string();
    for verb in ["histo", "doctor"] {
        let script = format!("mount -t tmpfs none /proc || exit {NO_MOUNT}; exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-c", &script, "sh"]);
        command.arg(&tool.path).args([verb, &pid]).env_remove("RUST_BACKTRACE");
        let Some(run) = finish(command).ok().filter(|run| run.status.code() != Some(NO_MOUNT)) else {
            return skipped("no /proc", "no mount namespaces here");
        };
        assert_eq!(run.status.code(), Some(2), "{verb}: {}", run.stderr);
        let told = run.text() + &run.stderr;
        assert!(told.contains("/proc cannot be read here") && told.contains("mount -t proc"), "{verb}: {told}");
    }
}
