//! Finds the user who called `sudo`: files and programs that we create belong to that user, not to root.

use std::ffi::{CString, OsString};

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

/// The user that called `sudo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user: Uid,
    /// Their primary group.
    pub group: Gid,
    /// All their groups.
    pub groups: Vec<Gid>,
}

/// The user who called `sudo`, from the variables that it sets (sudo(8)). `None` if we are not root, or were root
/// before.
pub fn caller() -> Option<Caller> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let (user, group) = (Uid::from_raw(number("SUDO_UID")?), Gid::from_raw(number("SUDO_GID")?));
    if !geteuid().is_root() || user.is_root() {
        return None;
    }
    // A user without an account has no other groups.
    let name = User::from_uid(user).ok().flatten().and_then(|account| CString::new(account.name).ok());
    let groups = name.and_then(|name| getgrouplist(&name, group).ok()).unwrap_or_else(|| vec![group]);
    Some(Caller { user, group, groups })
}

impl Caller {
    /// The environment variables that identify a user, which `sudo` sets to root's.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let Some(account) = User::from_uid(self.user).ok().flatten() else { return Vec::new() };
        let name = OsString::from(account.name);
        vec![("HOME", account.dir.into_os_string()), ("USER", name.clone()), ("LOGNAME", name)]
    }
}
