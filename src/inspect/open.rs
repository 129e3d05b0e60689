//! Opens a target: a process, a core file, or a program that is started for it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::analysis::memory_line::MemoryLine;
use crate::heap::census::Progress;
use crate::heap::survey::{Outcome, Survey};
use crate::process::core::backing::Places;
use crate::process::core::file::Core;
use crate::process::elf::is_32_bit;
use crate::process::freeze::{Freeze, FreezeError};
use crate::process::gates::{self, Gate, Standing};
use crate::process::live::Process;
use crate::process::memory::Memory;
use crate::process::residency::Residency;
use crate::process::smaps::Mapping;
use crate::process::source::Source;
use crate::process::spawn::{SpawnOptions, Spawned};
use crate::process::{ReadError, host, procfs};
use crate::python::attach::{AttachError, Load};
use crate::python::command_line;
use crate::python::interpreter::Python;
use crate::python::layout::{Build, Layout};
use crate::python::proof_error::ProofError;
use crate::python::types::TypeTable;

use super::answer::{AllocatorSummary, Inspected, Problems, Reading, TargetSummary};
use super::attached::Attached;
use super::error::Error;
use super::footprint;
use super::warning::Warning;

/// Time limit until the interpreter of a started program is running, unless [`Program::start_limit`] says otherwise.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Time limit until a started program is idle; then it is read while busy.
const QUIET_LIMIT: Duration = Duration::from_secs(15);

/// Number of attempts to read a target that contradicts itself, or executes another program meanwhile.
const ATTEMPTS: u32 = 3;
/// Between proofs: time to run for a process that lost its processor in the middle of a change.
const BETWEEN_PROOFS: Duration = Duration::from_millis(20);
/// Time limit to stop a process that is to stay stopped until it has been read. A thread may wait in the kernel for
/// minutes, and all others would be stopped for that long.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// A process or core with a proved Python.
pub struct Target {
    /// Its memory.
    pub source: Source,
    /// The Python in it.
    pub attached: Attached,
    /// Warnings from opening it.
    pub warnings: Vec<Warning>,
    observer: Option<Arc<dyn Observer>>,
    /// The program started for it, killed when this is dropped unless it is to be kept.
    started: Option<Spawned>,
    /// Whether the built-in layouts are used, so that the Python may be attached to again.
    has_own_layouts: bool,
}

/// Whether a live process may be stopped while it is read. A core is never running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pause {
    /// It is not stopped.
    #[default]
    Never,
    /// It is stopped while it is copied, if that takes no longer than this. A census does not need it and treats this
    /// as [`Pause::Never`].
    AtMost(Duration),
    /// It is stopped until it has been copied or read, however long that takes.
    Always,
}

/// A program to start and read.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The user it runs as, and whether it keeps running when the [`Target`] is dropped.
    pub options: SpawnOptions,
    /// How long after its Python is running it is read. `None`: once it is idle.
    pub after: Option<Duration>,
    /// How long after its start its Python must be running. `None`: 30 seconds.
    pub start_limit: Option<Duration>,
}

/// Receives the progress of long reads.
pub trait Observer: Send + Sync {
    /// A read of about `total_bytes` begins; `progress` counts what has been read.
    fn begin(&self, progress: &Arc<Progress>, total_bytes: u64);
    /// The read has ended.
    fn end(&self);
}

/// What was read, and how.
pub(crate) struct Read<'a> {
    pub(crate) survey: &'a Survey,
    pub(crate) types: &'a TypeTable,
    /// For a sample, pools and used blocks are estimates.
    pub(crate) outcome: Outcome,
    pub(crate) bytes: u64,
    pub(crate) start: Instant,
    pub(crate) paused: Option<Duration>,
    pub(crate) warnings: Vec<Warning>,
    /// The mappings and what is resident of them, if they are known already.
    pub(crate) mappings: Option<Vec<Mapping>>,
}

impl Target {
    /// Opens a process: finds the Python in it and proves its layout. Takes milliseconds and does not stop the process.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::ThirtyTwoBit`], [`Error::NotAttached`].
    pub fn process(pid: i32) -> Result<Target, Error> {
        let load: &Load<'_> = &|_, candidates| candidates.iter().map(Layout::load).collect();
        Ok(Target { has_own_layouts: true, ..Target::opened(pid, load, ATTEMPTS)? })
    }

    /// As [`Target::process`], with layouts made by `load`. Tests use it to pass wrong layouts.
    ///
    /// # Errors
    /// As [`Target::process`].
    pub fn process_with_layouts(pid: i32, load: &Load<'_>) -> Result<Target, Error> {
        Target::opened(pid, load, 1)
    }

