//! What stands behind a mapping, for an account of memory: finer than [`Backing`].

use serde::{Deserialize, Serialize};

use super::regions::Backing;
use super::smaps::Mapping;

/// What stands behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MappingKind {
    /// The program or a library.
    Library,
    /// The part of a library's data that is not in its file: right behind its writable data.
    LibraryBss,
    /// Another file.
    File,
    /// Memory shared with other processes: `/dev/shm`, memfd, System V, anonymous.
    Shared,
    /// The main thread's stack.
    Stack,
    /// What the kernel maps: vdso.
    Kernel,
    /// The `brk` heap.
    Heap,
    /// Private anonymous memory.
    Anonymous,
}

/// Names that the kernel gives to shared memory (`ipc/shm.c`, `mm/memfd.c`, `mm/shmem.c`).
const SHARED_NAMES: [&str; 5] = ["/dev/shm/", "/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage"];

impl MappingKind {
    /// Of a mapping; `before` is the one below it.
    pub fn of(mapping: &Mapping, before: Option<&Mapping>) -> MappingKind {
        if SHARED_NAMES.iter().any(|prefix| mapping.name.starts_with(prefix)) {
            return MappingKind::Shared;
        }
        match &mapping.region.backing {
            Backing::Anonymous | Backing::Heap if mapping.region.shared => MappingKind::Shared,
            Backing::File(path) => {
                let path = path.to_string_lossy();
                if path.contains(".so") || is_program(&path) { MappingKind::Library } else { MappingKind::File }
            }
            Backing::Stack => MappingKind::Stack,
            Backing::Kernel => MappingKind::Kernel,
            Backing::Heap => MappingKind::Heap,
            Backing::Anonymous if is_bss(mapping, before) => MappingKind::LibraryBss,
            Backing::Anonymous => MappingKind::Anonymous,
        }
    }
}

/// Whether a file without `.so` in its name is a program: the kernel maps nothing of ours that is executable
/// otherwise.
fn is_program(path: &str) -> bool {
    path.contains("/bin/") || path.rsplit('/').next().is_some_and(|name| name.starts_with("python"))
}

fn is_bss(mapping: &Mapping, before: Option<&Mapping>) -> bool {
    before.is_some_and(|before| {
        before.region.end == mapping.region.start
            && before.region.writable
            && matches!(before.region.backing, Backing::File(_))
    })
}
