//! Finds CPythons: those fetched by tests/interpreters.sh, pyenv's, and the system's.
//!
//! `HEAPSONDE_INTERPRETERS` is the fetcher's directory; `HEAPSONDE_ONLY=3.12,sid-3.14` selects by version or name.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Once, OnceLock};

/// The minor versions that heapsonde reads. One that is not here is a visible skip.
pub const MINORS: std::ops::RangeInclusive<u8> = 8..=15;

/// In CI at least so many interpreters must start, or a dead mirror would turn everything silently green.
const CI_FLOOR: usize = 9;
/// In CI each of these must be among them.
const CI_REQUIRED: [u8; 2] = [14, 15];

/// An interpreter that starts.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// Unique: `sid-3.14`, `pyenv-3.8.18`.
    pub name: String,
    /// Major, minor, micro.
    pub version: (u8, u8, u8),
    /// As the fetcher calls it: default, free-threaded, debug, static, static-stripped, musl, musl-static, chroot,
    /// loader.
    pub kind: String,
    /// Where numpy is, as the target sees it.
    pub python_path: Option<String>,
    /// Becomes the interpreter by exec; to be followed by `-c SOURCE ARGS`.
    pub command: Vec<String>,
    /// The first that was found of its minor version, with its lock or without, and with its allocator. Slow tests read
    /// only these at each landing, and the others with `--ignored`.
    pub is_first: bool,
}

impl Interpreter {
    /// The command with the environment that every target gets: nothing of ours, and the same hashes in every run.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs([("PYTHONHASHSEED", "1"), ("PYTHONDONTWRITEBYTECODE", "1"), ("LC_ALL", "C.UTF-8"), ("HOME", "/")]);
        if let Some(path) = &self.python_path {
            command.env("PYTHONPATH", path);
        }
        command
    }

    /// Whether this interpreter accepts such an environment: a free-threaded one refuses PYTHONMALLOC=malloc.
    pub fn starts_with(&self, environment: &[(&str, &str)]) -> Result<(), String> {
        let mut command = self.command();
        command.envs(environment.iter().copied()).args(["-c", "pass"]);
        let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(last_line(&output.stderr)),
        }
    }

    /// Whether the build has a global lock: the others count references otherwise and have an allocator of their own.
    pub fn has_gil(&self) -> bool {
        self.kind != "free-threaded"
    }

    /// What is special about its memory: debug builds mark every block, and musl has a malloc of its own.
    pub fn allocator(&self) -> &'static str {
        match self.kind.as_str() {
            "debug" => "debug",
            kind if kind.starts_with("musl") => "musl",
            _ => "plain",
        }
    }
}

/// What is here, and what is not: (name, why).
#[derive(Clone)]
pub struct Found {
    pub interpreters: Vec<Interpreter>,
    pub skipped: Vec<(String, String)>,
}

/// The interpreters, looked for once in each run. Panics in CI where fewer start than the floor.
pub fn find() -> Found {
    static FOUND: OnceLock<Found> = OnceLock::new();
    FOUND.get_or_init(look_for_all).clone()
}

fn look_for_all() -> Found {
    let mut found = Found { interpreters: Vec::new(), skipped: Vec::new() };
    let (mut seen, mut firsts) = (HashSet::new(), HashSet::new());
    let listed = list_of_fetcher(&mut found.skipped);
    for candidate in listed.into_iter().chain(local()) {
        let identity = match candidate.command.as_slice() {
            [path] => fs::canonicalize(path).unwrap_or_else(|_| path.into()),
            words => words.join(" ").into(),
        };
        if !wanted(&candidate) || !seen.insert(identity) {
            continue;
        }
        match ask_version(&candidate) {
            Ok(version) if version.0 == 3 && MINORS.contains(&version.1) => {
                let is_first = firsts.insert((version.1, candidate.has_gil(), candidate.allocator()));
                found.interpreters.push(Interpreter { version, is_first, ..candidate });
            }
            Ok(version) => found.skipped.push((candidate.name, format!("version {version:?} is not read"))),
            Err(why) => found.skipped.push((candidate.name, why)),
        }
    }
    let narrowed = std::env::var_os("HEAPSONDE_ONLY").is_some();
    for minor in MINORS.filter(|_| !narrowed) {
        if !found.interpreters.iter().any(|i| i.version.1 == minor) {
            found.skipped.push((format!("CPython 3.{minor}"), "none found; tests/interpreters.sh fetches some".into()));
        }
    }
    if std::env::var("CI").is_ok_and(|v| v == "true") && !narrowed {
        let enough = found.interpreters.len() >= CI_FLOOR
            && CI_REQUIRED.iter().all(|minor| found.interpreters.iter().any(|i| i.version.1 == *minor));
        assert!(enough, "CI demands {CI_FLOOR} interpreters with 3.{CI_REQUIRED:?}, found {:?}", found.interpreters);
    }
    found
}

