//! Formats amounts for people. Each format exists once, here.

use std::time::Duration;

use crate::analysis::thousands::grouped;

use super::escape;

/// Bytes in binary units with three digits: `1.23 GiB`, `12.3 MiB`, `512 B`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].iter();
    let mut unit = units.next().expect("five units");
    for next in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    match value {
        _ if *unit == "B" => format!("{bytes} B"),
        value if value < 10.0 => format!("{value:.2} {unit}"),
        value if value < 100.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

/// Bytes with their sign, rounded to whole ones: `+1.50 MiB`.
pub fn signed_bytes(change: f64) -> String {
    let sign = if change < 0.0 { '-' } else { '+' };
    format!("{sign}{}", bytes(change.abs().round() as u64))
}

/// A count with thousands separators: `1,234,567`.
pub fn count(count: u64) -> String {
    grouped(count)
}

/// A count of objects: `1 object`, `1,234 objects`.
pub fn objects(number: u64) -> String {
    let noun = if number == 1 { "object" } else { "objects" };
    format!("{} {noun}", count(number))
}

/// A duration in the unit that fits: `850 µs`, `12.3 ms`, `4.56 s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// A command line on one line: control characters escaped, long ones cut.
pub fn command(command: &str) -> String {
    /// Characters that fit next to other columns, or into a title.
    const SHOWN: usize = 80;
    let mut short = String::new();
    for (index, char) in command.chars().enumerate() {
        match char {
            _ if index == SHOWN => {
                short.push('…');
                break;
            }
            char if escape::is_unsafe(char) => short.extend(char.escape_default()),
            char => short.push(char),
        }
    }
    short
}

/// A share in percent, two digits: `12.34`.
pub fn percent(part: u64, whole: u64) -> String {
    format!("{:.2}", if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(123 << 20), "123 MiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(objects(1), "1 object");
        assert_eq!(objects(1_000), "1,000 objects");
        assert_eq!(command("python -c a\nb"), "python -c a\\nb");
        assert_eq!(command(&"x".repeat(500)).chars().count(), 81);
        assert_eq!(percent(1, 3), "33.33");
        assert_eq!(percent(1, 0), "0.00");
        assert_eq!(duration(Duration::from_micros(1234)), "1.2 ms");
    }
}