    /// Opens a process anew, map and all, up to so many times while what is read contradicts itself: a running process
    /// changes between two reads that must agree, and one that is starting maps most of its memory meanwhile.
    fn opened(pid: i32, load: &Load<'_>, proofs: u32) -> Result<Target, Error> {
        if pid <= 0 {
            return Err(Error::Refused { pid, gate: Gate::NoSuchProcess });
        }
        // Started programs inherit this, so it is set after starting one.
        host::go_first_when_memory_is_short();
        let refused = || Error::Refused { pid, gate: gates::diagnose(pid) };
        let program = procfs::program_identity(pid);
        let is_another = || procfs::program_identity(pid) != program;
        for attempt in 1.. {
            let process = Process::open(pid).map_err(|_| refused())?;
            if process.regions().iter().next().is_none() || process.probe().is_err() {
                return Err(refused());
            }
            if is_32_bit(Path::new(&format!("/proc/{pid}/exe"))) == Some(true) {
                return Err(Error::ThirtyTwoBit { pid });
            }
            // Right after `exec` there is nothing of the program yet.
            let is_bare = process.regions().iter().all(|region| region.path().is_none());
            let source = Source::Live(process);
            let error = match Target::attach(&source, load) {
                Err(AttachError::NotPython) if is_bare => AttachError::StartingUp,
                Ok(attached) => return Ok(Target::with(source, attached)),
                Err(error) => error,
            };
            match error {
                // The process has executed another program, or is exiting.
                _ if !source.is_alive() && attempt < ATTEMPTS => {}
                _ if !source.is_alive() => return Err(gone(pid)),
                AttachError::Read(error) if error.is_final() => return Err(refused()),
                error if attempt < proofs && (error.may_be_of_a_change() || is_another()) => {
                    log::debug!("not proved: {error}; the process may have changed meanwhile, so once more");
                    std::thread::sleep(BETWEEN_PROOFS * attempt);
                }
                // One that starts again and again is never seen whole.
                _ if is_another() => return Err(Error::Replaced { pid }),
                error => return Err(Error::NotAttached { pid, error: Box::new(error) }),
            }
        }
        Err(gone(pid))
    }

    /// Opens a core file. [`Target::warnings`] lists what it lacks.
    ///
    /// # Errors
    /// [`Error::NotADirectory`], [`Error::Core`], [`Error::CoreNotAttached`].
    pub fn core(path: &Path, places: &Places) -> Result<Target, Error> {
        Target::opened_core(open_core(path, places)?, path)
    }

    /// As [`Target::core`], for a core that [`open_core`] has opened.
    ///
    /// # Errors
    /// [`Error::CoreNotAttached`].
    pub fn opened_core(core: Core, path: &Path) -> Result<Target, Error> {
        let mut warnings = Vec::new();
        let files = &core.gaps().files;
        for file in files {
            log::debug!("what the core left out of {} is missing: {}", file.path.display(), file.why);
        }
        if let Some(first) = files.first() {
            let (path, why) = (first.path.clone(), first.why.to_string());
            warnings.push(Warning::MissingFiles { path, why, others: files.len() - 1 });
        }
        if core.gaps().cut_off > 0 {
            warnings.push(Warning::CutOff { bytes: core.gaps().cut_off });
        }
        let missing = files.iter().map(|file| file.path.clone()).collect();
        let source = Source::Core(Box::new(core));
        match Target::attach(&source, &|_, candidates| candidates.iter().map(Layout::load).collect()) {
            Ok(attached) => Ok(Target { warnings, ..Target::with(source, attached) }),
            Err(error) => Err(Error::CoreNotAttached { path: path.to_owned(), missing, error: Box::new(error) }),
        }
    }

    /// Starts a program and opens its Python once it is running. If the program is a shell or launcher, its first
    /// descendant that is a Python is opened.
    ///
    /// # Errors
    /// It cannot be started, ends too early or runs no Python; and those of [`Target::process`].
    pub fn start(program: &Program) -> Result<Target, Error> {
        let name = || program.command.first().cloned().unwrap_or_default();
        let mut spawned = Spawned::start(&program.command, program.options)
            .map_err(|error| Error::NotStarted { program: name(), error })?;
        let pid = spawned.pid();
        let mut last_error = None;
        let python_pid = spawned
            .wait_until(program.start_limit.unwrap_or(START_LIMIT), || {
                find_in_family(pid).map_err(|error| last_error = Some(error)).ok()
            })
            .map_err(Error::Wait)?;
        let Some(python_pid) = python_pid else {
            return Err(match (spawned.exited().map_err(Error::Wait)?, last_error) {
                (Some(status), _) => Error::Ended { program: name(), status, was_up: false },
                (None, error) => {
                    let error = error.unwrap_or(Error::NotAttached { pid, error: Box::new(AttachError::NotPython) });
                    Error::NoPythonStarted { program: name(), error: Box::new(error) }
                }
            });
        };
        match program.after {
            Some(after) => {
                spawned.wait_until(after, || None::<()>).map_err(Error::Wait)?;
            }
            None => {
                let waited = spawned.wait_until_quiet(python_pid, QUIET_LIMIT).map_err(Error::Wait)?;
                log::debug!("waited {waited:?} until the program was quiet");
            }
        }
        if let Some(status) = spawned.exited().map_err(Error::Wait)? {
            return Err(Error::Ended { program: name(), status, was_up: true });
        }
        // Attached again, because the program has loaded more since.
        Ok(Target { started: Some(spawned), ..Target::process(python_pid)? })
    }

