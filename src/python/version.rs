//! CPython versions, and differences between them that are not layouts.

use std::fmt;

/// A CPython version, decoded from `PY_VERSION_HEX` (`Include/patchlevel.h`): major, minor, micro, level, serial.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// The 3 of 3.13.2.
    pub major: u8,
    /// The 13 of 3.13.2.
    pub minor: u8,
    /// The 2 of 3.13.2.
    pub micro: u8,
    /// Release level: 0xA alpha, 0xB beta, 0xC candidate, 0xF final.
    pub level: u8,
    /// Serial of a release level: the 1 of 3.15.0rc1.
    pub serial: u8,
}

impl Version {
    /// Decodes `PY_VERSION_HEX`. `None` where the value cannot be a Python version (major 2 or 3, a known level).
    pub fn from_hex(hex: u64) -> Option<Version> {
        let hex = u32::try_from(hex).ok()?;
        let [major, minor, micro, low] = hex.to_be_bytes();
        let (level, serial) = (low >> 4, low & 0xf);
        let sane = (2..=3).contains(&major) && minor < 64 && (0xA..=0xF).contains(&level);
        sane.then_some(Version { major, minor, micro, level, serial })
    }

    /// A final release.
    pub const fn release(major: u8, minor: u8, micro: u8) -> Version {
        Version { major, minor, micro, level: 0xF, serial: 0 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)?;
        match self.level {
            0xA => write!(f, "a{}", self.serial),
            0xB => write!(f, "b{}", self.serial),
            0xC => write!(f, "rc{}", self.serial),
            _ => Ok(()),
        }
    }
}

/// Behaviour that differs between versions without changing layouts.
impl Version {
    /// Whether `sys.getsizeof` adds a GC head to static types, which have none (`_PySys_GetSizeOf`,
    /// `Python/sysmodule.c`).
    pub fn getsizeof_of_static_types(self) -> StaticTypeHead {
        match (self.major, self.minor) {
            (3, ..=10) => StaticTypeHead::NotCounted,
            (3, 11 | 12) => StaticTypeHead::Counted,
            _ => StaticTypeHead::CountedUnderMetatypes,
        }
    }

    /// Whether `sys.getsizeof` asks `tp_is_gc` if an object has a GC head; since 3.11 it uses the type's flags
    /// (`_PySys_GetSizeOf`, `Python/sysmodule.c`).
    pub fn getsizeof_asks_tp_is_gc(self) -> bool {
        (self.major, self.minor) < (3, 11)
    }

    /// Whether `int.__sizeof__` counts at least one digit, even for 0: since 3.11.
    pub fn int_sizeof_counts_a_digit_of_zero(self) -> bool {
        (self.major, self.minor) >= (3, 11)
    }
}

impl Version {
    /// Whether objects can be immortal: since 3.12 (PEP 683).
    pub fn has_immortal_objects(self) -> bool {
        (self.major, self.minor) >= (3, 12)
    }
}

impl Version {
    /// Whether `interp.obmalloc` is a pointer to the allocator's state. In 3.12 the state is embedded.
    pub fn obmalloc_is_pointer(self) -> bool {
        (self.major, self.minor) >= (3, 13)
    }
}

impl Version {
    /// Whether `_PyRuntime` starts with `_Py_DebugOffsets`: since 3.13.
    pub fn publishes_offsets(self) -> bool {
        (self.major, self.minor) >= (3, 13)
    }
}

/// How `sys.getsizeof` treats the GC head that static types lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaticTypeHead {
    /// Until 3.10 `sys.getsizeof` asks the object whether it has one.
    NotCounted,
    /// 3.11 and 3.12 look at the metatype only.
    Counted,
    /// Since 3.13 static types whose type is `type` are exempt.
    CountedUnderMetatypes,
}
