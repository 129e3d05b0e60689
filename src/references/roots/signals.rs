//! Finds the handlers of signals that a program has set with `signal.signal`.
//!
//! Mirrors `Handlers` (`Modules/signalmodule.c`, v3.8 to v3.11) and `_PyRuntime.signals.handlers`
//! (`Include/internal/pycore_signal.h`, v3.12 to v3.15): `struct { int tripped; PyObject *func; }` for each signal. The
//! place of a local variable is not known in a stripped file, so the array is searched for in the data of the file that
//! has the runtime, and recognized by what the kernel and the C library fix: there is no signal 0, nobody handles
//! SIGKILL and SIGSTOP, and two signals belong to the C library.
//!
//! The main thread runs them, and they rank with its context: `asyncio.run` sets one that knows the main task, which is
//! no reason to call all that the task has the handler's.

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u32_at, u64_at};
use crate::python::interpreter::Interpreter;

use super::{Finder, RootKind};

/// `NSIG` of Linux, as both C libraries define it.
const NSIG: usize = 65;
/// Bytes of an element, and of its first field with padding.
const SIZE: usize = 16;
const FUNC: usize = 8;
/// Upper bound on the data that is searched. A statically linked Python with all its modules has some 4 MiB.
const DATA_MAX: usize = 64 << 20;
/// Signals whose handler is the default, in each process.
const UNHANDLED: [usize; 2] = [9, 19];
/// Signals that glibc and musl keep for themselves (`SIGCANCEL`, `SIGSETXID`): what they do cannot be asked for.
const RESERVED: [usize; 2] = [32, 33];
/// Names of the signals on Linux (`signal(7)`; the same on x86-64 and AArch64), from 1 on.
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// What stands in the array besides handlers.
#[derive(Clone, Copy, Debug)]
struct Marks {
    default: u64,
    ignore: u64,
    none: u64,
}

impl<M: Memory + ?Sized> Finder<'_, M> {
    /// The handlers of a process, which the main interpreter owns.
    pub(crate) fn signals(&mut self, main: &Interpreter) {
        let Some(marks) = self.marks(main) else { return };
        let memory = self.reader.memory;
        for range in self.references.python().runtime.elf.writable_ranges(memory) {
            let length = range.end.0.saturating_sub(range.start.0);
            let Ok(data) = memory.read_bytes(range.start, length, DATA_MAX, "data of Python") else { continue };
            if let Some(handlers) = handlers(&data, marks) {
                for (signal, handler) in handlers {
                    self.add(handler, RootKind::Thread, format!("signal handler of {}", name(signal)), true);
                }
                return;
            }
        }
    }

    fn marks(&self, main: &Interpreter) -> Option<Marks> {
        let module = self.reader.dict_get(main.modules, "_signal")?;
        let dict = self.reader.pointer(module, self.reader.layout.module.md_dict).ok()?;
        let default = self.reader.dict_get(dict, "SIG_DFL")?.0;
        let ignore = self.reader.dict_get(dict, "SIG_IGN")?.0;
        let none = self.reader.dict_get(main.builtins, "None")?.0;
        Some(Marks { default, ignore, none })
    }
}

/// The first array of handlers in these bytes: signals and objects.
fn handlers(data: &[u8], marks: Marks) -> Option<Vec<(usize, Address)>> {
    (0..=data.len().checked_sub(NSIG * SIZE)?).step_by(8).find_map(|at| handlers_at(data.get(at..)?, marks))
}

fn handlers_at(data: &[u8], marks: Marks) -> Option<Vec<(usize, Address)>> {
    let func = |signal: usize| u64_at(data, signal * SIZE + FUNC);
    let is_array = UNHANDLED.iter().all(|&signal| func(signal) == Some(marks.default))
        && RESERVED.iter().all(|&signal| func(signal) == Some(marks.none))
        && func(0) == Some(0)
        && (0..NSIG).all(|signal| u32_at(data, signal * SIZE).is_some_and(|tripped| tripped <= 1));
    let mut found = Vec::new();
    for signal in (1..NSIG).take_while(|_| is_array) {
        let handler = func(signal).filter(|&handler| handler != 0 && handler % 8 == 0)?;
        if ![marks.default, marks.ignore, marks.none].contains(&handler) {
            found.push((signal, Address(handler)));
        }
    }
    is_array.then_some(found)
}

/// As the module `signal` calls it.
fn name(signal: usize) -> String {
    /// The first of the signals that have numbers only, behind those of the C library.
    const REAL_TIME: usize = 34;
    match signal.checked_sub(1).and_then(|index| NAMES.get(index)) {
        Some(name) => (*name).to_owned(),
        None => format!("SIGRTMIN+{}", signal.saturating_sub(REAL_TIME)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks { default: 0x1000, ignore: 0x1010, none: 0x1020 };

    fn array(set: &[(usize, u64)]) -> Vec<u8> {
        let func = |signal: usize| match set.iter().find(|(at, _)| *at == signal) {
            Some((_, handler)) => *handler,
            None if RESERVED.contains(&signal) => MARKS.none,
            None => {
                if signal == 0 {
                    0
                } else {
                    MARKS.default
                }
            }
        };
        (0..NSIG).flat_map(|signal| [0u64.to_le_bytes(), func(signal).to_le_bytes()].concat()).collect()
    }

    #[test]
    fn the_array_is_found_wherever_it_stands() {
        let mut data = vec![0; 24];
        data.extend(array(&[(15, 0x4000), (34, 0x4008)]));
        data.extend([0; 8]);
        assert_eq!(handlers(&data, MARKS), Some(vec![(15, Address(0x4000)), (34, Address(0x4008))]));
        assert_eq!([name(15), name(31), name(34), name(64)], ["SIGTERM", "SIGSYS", "SIGRTMIN+0", "SIGRTMIN+30"]);
    }

    #[test]
    fn what_no_process_can_have_is_no_array() {
        assert_eq!(handlers(&array(&[]), MARKS), Some(Vec::new()));
        for wrong in [(9, 0x4000), (19, MARKS.ignore), (32, MARKS.default), (33, 0), (0, 0x4000), (5, 0), (5, 0x4001)] {
            assert_eq!(handlers(&array(&[wrong]), MARKS), None, "{wrong:?}");
        }
        let cut = &array(&[])[..NSIG * SIZE - 8];
        assert_eq!(handlers(cut, MARKS), None);
        assert_eq!(handlers(&[], MARKS), None);
        let mut tripped = array(&[]);
        tripped[SIZE] = 2;
        assert_eq!(handlers(&tripped, MARKS), None);
    }
}