/// Those of `find`, with the skips printed once in each run.
pub fn find_and_say() -> Vec<Interpreter> {
    static SAID: Once = Once::new();
    let found = find();
    SAID.call_once(|| found.skipped.iter().for_each(|(name, why)| super::skipped(name, why)));
    found.interpreters
}

/// One of each minor version, build and C library, with the skips printed once in each run.
pub fn one_of_each_kind() -> Vec<Interpreter> {
    let mut found = find_and_say();
    let key = |i: &Interpreter| (i.version.1, i.kind.split('-').next().unwrap_or_default().to_owned());
    found.sort_by_key(key);
    found.dedup_by_key(|interpreter| key(interpreter));
    found
}

/// The newest plain interpreter: for tests that need one and do not care which.
pub fn any() -> Option<Interpreter> {
    let mut found = find().interpreters;
    found.sort_by_key(|i| (i.kind == "default", i.version));
    found.pop()
}

/// Interpreters that pyenv holds and heapsonde does not read: (version, path).
pub fn too_old() -> Vec<(String, PathBuf)> {
    let old = |name: &str| ["2.7", "3.6", "3.7"].iter().any(|v| name.starts_with(v));
    pyenv().into_iter().filter(|(name, _)| old(name)).collect()
}

/// Where an interpreter keeps its headers and its shared library, if it has both.
pub fn library_of(interpreter: &Interpreter) -> Option<(PathBuf, PathBuf)> {
    let [program] = interpreter.command.as_slice() else { return None };
    let prefix = fs::canonicalize(program).ok()?.parent()?.parent()?.to_owned();
    let minor = interpreter.version.1;
    let (include, library) = (prefix.join(format!("include/python3.{minor}")), prefix.join("lib"));
    let is_there = include.join("Python.h").exists() && library.join(format!("libpython3.{minor}.so")).exists();
    is_there.then_some((include, library))
}

/// Where the fetcher put web servers for an interpreter that sees our files.
pub fn web_packages(interpreter: &Interpreter) -> Option<String> {
    let (major, minor, _) = interpreter.version;
    let folder = fetched().join(format!("web-{major}.{minor}"));
    let is_there = interpreter.kind == "default" && folder.join(".recipe").exists();
    is_there.then(|| folder.to_string_lossy().into_owned())
}

/// Where the fetcher put the packages that are pinned for a version.
pub fn packages((major, minor, _): (u8, u8, u8)) -> Option<String> {
    let folder = fetched().join(format!("packages-{major}.{minor}"));
    folder.join(".recipe").exists().then(|| folder.to_string_lossy().into_owned())
}

/// Where the fetcher put pytest, for an interpreter that sees our files and is new enough.
pub fn pytest(interpreter: &Interpreter) -> Option<String> {
    let folder = fetched().join("pytest");
    let (major, minor, _) = interpreter.version;
    let is_there = interpreter.kind == "default" && (major, minor) >= (3, 11) && folder.join(".recipe").exists();
    is_there.then(|| folder.to_string_lossy().into_owned())
}

/// Where the fetcher put DuckDB, pyarrow, polars and pandas, for an interpreter of 3.12 that sees our files.
pub fn arrow(interpreter: &Interpreter) -> Option<String> {
    let (folder, packages) = (fetched().join("arrow"), packages(interpreter.version)?);
    let (major, minor, _) = interpreter.version;
    let is_there = interpreter.kind == "default" && (major, minor) == (3, 12) && folder.join(".recipe").exists();
    is_there.then(|| format!("{}:{packages}", folder.to_string_lossy()))
}

