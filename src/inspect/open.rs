//! From what was typed to a census: find or start the process, attach, stop it if asked, copy or stream.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::heap::census::Progress;
use crate::heap::object::Sink;
use crate::heap::part::Part;
use crate::heap::survey::{Outcome, Survey};
use crate::process::cache::CachedMemory;
use crate::process::copy::{self, Copy};
use crate::process::core::backing::Places;
use crate::process::core::file::Core;
use crate::process::elf::{LoadedElf, is_32_bit};
use crate::process::freeze::Freeze;
use crate::process::gates::{self, Gate};
use crate::process::layered::Layered;
use crate::process::live::Process;
use crate::process::memory::Memory;
use crate::process::source::Source;
use crate::process::spawn::{SpawnOptions, Spawned};
use crate::process::{ReadError, host};
use crate::python::attach::{self, AttachError};
use crate::python::interpreter::Python;
use crate::python::layout::Build;
use crate::python::types::TypeTable;
use crate::report::summary::{AllocatorSummary, Problems, Reading, TargetSummary};
use crate::report::units;

use crate::cli::advice::{InCore, Refused, ThirtyTwoBit};
use crate::cli::{args, progress};

/// How long a started program may take until its interpreter is up.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a started program may be busy before it is read all the same.
const QUIET_LIMIT: Duration = Duration::from_secs(15);
/// Targets of at most so many bytes are copied before they are read, so that the ways of finding objects can be
/// checked against each other. A third of what a census may use beyond its base.
const COPY_SMALL: u64 = 24 << 20;

/// A process, or a core, with a proved Python in it.
pub struct Opened {
    pub(crate) source: Source,
    pub(crate) elfs: Vec<LoadedElf>,
    pub(crate) python: Python,
    pub(crate) pause: bool,
    pub(crate) nonblocking: bool,
    /// Whether roots may have names that are data.
    pub(super) shows_values: bool,
    /// Ended when this is dropped, unless it is to be kept.
    spawned: Option<Spawned>,
}

/// The result of a census, whatever it collected.
pub struct Taken<S> {
    /// What the sinks collected.
    pub collected: S,
    /// How the target was read.
    pub reading: Reading,
    /// What could not be read.
    pub problems: Problems,
    /// The allocator's figures.
    pub allocator: AllocatorSummary,
}

/// What was read, and how.
pub(crate) struct Read<'a> {
    pub(crate) survey: &'a Survey,
    pub(crate) types: &'a TypeTable,
    /// Of a sample, pools and blocks in use are estimates.
    pub(crate) outcome: Outcome,
    pub(crate) bytes: u64,
    pub(crate) start: Instant,
    pub(crate) paused: Option<Duration>,
}

/// Opens the target that was typed.
pub fn open(arguments: &args::Target) -> Result<Opened> {
    if let Some(path) = &arguments.core.core {
        let Attached { source, elfs, python } = attach_to_core(path, &arguments.core)?;
        return Ok(Opened {
            source,
            elfs,
            python,
            pause: false,
            nonblocking: true,
            shows_values: false,
            spawned: None,
        });
    }
    match (arguments.pid.or(arguments.pid_option), arguments.command.as_slice()) {
        (Some(pid), _) => Ok(Opened { nonblocking: arguments.nonblocking, ..open_process(pid, arguments.pause)? }),
        (None, []) => bail!("which process? Give a PID, a core by --core, or a command behind --"),
        (None, command) => start(arguments, command),
    }
}

/// Opens a process that runs.
pub fn open_process(pid: i32, pause: bool) -> Result<Opened> {
    let Attached { source, elfs, python } = attach_to(pid)?;
    Ok(Opened { source, elfs, python, pause, nonblocking: false, shows_values: false, spawned: None })
}

/// A process and the Python that was proved to be in it.
pub struct Attached {
    pub(crate) source: Source,
    elfs: Vec<LoadedElf>,
    /// The Python.
    pub python: Python,
}

/// Finds and proves the Python in a process. Takes milliseconds.
pub fn attach_to(pid: i32) -> Result<Attached> {
    if pid <= 0 {
        bail!(Refused { pid, gate: Gate::NoSuchProcess });
    }
    let refused = || Refused { pid, gate: gates::diagnose(pid) };
    let process = Process::open(pid).map_err(|_| refused())?;
    if process.regions().iter().next().is_none() || process.probe().is_err() {
        bail!(refused());
    }
    if is_32_bit(Path::new(&format!("/proc/{pid}/exe"))) == Some(true) {
        bail!(ThirtyTwoBit { pid });
    }
    attach_to_source(Source::Live(process)).map_err(|error| match error {
        AttachError::Read(ReadError::Denied | ReadError::Gone) => anyhow::Error::new(refused()),
        error => anyhow::Error::new(error).context(format!("cannot read process {pid}")),
    })
}

