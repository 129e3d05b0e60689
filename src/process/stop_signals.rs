//! Holds back the signals that would stop us (Ctrl-Z, and output of a program in the background) while a target stands
//! still: a target whose tracer is stopped would stand still until somebody thinks of that.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

/// The signals whose default is to stop the process, and that can be handled.
const STOPPING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// How many hold them back now.
static HOLDERS: Mutex<Vec<(Signal, SigAction)>> = Mutex::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The last one that came meanwhile; 0 for none.
static CAME: AtomicI32 = AtomicI32::new(0);

extern "C" fn remember(signal: c_int) {
    CAME.store(signal, Ordering::Relaxed);
}

/// While this is there, these signals wait. When the last is dropped, the one that came takes effect.
pub struct StopSignals(());

impl StopSignals {
    /// Holds them back from now on.
    pub fn hold() -> StopSignals {
        let mut before = HOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        if COUNT.fetch_add(1, Ordering::Relaxed) == 0 {
            let action = SigAction::new(SigHandler::Handler(remember), SaFlags::SA_RESTART, SigSet::empty());
            for signal in STOPPING {
                // SAFETY: the handler stores a number in an atomic, which is safe in a signal handler.
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
            // SAFETY: restores what was set before.
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

    /// What is held is held for the whole process, in which other tests hold it, too: so in a process of its own.
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
        // A signal that is ignored before and after, so that the test itself is not stopped by it.
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