/// A program of Prometheus, if it was fetched or is installed.
pub fn prometheus(program: &str) -> Option<PathBuf> {
    let installed = std::env::split_paths(&std::env::var_os("PATH")?).collect::<Vec<PathBuf>>();
    let folders = std::iter::once(fetched().join("prometheus")).chain(installed);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A library that replaces malloc, if it was fetched or is installed.
pub fn malloc_library(file: &str) -> Option<PathBuf> {
    let folders = [fetched().join("mallocs"), "/usr/lib/x86_64-linux-gnu".into(), "/usr/lib64".into()];
    folders.iter().map(|folder| folder.join(file)).find(|path| path.is_file())
}

fn wanted(candidate: &Interpreter) -> bool {
    let Ok(only) = std::env::var("HEAPSONDE_ONLY") else { return true };
    only.split(',').map(str::trim).any(|word| {
        let version = candidate.name.rsplit('-').find(|part| part.starts_with("3."));
        candidate.name == word || version.is_some_and(|v| v == word || v.starts_with(&format!("{word}.")))
    })
}

/// The fetcher's folder.
fn fetched() -> PathBuf {
    match std::env::var_os("HEAPSONDE_INTERPRETERS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/heapsonde/interpreters"),
    }
}

fn list_of_fetcher(skipped: &mut Vec<(String, String)>) -> Vec<Interpreter> {
    let folder = fetched();
    let Ok(list) = fs::read_to_string(folder.join("LIST")) else {
        skipped.push((folder.join("LIST").display().to_string(), "not there; tests/interpreters.sh writes it".into()));
        return Vec::new();
    };
    for line in fs::read_to_string(folder.join("SKIPPED")).unwrap_or_default().lines() {
        let (name, why) = line.split_once('\t').unwrap_or((line, "not fetched"));
        skipped.push((name.into(), why.into()));
    }
    let parse = |line: &str| {
        let fields: Vec<&str> = line.splitn(5, '\t').collect();
        let [name, _version, kind, python_path, command] = fields[..] else { return None };
        Some(Interpreter {
            name: name.into(),
            version: (0, 0, 0),
            kind: kind.into(),
            python_path: (python_path != "-").then(|| python_path.into()),
            command: command.split_whitespace().map(str::to_string).collect(),
            is_first: false,
        })
    };
    list.lines().filter_map(parse).filter(|i| !i.command.is_empty()).collect()
}

fn pyenv() -> Vec<(String, PathBuf)> {
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".pyenv"));
    let folders = fs::read_dir(root.join("versions")).into_iter().flatten().flatten();
    let mut versions: Vec<_> =
        folders.map(|f| (f.file_name().to_string_lossy().into_owned(), f.path().join("bin/python"))).collect();
    versions.retain(|(_, path)| path.exists());
    versions.sort();
    versions
}

fn local() -> Vec<Interpreter> {
    let old: HashSet<String> = too_old().into_iter().map(|(name, _)| name).collect();
    let mut all: Vec<(String, PathBuf)> = pyenv().into_iter().filter(|(name, _)| !old.contains(name)).collect();
    all.iter_mut().for_each(|(name, _)| *name = format!("pyenv-{name}"));
    all.push(("system".into(), Path::new("/usr/bin/python3").into()));
    all.retain(|(_, path)| path.exists());
    let plain = |(name, path): (String, PathBuf)| Interpreter {
        name,
        version: (0, 0, 0),
        kind: "default".into(),
        python_path: None,
        command: vec![path.to_string_lossy().into_owned()],
        is_first: false,
    };
    all.into_iter().map(plain).collect()
}

fn ask_version(candidate: &Interpreter) -> Result<(u8, u8, u8), String> {
    let ask = "import sys; print(sys.implementation.name, *sys.version_info[:3])";
    let output = candidate.command().args(["-c", ask]).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{}: {e}", candidate.command[0]))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        ["cpython", a, b, c] => match (a.parse(), b.parse(), c.parse()) {
            (Ok(a), Ok(b), Ok(c)) => Ok((a, b, c)),
            _ => Err(format!("says its version is {text:?}")),
        },
        _ => Err(format!("does not start: {}", last_line(&output.stderr))),
    }
}

fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("says nothing").to_string()
}
