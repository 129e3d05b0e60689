//! The version of the target's interpreter, as the interpreter itself states it.

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
