//! A target program: started, waited for, asked, and ended with the test.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::DEADLINE;
use super::interpreters::Interpreter;
use super::truth::{Edges, Truth};

/// A target. Its whole process group dies when this is dropped, and when the test dies in any other way.
pub struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<Vec<u8>>,
    pending: Vec<u8>,
    stderr: Arc<Mutex<Vec<u8>>>,
}

impl Target {
    /// Starts a program text and waits until it says `ready PID`.
    pub fn spawn(
        interpreter: &Interpreter,
        program: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Target, String> {
        let mut command = interpreter.command();
        command.arg("-c").arg(program).args(args).envs(env.iter().copied());
        let mut target = Target::start(command)?;
        let line = target.read_line()?;
        let says: Option<u32> = line.strip_prefix("ready ").and_then(|pid| pid.parse().ok());
        match says {
            Some(pid) if pid == target.pid() => Ok(target),
            Some(pid) => Err(format!("the interpreter is process {pid}, we started {}", target.pid())),
            None => Err(format!("expected `ready PID`, got {line:?}; {}", target.last_words())),
        }
    }

    /// The same, and waits until the program blocks in a read of its stdin. Between `ready` and that call it still
    /// makes a few objects, so on a busy machine a first look could find others than a second.
    pub fn spawn_blocked(
        interpreter: &Interpreter,
        program: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Target, String> {
        let target = Target::spawn(interpreter, program, args, env)?;
        target.wait_until_blocked()?;
        Ok(target)
    }

    /// Waits until the program blocks in a read of its stdin.
    pub fn wait_until_blocked(&self) -> Result<(), String> {
        // The call's number and its arguments (proc(5)): read is 0 on x86-64, and so is stdin.
        self.wait_for_call(self.pid(), "0 0x0 ")
    }

    /// Waits until a child of the program blocks in a read of anything.
    pub fn wait_until_child_blocks(&self, child: u32) -> Result<(), String> {
        self.wait_for_call(child, "0 0x")
    }

    /// As [`Target::wait_until_blocked`], and that each other thread blocks in a read of anything.
    pub fn wait_until_threads_block(&self) -> Result<(), String> {
        self.wait_until_blocked()?;
        let path = format!("/proc/{}/task", self.pid());
        let threads = std::fs::read_dir(&path).map_err(|e| format!("{path}: {e}"))?.flatten();
        let numbers = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
        numbers.filter(|&thread| thread != self.pid()).try_for_each(|thread| self.wait_for_call(thread, "0 0x"))
    }

    fn wait_for_call(&self, pid: u32, call: &str) -> Result<(), String> {
        let path = format!("/proc/{pid}/syscall");
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            let now = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}; {}", self.last_words()))?;
            if now.starts_with(call) {
                return Ok(());
            }
            thread::yield_now();
        }
        Err(format!("process {pid} does not block in a read; {}", self.last_words()))
    }

    /// Starts any command, with its pipes drained, and waits for nothing.
    #[expect(unsafe_code, reason = "what runs between fork and exec")]
    pub fn start(mut command: Command) -> Result<Target, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                // The kernel merges pages into large ones whenever it likes (khugepaged), where the allocator lets it
                // (mimalloc of 3.15): what a process has of its own would grow while it stands still.
                prctl::set_thp_disable(true)?;
                prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)
            });
        }
        let mut child = command.spawn().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
        let (sender, stdout) = channel();
        let mut pipe = child.stdout.take().expect("stdout was piped");
        thread::spawn(move || {
            let mut block = vec![0; 1 << 16];
            while let Ok(n @ 1..) = pipe.read(&mut block) {
                if sender.send(block[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (mut pipe, kept) = (child.stderr.take().expect("stderr was piped"), stderr.clone());
        thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut block) {
                kept.lock().unwrap().extend_from_slice(&block[..n]);
            }
        });
        let stdin = child.stdin.take();
        Ok(Target { child, stdin, stdout, pending: Vec::new(), stderr })
    }

    /// The process, as this side sees it: every command of ours becomes the interpreter by exec.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its stdout.
    pub fn read_line(&mut self) -> Result<String, String> {
        let end = Instant::now() + DEADLINE;
        let mut searched = 0;
        loop {
            if let Some(at) = self.pending[searched..].iter().position(|b| *b == b'\n') {
                let rest = self.pending.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            searched = self.pending.len();
            match self.stdout.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(block) => self.pending.extend(block),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("no answer in {DEADLINE:?}; {}", self.last_words()));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(format!("ended; {}", self.last_words())),
            }
        }
    }

    /// Its stdout up to and including a line, as bytes.
    fn read_to(&mut self, last: &str) -> Result<Vec<u8>, String> {
        let end = Instant::now() + DEADLINE;
        let mut all = std::mem::take(&mut self.pending);
        let last = format!("\n{last}\n");
        while !all.ends_with(last.as_bytes()) {
            match self.stdout.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(block) => all.extend(block),
                Err(e) => return Err(format!("{e} after {} bytes; {}", all.len(), self.last_words())),
            }
        }
        Ok(all)
    }

    /// Wakes the target and lets it tell. It may be asked again, but only the first answer is of what the tool saw.
    pub fn truth(&mut self) -> Result<Truth, String> {
        self.write(b"truth\n")?;
        Truth::parse(&self.read_to("end")?)
    }

    /// Wakes the target and lets it tell what refers to what.
    pub fn edges(&mut self) -> Result<Edges, String> {
        self.write(b"edges\n")?;
        Edges::parse(&self.read_to("end")?)
    }

    /// Writes to its stdin.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let stdin = self.stdin.as_mut().expect("stdin is open until the target is dropped");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).map_err(|e| format!("{e}; {}", self.last_words()))
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.pid() as i32), signal).expect("the target is ours and not reaped");
    }

    /// Waits for its end: exit code and stderr.
    pub fn wait(&mut self) -> Result<(Option<i32>, String), String> {
        let end = Instant::now() + DEADLINE;
        // The pipe closes when the process ends.
        loop {
            match self.stdout.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(block) => self.pending.extend(block),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(format!("no end in {DEADLINE:?}; {}", self.last_words())),
            }
        }
        let status = self.child.wait().map_err(|e| e.to_string())?;
        Ok((status.code(), self.last_words()))
    }

    /// Waits until its stderr has said something.
    pub fn wait_until_it_says(&mut self, text: &str) -> Result<(), String> {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if String::from_utf8_lossy(&self.stderr.lock().unwrap()).contains(text) {
                return Ok(());
            }
            if !self.is_alive() {
                return Err(format!("it has ended and has not said {text:?}; {}", self.last_words()));
            }
            thread::yield_now();
        }
        Err(format!("it does not say {text:?}; {}", self.last_words()))
    }

    /// Whether it still runs, or stands.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its stderr so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    fn last_words(&self) -> String {
        let stderr = self.stderr.lock().unwrap();
        let text = String::from_utf8_lossy(&stderr);
        let lines: Vec<&str> = text.lines().rev().take(6).collect();
        format!("stderr: {:?}", lines.into_iter().rev().collect::<Vec<_>>().join(" | "))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // The group first: while the child is not reaped, its number cannot be anybody else's.
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
