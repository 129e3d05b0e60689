//! Ends us well when a signal does: what must not outlive us is undone first.
//!
//! Whoever makes something that would stay behind (a file under a name of its own, a program that was started) says how
//! to undo it, and keeps a guard for as long as that holds. A thread of its own waits for the signals that end a
//! process by request, undoes all of it, and lets the signal do what it does by default. What cannot be caught
//! (`SIGKILL`) is up to the kernel: files have no name until they are whole where it can do that, programs get
//! `PR_SET_PDEATHSIG`.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// Signals by which a user, a terminal or a supervisor ends a process.
const ENDING: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];
/// Those that ask a recording to finish, the first time.
const ASKING: [i32; 2] = [SIGINT, SIGTERM];

type Undo = Box<dyn FnOnce() + Send>;

static UNDOING: Mutex<Vec<(u64, Undo)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
static STOP: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// As long as this lives, what it was made for is undone when a signal ends us.
#[derive(Debug)]
pub struct Guard(u64);

impl Drop for Guard {
    fn drop(&mut self) {
        locked(&UNDOING).retain(|(id, _)| *id != self.0);
    }
}

/// Lets `undo` run when a signal ends us before the guard is dropped.
pub fn undo_at_end(undo: impl FnOnce() + Send + 'static) -> Guard {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    locked(&UNDOING).push((id, Box::new(undo)));
    Guard(id)
}

/// From now on the first Ctrl-C, or SIGTERM, sets `stop` instead of ending us; the second one ends us.
pub fn ask_first(stop: Arc<AtomicBool>) {
    *locked(&STOP) = Some(stop);
}

/// Starts to wait for signals. A `SIGHUP` that is ignored (`nohup`) stays so. A file that grows beyond what is allowed
/// (`RLIMIT_FSIZE`) is an error of its writer from now on, not our end.
///
/// # Errors
/// Where no handler can be installed, or no thread be started.
pub fn watch() -> io::Result<()> {
    // What its handler does is of no interest: a signal that is handled does not end us.
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
            // Where that fails the process would go on without what was undone.
            if low_level::emulate_default_handler(signal).is_err() {
                low_level::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

/// Bytes of stack for the thread that waits: what it undoes walks `/proc`.
const STACK: usize = 512 << 10;

fn undo_all() {
    // Whatever is begun after this is not waited for: the process ends at once.
    let undoing = std::mem::take(&mut *locked(&UNDOING));
    undoing.into_iter().rev().for_each(|(_, undo)| undo());
}

/// The signals that are ignored, a bit each: `SigIgn` of `proc_pid_status(5)`.
fn ignored() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// A lock that a panic elsewhere does not close: what it guards is whole between two calls.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
