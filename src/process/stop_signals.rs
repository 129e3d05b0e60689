//! Defers signals that would stop this process (Ctrl-Z, terminal output in the background) while a target is stopped:
//! the target of a stopped tracer would stay stopped until someone notices.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

/// Signals that stop a process by default and can be handled.
const STOPPING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// The previous handlers, while the signals are deferred.
static HOLDERS: Mutex<Vec<(Signal, SigAction)>> = Mutex::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The last deferred signal; 0 for none.
static CAME: AtomicI32 = AtomicI32::new(0);

extern "C" fn remember(signal: c_int) {
    CAME.store(signal, Ordering::Relaxed);
}

/// While this exists, these signals are deferred. When the last one is dropped, a deferred signal takes effect.
pub struct StopSignals(());

impl StopSignals {
    /// Defers the signals from now on.
    pub fn hold() -> StopSignals {
        let mut before = HOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        if COUNT.fetch_add(1, Ordering::Relaxed) == 0 {
            let action = SigAction::new(SigHandler::Handler(remember), SaFlags::SA_RESTART, SigSet::empty());
            for signal in STOPPING {
                // SAFETY: the handler stores a number in an atomic, which is async-signal-safe.
                if let Ok(old) = unsafe { sigaction(signal, &action) } {
                    before.push((signal, old));
                }
            }
        }
        StopSignals(())
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        let mut before = HOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        if COUNT.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        for (signal, old) in before.drain(..) {
            // SAFETY: restores the previous handler.
            let _ = unsafe { sigaction(signal, &old) };
        }
        drop(before);
        if let Ok(signal) = Signal::try_from(CAME.swap(0, Ordering::Relaxed)) {
            let _ = raise(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signals are deferred for the whole process, in which other tests run, so this uses a process of its own.
    #[test]
    fn a_stop_signal_waits_in_a_process_of_its_own() {
        let test = "process::stop_signals::tests::a_stop_signal_waits_until_it_is_let_through";
        let program = std::env::current_exe().unwrap();
        let output = std::process::Command::new(program).args(["--exact", test, "--ignored"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    #[ignore = "run by the test above, in a process of its own"]
    fn a_stop_signal_waits_until_it_is_let_through() {
        // The signal is ignored before and after, so that it does not stop the test.
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler of ours.
        let before = unsafe { sigaction(Signal::SIGTTOU, &ignore) }.unwrap();
        let (outer, inner) = (StopSignals::hold(), StopSignals::hold());
        raise(Signal::SIGTTOU).unwrap();
        drop(inner);
        assert_eq!(CAME.load(Ordering::Relaxed), Signal::SIGTTOU as i32);
        drop(outer);
        assert_eq!(CAME.load(Ordering::Relaxed), 0);
        // SAFETY: restores what was set before.
        unsafe { sigaction(Signal::SIGTTOU, &before) }.unwrap();
    }
}