    fn attach(source: &Source, load: &Load<'_>) -> Result<Attached, AttachError> {
        Attached::with_layouts(source, &|cached, elf| source.elf_file(cached, elf), load)
    }

    fn with(source: Source, attached: Attached) -> Target {
        let (warnings, observer, started) = (Vec::new(), None, None);
        Target { source, attached, warnings, observer, started, has_own_layouts: false }
    }

    /// The Python in it.
    pub fn python(&self) -> &Python {
        &self.attached.python
    }

    /// What a report says about the target.
    pub fn summary(&self) -> TargetSummary {
        let python = self.python();
        TargetSummary {
            pid: self.source.pid(),
            version: python.version.to_string(),
            build: build_name(python.build),
            command: command_line::short(&self.source.arguments()),
            interpreters: python.interpreters.len(),
        }
    }

    /// A short name for the target: that of its program.
    pub fn name(&self) -> String {
        command_line::name(&self.source.arguments()).unwrap_or("python").to_owned()
    }

    /// The program that was started for this target, if one was.
    pub fn into_program(self) -> Option<Spawned> {
        self.started
    }

    /// Reports the progress of long reads to `observer` from now on.
    pub fn observe(&mut self, observer: Arc<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// Runs a read and reports its progress.
    pub(crate) fn observed<R>(&self, total_bytes: u64, work: impl FnOnce(&Progress) -> R) -> R {
        let progress = Arc::new(Progress::default());
        let Some(observer) = &self.observer else { return work(&progress) };
        observer.begin(&progress, total_bytes);
        let result = work(&progress);
        observer.end();
        result
    }

    /// Finds the memory that may hold objects now; a live process maps more as it runs. A contradiction of the layout
    /// is reported only if it occurs again, because the process may have changed meanwhile.
    ///
    /// # Errors
    /// The process is gone, or what is found contradicts the layout.
    pub fn survey(&mut self) -> Result<Survey, Error> {
        self.tried(Target::survey_once)
    }

    /// As [`Target::survey`], once.
    pub(crate) fn survey_once(&mut self) -> Result<Survey, Error> {
        self.source.refresh().map_err(|_| ReadError::Gone)?;
        Ok(self.attached.survey(&self.source)?)
    }

    /// Reads, up to [`ATTEMPTS`] times while what is read contradicts itself and the process may have changed
    /// meanwhile. The error says which process it is about.
    pub(crate) fn tried<R>(&mut self, mut read: impl FnMut(&mut Target) -> Result<R, Error>) -> Result<R, Error> {
        let mut attempt = 1;
        loop {
            match read(self) {
                Err(error) if attempt < ATTEMPTS && self.may_have_changed(&error) => {
                    attempt += 1;
                    self.attach_again(&error)?;
                }
                result => return result.map_err(|error| self.explained(error)),
            }
        }
    }

    /// Whether an error may be caused by a running process changing between two reads.
    fn may_have_changed(&self, error: &Error) -> bool {
        let is_of_reading = match error {
            Error::Unreadable { error, .. } => return self.may_have_changed(error),
            Error::Proof(ProofError::Read(error)) | Error::Read(error) => !error.is_final(),
            Error::Proof(_) => true,
            _ => false,
        };
        is_of_reading && self.has_own_layouts && self.source.core().is_none() && self.source.is_alive()
    }

    /// Attaches again, because sub-interpreters start and end.
    ///
    /// # Errors
    /// As [`Target::process`].
    fn attach_again(&mut self, because: &Error) -> Result<(), Error> {
        log::debug!("{because}; trying again, since the process may have changed meanwhile");
        let load: &Load<'_> = &|_, candidates| candidates.iter().map(Layout::load).collect();
        let pid = self.source.pid();
        for attempt in 1.. {
            self.source.refresh().map_err(|_| gone(pid))?;
            match Target::attach(&self.source, load) {
                Ok(attached) => {
                    self.attached = attached;
                    break;
                }
                Err(_) if !self.source.is_alive() => return Err(gone(pid)),
                Err(error) if attempt < ATTEMPTS && error.may_be_of_a_change() => {
                    std::thread::sleep(BETWEEN_PROOFS * attempt);
                }
                Err(error) => return Err(Error::NotAttached { pid, error: Box::new(error) }),
            }
        }
        Ok(())
    }

    /// Adds to a reading error the process and what happened to it.
    pub(crate) fn explained(&self, error: Error) -> Error {
        let pid = self.source.pid();
        match error {
            Error::Proof(_) | Error::Read(_) if self.source.core().is_some() => error,
            Error::Proof(_) | Error::Read(_) if !self.source.is_alive() => gone(pid),
            Error::Proof(_) | Error::Read(_) => Error::Unreadable { pid, error: Box::new(error) },
            error => error,
        }
    }

    /// Stops the process if `pause` requests it.
    pub(crate) fn freeze(&self, pause: Pause, warnings: &mut Vec<Warning>) -> Result<Option<Freeze>, Error> {
        if pause != Pause::Always || self.source.core().is_some() {
            return Ok(None);
        }
        match Freeze::within(self.source.pid(), Some(STOP_LIMIT)) {
            // The user asked for the process to be stopped.
            Err(error @ FreezeError::Refused { .. }) => Err(error.into()),
            stopped => Ok(self.stopped(stopped, warnings)),
        }
    }

    /// Stops the process if that takes no longer than `limit`.
    pub(crate) fn freeze_within(&self, limit: Duration, warnings: &mut Vec<Warning>) -> Option<Freeze> {
        self.stopped(Freeze::within(self.source.pid(), Some(limit)), warnings)
    }

    fn stopped(&self, stopped: Result<Freeze, FreezeError>, warnings: &mut Vec<Warning>) -> Option<Freeze> {
        match stopped {
            Ok(freeze) => {
                if freeze.was_stopped_already() {
                    warnings.push(Warning::WasStopped { pid: self.source.pid() });
                }
                Some(freeze)
            }
            Err(error) => {
                warnings.push(Warning::CannotStop { why: error.to_string() });
                None
            }
        }
    }

    /// Adds to an answer how it was obtained. Everything has been read by now.
    pub(crate) fn inspected<R>(&self, read: Read<'_>, result: impl FnOnce() -> R) -> Inspected<R> {
        let Read { survey, types, outcome, bytes, start, paused, warnings, mappings } = read;
        let is_core = self.source.core().is_some();
        let duration = start.elapsed();
        let mappings = mappings.or_else(|| footprint::mappings(&self.source).ok());
        let memory = mappings.map(|mappings| {
            let owned = Residency::of_ranges(survey.plan.allocators_memory(&self.source).into_iter());
            MemoryLine::of(&mappings, &owned, &outcome.counts.bytes)
        });
        log::debug!("the line on memory took {:?}", start.elapsed() - duration);
        let reading = Reading { read_bytes: bytes, duration, paused, is_core, memory };
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
        Inspected { result: result(), reading, problems, allocator, warnings }
    }
}

/// Opens a core file, and finds the files with what it leaves out.
///
/// # Errors
/// [`Error::NotADirectory`], [`Error::Core`].
pub fn open_core(path: &Path, places: &Places) -> Result<Core, Error> {
    if let Some(root) = places.sysroot.as_ref().filter(|root| !root.is_dir()) {
        return Err(Error::NotADirectory(root.clone()));
    }
    Ok(Core::open(path, places)?)
}

/// The name of a build in reports.
pub fn build_name(build: Build) -> &'static str {
    match build {
        Build::Default => "default",
        Build::FreeThreaded => "free-threaded",
        Build::Debug | Build::DebugFreeThreaded => "debug",
    }
}

/// The process itself, or its first descendant that is a Python.
fn find_in_family(pid: i32) -> Result<i32, Error> {
    let error = match Target::process(pid) {
        Ok(_) => return Ok(pid),
        Err(error) => error,
    };
    procfs::descendants(pid)
        .into_iter()
        .filter(|&child| child != pid)
        .find(|&child| Target::process(child).is_ok())
        .ok_or(error)
}

/// The error for a process whose memory is gone.
fn gone(pid: i32) -> Error {
    if is_replaced(pid) { Error::Replaced { pid } } else { Error::Exited { pid } }
}

/// Whether a process whose memory is gone has other memory now: it called `exec`. False if it has exited.
pub(super) fn is_replaced(pid: i32) -> bool {
    gates::check_existence(pid).standing == Standing::Open
}