/// Opens a core and finds and proves the Python in it. Says aloud what the core has not.
pub fn attach_to_core(path: &Path, options: &args::CoreFile) -> Result<Attached> {
    let core = open_core(path, options)?;
    let missing: Vec<String> = core.gaps().files.iter().map(|file| file.path.display().to_string()).collect();
    for file in &core.gaps().files {
        log::debug!("what the core left out of {} is missing: {}", file.path.display(), file.why);
    }
    if let Some(first) = core.gaps().files.first() {
        let others = match missing.len() {
            1 => String::new(),
            count => format!(" and {} more files", count - 1),
        };
        log::warn!("what the core left out of {}{others} is missing: {}", first.path.display(), first.why);
    }
    if core.gaps().cut_off > 0 {
        log::warn!("the core is cut off: {} of memory are missing", units::bytes(core.gaps().cut_off));
    }
    attach_to_source(Source::Core(Box::new(core))).map_err(|error| {
        let error = InCore { missing, error };
        anyhow::Error::new(error).context(format!("cannot read the core {}", path.display()))
    })
}

/// Opens a core.
pub fn open_core(path: &Path, options: &args::CoreFile) -> Result<Core> {
    let places = Places { executable: options.exe.clone(), sysroot: options.sysroot.clone() };
    if let Some(root) = places.sysroot.as_ref().filter(|root| !root.is_dir()) {
        bail!("{} is not a folder", root.display());
    }
    Ok(Core::open(path, &places)?)
}

/// Finds and proves the Python in a target.
pub fn attach_to_source(source: Source) -> Result<Attached, AttachError> {
    let cached = CachedMemory::new(&source);
    let elfs = LoadedElf::all(&cached);
    let open_file = |elf: &LoadedElf| source.elf_file(&cached, elf);
    let python = attach::attach(&cached, &elfs, &open_file)?;
    log::debug!("attached with {} reads", cached.reads());
    Ok(Attached { source, elfs, python })
}

/// What a build is called in reports.
pub fn build_name(build: Build) -> &'static str {
    match build {
        Build::Default => "default",
        Build::FreeThreaded => "free-threaded",
        Build::Debug | Build::DebugFreeThreaded => "debug",
    }
}

/// The version of a Python that could not be read, where the error knows it.
pub fn version_of_error(error: &anyhow::Error) -> Option<String> {
    let attach = error.downcast_ref().or_else(|| error.downcast_ref::<InCore>().map(|in_core| &in_core.error));
    match attach? {
        AttachError::UnknownVersion(version) => Some(version.to_string()),
        AttachError::NotProved { version, .. } => Some(version.trim().to_owned()).filter(|version| !version.is_empty()),
        _ => None,
    }
}

/// Starts a program and waits until there is something to read.
fn start(arguments: &args::Target, command: &[String]) -> Result<Opened> {
    let mut spawned = Spawned::start(command, SpawnOptions { keep: arguments.keep, as_root: arguments.as_root })
        .with_context(|| format!("cannot start {:?}", command[0]))?;
    let pid = spawned.pid();
    let mut last_error = None;
    let attached = spawned.wait_until(START_LIMIT, || match attach_to_family(pid) {
        Ok(attached) => Some(attached),
        Err(error) => {
            last_error = Some(error);
            None
        }
    })?;
    let Some(python_pid) = attached else {
        return Err(match spawned.exited()? {
            Some(status) => anyhow::anyhow!("{:?} ended ({status}) before its Python could be read", command[0]),
            None => last_error
                .unwrap_or_else(|| anyhow::anyhow!("no Python"))
                .context(format!("{:?} did not start a Python", command[0])),
        });
    };
    match arguments.after {
        Some(after) => {
            spawned.wait_until(after, || None::<()>)?;
        }
        None => {
            let waited = spawned.wait_until_quiet(python_pid, QUIET_LIMIT)?;
            log::debug!("waited {} until the program was quiet", units::duration(waited));
        }
    }
    if let Some(status) = spawned.exited()? {
        bail!("{:?} ended ({status}) before it could be read; --after TIME reads it earlier", command[0]);
    }
    // Attached anew: the program has loaded more since.
    let opened = open_process(python_pid, arguments.pause)?;
    Ok(Opened { spawned: Some(spawned), nonblocking: arguments.nonblocking, ..opened })
}

/// The process itself, or the first of its descendants that is a Python: a shell or a launcher may stand before it.
fn attach_to_family(pid: i32) -> Result<i32> {
    let error = match attach_to(pid) {
        Ok(_) => return Ok(pid),
        Err(error) => error,
    };
    let children = remoteprocess::Process::new(pid).and_then(|process| process.child_processes()).unwrap_or_default();
    children.iter().map(|&(child, _)| child).find(|&child| attach_to(child).is_ok()).ok_or(error)
}

impl Opened {
    /// Of which process the report speaks.
    pub fn summary(&self) -> TargetSummary {
        TargetSummary {
            pid: self.source.pid(),
            version: self.python.version.to_string(),
            build: build_name(self.python.build),
            command: self.source.arguments().join(" "),
            interpreters: self.python.interpreters.len(),
        }
    }

    /// The program that we started, if we did, to be held until the last of its processes was read.
    pub fn into_program(self) -> Option<Spawned> {
        self.spawned
    }

