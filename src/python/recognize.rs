//! Guesses whether a process is a Python before, or without, reading its memory.
//!
//! The guess uses names only. It chooses where to look, and which processes to list as unreadable Pythons.
//! [`super::attach`] decides.

use std::path::Path;

use crate::process::elf::LoadedElf;
use crate::process::memory::Memory;

/// Titles that Python programs give themselves (with `setproctitle`, or as scripts).
const TITLES: [&str; 7] = ["gunicorn", "celery", "[celeryd", "uvicorn", "jupyter", "uwsgi", "ipython"];

/// Whether a file name is that of an interpreter or its library: `python3.12`, `libpython3.12.so.1.0`, `pypy3`.
pub fn is_interpreter(path: &Path) -> bool {
    let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else { return false };
    let name = name.strip_prefix("lib").unwrap_or(&name);
    ["python", "pypy", "graalpy"].iter().filter_map(|known| name.strip_prefix(known)).any(|rest| {
        // `python3.12-stripped` is one; `python-magic.so` and `pythonic` are not.
        rest.is_empty()
            || rest.starts_with(|char: char| char.is_ascii_digit())
            || rest == "-stripped"
            || rest == "-c.so"
    })
}

/// Whether a process looks like a Python, judging by its thread name, executable and command line.
pub fn looks_like_python(name: &str, exe: Option<&Path>, command: &str) -> bool {
    let program = command.split(' ').next().unwrap_or_default();
    exe.is_some_and(is_interpreter)
        || is_interpreter(Path::new(name))
        || is_interpreter(Path::new(program))
        || TITLES.iter().any(|title| command.starts_with(title) || name.starts_with(title))
}

/// Whether attaching is worth trying: an interpreter is mapped (judging by its name), or the executable exports the
/// runtime. A fully stripped executable is recognized by [`super::runtime::is_in`] instead. Takes microseconds, and a
/// few reads for the export.
pub fn maps_python<M: Memory + ?Sized>(memory: &M, exe: Option<&Path>) -> bool {
    memory.regions().iter().filter_map(|region| region.path()).any(is_interpreter)
        || exe
            .and_then(|exe| LoadedElf::find(memory, |path| path == exe))
            .is_some_and(|elf| elf.dynamic_symbol(memory, "_PyRuntime").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_by_name() {
        for name in ["python", "/usr/bin/python3.14", "libpython3.12.so.1.0", "python3.13d", "pypy3", "libpypy3-c.so"] {
            assert!(is_interpreter(Path::new(name)), "{name}");
        }
        for name in ["", "/", "bash", "pythonic", "_python.cpython-312.so", "python-magic.so", "libboost_python3.so"] {
            assert!(!is_interpreter(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn processes_are_known_by_what_everybody_sees() {
        assert!(looks_like_python("gunicorn", None, "gunicorn: master [app]"));
        assert!(looks_like_python("app", None, "/opt/venv/bin/python app.py"));
        assert!(looks_like_python("x", Some(Path::new("/usr/bin/python3.11")), ""));
        assert!(!looks_like_python("bash", Some(Path::new("/bin/bash")), "bash -c python3 x.py"));
        assert!(!looks_like_python("", None, ""));
    }
}
