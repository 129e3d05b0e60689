//! Cleans up when a signal ends this process.
//!
//! Code that creates something that would otherwise remain (a named file, a started program) registers how to undo it,
//! and holds a guard meanwhile. A dedicated thread waits for the signals that request termination, undoes everything,
//! and lets the signal take its default effect. `SIGKILL` cannot be caught: files have no name until they are complete
//! if the file system supports that, and started programs get `PR_SET_PDEATHSIG`.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// Signals by which a user, a terminal or a supervisor terminates a process.
const ENDING: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];
/// Signals whose first occurrence asks a recording to finish.
const ASKING: [i32; 2] = [SIGINT, SIGTERM];

type Undo = Box<dyn FnOnce() + Send>;

static UNDOING: Mutex<Vec<(u64, Undo)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
static STOP: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// While this exists, its action is undone if a signal ends the process.
#[derive(Debug)]
pub struct Guard(u64);

impl Drop for Guard {
    fn drop(&mut self) {
        locked(&UNDOING).retain(|(id, _)| *id != self.0);
    }
}

/// Registers `undo` to run if a signal ends the process before the guard is dropped.
pub fn undo_at_end(undo: impl FnOnce() + Send + 'static) -> Guard {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    locked(&UNDOING).push((id, Box::new(undo)));
    Guard(id)
}

/// From now on the first Ctrl-C or SIGTERM sets `stop` instead of ending the process; the second one ends it.
pub fn ask_first(stop: Arc<AtomicBool>) {
    *locked(&STOP) = Some(stop);
}

/// Starts waiting for signals. An ignored `SIGHUP` (`nohup`) stays ignored. From now on exceeding `RLIMIT_FSIZE` is a
/// write error and does not end the process.
///
/// # Errors
/// A handler cannot be installed, or the thread cannot be started.
pub fn watch() -> io::Result<()> {
    // The handler's effect does not matter: a handled signal does not end the process.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    let ignored = ignored().unwrap_or(0);
    let is_wanted = |signal: &i32| *signal != SIGHUP || ignored >> (SIGHUP - 1) & 1 == 0;
    let wanted: Vec<i32> = ENDING.into_iter().filter(is_wanted).collect();
    let mut signals = Signals::new(&wanted)?;
    std::thread::Builder::new().name("signals".to_owned()).stack_size(STACK).spawn(move || {
        for signal in &mut signals {
            if ASKING.contains(&signal)
                && let Some(stop) = locked(&STOP).take()
            {
                stop.store(true, Ordering::Relaxed);
                continue;
            }
            undo_all();
            // If that fails, the process would continue without what was undone.
            if low_level::emulate_default_handler(signal).is_err() {
                low_level::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

/// Stack of the waiting thread, bytes: undoing may walk `/proc`.
const STACK: usize = 512 << 10;

fn undo_all() {
    // Actions registered from now on are not undone: the process ends immediately.
    let undoing = std::mem::take(&mut *locked(&UNDOING));
    undoing.into_iter().rev().for_each(|(_, undo)| undo());
}

/// The ignored signals, one bit each: `SigIgn` of `proc_pid_status(5)`.
fn ignored() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Locks a mutex even if poisoned: its data is consistent between two calls.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
