//! Runs the tool and parses its output.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;

use super::DEADLINE;

/// What one run left.
pub struct Run {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Run {
    /// Stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// This run, if it ended well.
    pub fn ok(self) -> Result<Run, String> {
        match self.status.success() {
            true => Ok(self),
            false => Err(format!("heapsonde: {}: {}", self.status, self.stderr.trim_end())),
        }
    }

    /// Stdout as one JSON document of schema version 1.
    pub fn json(&self) -> Result<Value, String> {
        let value: Value =
            serde_json::from_slice(&self.stdout).map_err(|e| format!("not JSON: {e}: {}", self.text()))?;
        match value["schema_version"].as_u64() {
            Some(1) => Ok(value),
            _ => Err(format!("schema_version is {}, not 1", value["schema_version"])),
        }
    }
}

/// The tool as a command: the one that cargo built, or `HEAPSONDE_BIN`.
pub fn heapsonde(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).env_remove("RUST_LOG").env("NO_COLOR", "1");
    command
}

/// Where the tool is.
pub fn binary() -> String {
    std::env::var("HEAPSONDE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_heapsonde").into())
}

/// Runs a command to its end with an empty stdin. One that does not end is killed, and that is an error.
pub fn finish(mut command: Command) -> Result<Run, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    let pid = Pid::from_raw(child.id() as i32);
    let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let (done, ended) = channel();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = err.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    thread::spawn(move || {
        let mut stdout = Vec::new();
        let _ = out.read_to_end(&mut stdout);
        let _ = done.send(stdout);
    });
    let stdout = ended.recv_timeout(DEADLINE).map_err(|_| {
        let _ = kill(pid, Signal::SIGKILL);
        let _ = child.wait();
        format!("{command:?} did not end in {DEADLINE:?}")
    })?;
    let status = child.wait().map_err(|e| e.to_string())?;
    Ok(Run { status, stdout, stderr: reader.join().expect("the reader does not panic") })
}

/// Runs the tool to its end.
pub fn run(args: &[&str]) -> Result<Run, String> {
    finish(heapsonde(args))
}

/// Whether the tool has a verb. Tests of a verb that is not written yet say so, and are skipped.
pub fn has_verb(verb: &str) -> bool {
    run(&[verb, "--help"]).is_ok_and(|run| run.status.success() && !run.stdout.is_empty())
}

/// One line of `dump -f ndjson`.
#[derive(Deserialize, Clone, Debug)]
pub struct Dumped {
    #[serde(deserialize_with = "hexadecimal")]
    pub address: u64,
    #[serde(rename = "type")]
    pub type_name: String,
    #[serde(deserialize_with = "hexadecimal")]
    pub type_address: u64,
    pub shallow_size: u64,
    pub tracked: bool,
    pub refcount: i64,
    #[serde(default)]
    pub immortal: bool,
    /// `lower-bound` where the size cannot be known from outside.
    #[serde(default)]
    pub size_basis: Option<String>,
    /// With `--references` only.
    #[serde(default, deserialize_with = "hexadecimals")]
    pub references: Vec<u64>,
}

fn hexadecimal<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.strip_prefix("0x").ok_or_else(|| serde::de::Error::custom(format!("{text:?} lacks 0x")))?;
    u64::from_str_radix(digits, 16).map_err(serde::de::Error::custom)
}

fn hexadecimals<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |text: &String| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    texts.iter().map(|text| parse(text).ok_or_else(|| serde::de::Error::custom(text))).collect()
}

/// Every object of a target, sorted by address.
pub fn dump(pid: u32) -> Result<Vec<Dumped>, String> {
    dump_with(&["dump", "--pause", "-f", "ndjson", &pid.to_string()])
}

/// The same with references.
pub fn dump_references(pid: u32) -> Result<Vec<Dumped>, String> {
    dump_with(&["dump", "--pause", "--references", "-f", "ndjson", &pid.to_string()])
}

fn dump_with(args: &[&str]) -> Result<Vec<Dumped>, String> {
    let run = run(args)?.ok()?;
    let mut objects = Vec::new();
    for line in run.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let object = serde_json::from_slice(line);
        objects.push(object.map_err(|e| format!("{e} in line {:?}", String::from_utf8_lossy(line)))?);
    }
    objects.sort_unstable_by_key(|o: &Dumped| o.address);
    Ok(objects)
}

/// Writes a line of progress past the capture of the test harness.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