    /// A short name for files: the program's own.
    pub fn name(&self) -> String {
        let words = self.source.arguments();
        // `python3 -m name`, `python3 path/name.py`, or just the interpreter.
        let word = match words.iter().position(|word| word == "-m") {
            Some(at) => words.get(at + 1),
            None => words.iter().skip(1).find(|word| !word.starts_with('-')).or(words.first()),
        };
        let stem = word.and_then(|word| Path::new(word).file_stem()).map(|stem| stem.to_string_lossy().into_owned());
        stem.filter(|stem| !stem.is_empty()).unwrap_or_else(|| "python".to_owned())
    }

    /// Takes a census: stops the process if asked, copies what fits, and hands what the census found to `collect`.
    pub fn census<S, R>(
        mut self,
        sink: impl Fn(&TypeTable) -> S + Sync,
        collect: impl FnOnce(&TypeTable, Vec<S>) -> R,
    ) -> Result<Taken<R>>
    where
        S: Sink,
    {
        let start = Instant::now();
        let freeze = if self.pause { Some(self.freeze()?) } else { None };
        let survey = self.survey()?;
        let total = survey.plan.total_bytes();
        let stands_still = self.pause || self.source.core().is_some();
        let copy = if stands_still && fits(total) || total <= COPY_SMALL { Some(self.copy(&survey)?) } else { None };
        let mut freeze = freeze;
        let mut paused = None;
        if copy.is_some() {
            paused = freeze.take().map(Freeze::release);
        }
        let progress = Progress::default();
        let (types, sinks, outcome) = match &copy {
            Some(copy) => {
                let memory = Layered::new(&copy.image, &self.source);
                let types = TypeTable::build(&CachedMemory::new(&memory), &self.python, &survey.plan.statics())?;
                let (sinks, mut outcome) = progress::show(&progress, total, || {
                    survey.checked_census(&memory, &self.python, &types, &progress, || sink(&types))
                })?;
                outcome.counts.unreadable_bytes += copy.unreadable_bytes;
                (types, sinks, outcome)
            }
            None => {
                let types = TypeTable::build(&CachedMemory::new(&self.source), &self.python, &survey.plan.statics())?;
                let (sinks, outcome) = progress::show(&progress, total, || {
                    survey.census(&self.source, &self.python, &types, &progress, || sink(&types))
                })?;
                (types, sinks, outcome)
            }
        };
        if let Some(freeze) = freeze {
            paused = Some(freeze.release());
        }
        let read = Read { survey: &survey, types: &types, outcome, bytes: total, start, paused };
        Ok(self.taken(read, || collect(&types, sinks)))
    }

    /// Looks at the process as it is now: its mappings, and where objects may lie in them.
    pub(crate) fn survey(&mut self) -> Result<Survey> {
        let pid = self.source.pid();
        self.source.refresh().map_err(|_| Refused { pid, gate: gates::diagnose(pid) })?;
        Ok(Survey::new(&self.source, &self.python, &self.elfs)?)
    }

    /// Stops the process.
    pub(crate) fn freeze(&self) -> Result<Freeze> {
        let freeze = Freeze::new(self.source.pid())?;
        if freeze.was_stopped_already() {
            log::warn!("process {} was stopped already; it is left so", self.source.pid());
        }
        Ok(freeze)
    }

    fn copy(&self, survey: &Survey) -> Result<Copy> {
        let ranges: Vec<_> = survey.plan.parts.iter().flat_map(Part::ranges).collect();
        Ok(copy::copy_ranges(&self.source, &ranges)?)
    }

    /// What was collected, and what is to be said of how it was read. All was read when this is called.
    pub(crate) fn taken<R>(&self, read: Read<'_>, collect: impl FnOnce() -> R) -> Taken<R> {
        let Read { survey, types, outcome, bytes, start, paused } = read;
        let is_core = self.source.core().is_some();
        let reading = Reading { read_bytes: bytes, duration: start.elapsed(), paused, is_core };
        let unknown: u64 = survey.plan.unknown.iter().map(|range| range.end.0 - range.start.0).sum();
        let missing = self.source.core().map_or(0, |core| core.gaps().cut_off + core.gaps().left_out);
        let problems = Problems::new(&outcome, unknown, missing, types.rejected, survey.arenas.rejected);
        let counts = &outcome.counts;
        let allocator = AllocatorSummary {
            arenas: survey.arenas.arenas.len() as u64,
            pools: counts.pools,
            blocks_in_use: counts.blocks_in_use,
            allocated_blocks: counts.blocks_in_use + survey.arenas.raw_blocks.unwrap_or(0),
            raw_blocks_known: survey.arenas.raw_blocks.is_some(),
            debug_hooks: survey.debug_hooks,
        };
        Taken { collected: collect(), reading, problems, allocator }
    }
}

/// Whether a copy of so many bytes leaves the host half of what it has.
fn fits(bytes: u64) -> bool {
    host::available_bytes().is_none_or(|available| bytes < available / 2)
}
