//! The machine that we run on: how much memory there is to work with.

/// Bytes that can be allocated without pushing anything out: the kernel's own estimate, cut to what the control
/// group that we run in has left. `None` where `/proc` does not say.
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let host = kibibytes.saturating_mul(1024);
    Some(control_group_left().map_or(host, |left| left.min(host)))
}

/// What a version 2 control group has left below its limit.
fn control_group_left() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let read = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup{path}/{name}")).ok()?.trim().parse().ok()
    };
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

/// Lets the calling thread sleep for microseconds: the kernel otherwise adds some 50 to each sleep, to wake fewer times.
pub fn allow_short_sleeps() {
    // Where it is refused, sleeps are longer: windows are then longer, too.
    let _ = nix::sys::prctl::set_timerslack(1);
}
