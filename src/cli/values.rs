//! Parses the values of options: times, sizes, percentages, and their limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::RangedI64ValueParser;
use clap::value_parser;

use crate::inspect::moment::Moment;

/// What is read: a process, or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeapPlace {
    /// The process of this id.
    Process(i32),
    /// A snapshot or a core.
    File(PathBuf),
}

/// A process id, or the name of a file that exists.
pub fn place(text: &str) -> Result<HeapPlace, String> {
    match text.parse::<i32>() {
        Ok(pid) => Ok(HeapPlace::Process(pid)),
        Err(_) if Path::new(text).exists() => Ok(HeapPlace::File(PathBuf::from(text))),
        Err(_) => Err("it is neither a process id nor a file that exists".to_owned()),
    }
}

/// A time as humantime reads it (`500ms`, `2s`, `1m 30s`); a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; a time looks like 500ms, 2s or 1m"))
}

/// The longest recording.
const RECORDING_MAX: Duration = Duration::from_secs(24 * 3600);
/// The shortest recording: a few samples.
const RECORDING_MIN: Duration = Duration::from_millis(100);
/// The share of a processor, in percent: a window of a millisecond five times in a second, and nearly all.
const CPU_MIN: f64 = 0.5;
const CPU_MAX: f64 = 80.0;

/// How long a recording takes.
pub fn recording(text: &str) -> Result<Duration, String> {
    let recording = duration(text)?;
    if (RECORDING_MIN..=RECORDING_MAX).contains(&recording) {
        Ok(recording)
    } else {
        Err("the time is between 100ms and 24h".to_owned())
    }
}

/// Looks at what grows.
pub fn looks() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(3..=1000)
}

/// The share of one processor that a recording may take.
pub fn cpu(text: &str) -> Result<f64, String> {
    let share = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match share {
        Some(percent) if (CPU_MIN..=CPU_MAX).contains(&percent) => Ok(percent / 100.0),
        _ => Err(format!("a share of a processor is between {CPU_MIN}% and {CPU_MAX}%")),
    }
}

/// The longest time budget. A census takes seconds.
const BUDGET_MAX: Duration = Duration::from_secs(600);
/// The shortest time budget: less than attaching takes.
const BUDGET_MIN: Duration = Duration::from_millis(5);
/// The least that can be read: static data and a few hundred pools.
const READ_MIN: u64 = 4 << 20;

/// How long a sample reads.
pub fn budget(text: &str) -> Result<Duration, String> {
    let budget = duration(text)?;
    if (BUDGET_MIN..=BUDGET_MAX).contains(&budget) {
        Ok(budget)
    } else {
        Err("a time budget is between 5ms and 10m".to_owned())
    }
}

/// How much a sample reads.
pub fn max_read(text: &str) -> Result<u64, String> {
    match size(text) {
        Ok(bytes) if bytes < READ_MIN => Err("a sample reads at least 4MiB".to_owned()),
        result => result,
    }
}

/// An amount of memory as bytesize reads it (`64MiB`, `1.5 GiB`, `500MB`); a bare number is bytes.
pub fn size(text: &str) -> Result<u64, String> {
    /// More than any machine has.
    const MAX: u64 = 1 << 50;
    let bytes = text.parse::<ByteSize>().map_err(|_| format!("{text:?} is not a size such as 64MiB"))?.as_u64();
    if (1..=MAX).contains(&bytes) { Ok(bytes) } else { Err(format!("{text:?} is not between 1 B and 1 PiB")) }
}

/// How fast memory grows: `5MiB/min`, a size per `s`, `min`, `h` or `day`. Returns bytes per second.
pub fn growth(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no growth such as 5MiB/min");
    let (amount, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "day" => 86_400.0,
        _ => return Err(wrong()),
    };
    Ok(size(amount.trim())? as f64 / seconds)
}

/// When to read a process: `rss>2GiB`, or a share of what it may have, `rss>80%`.
pub fn moment(text: &str) -> Result<Moment, String> {
    let wrong = || format!("{text:?} is no moment such as rss>2GiB or rss>80%");
    let (what, limit) = text.split_once('>').ok_or_else(wrong)?;
    if what.trim() != "rss" {
        return Err(wrong());
    }
    match limit.trim().strip_suffix('%').map(|number| number.trim().parse::<f64>()) {
        Some(Ok(percent)) if percent > 0.0 && percent < 100.0 => Ok(Moment::RssAboveShare(percent / 100.0)),
        Some(_) => Err("a share is above 0% and below 100%".to_owned()),
        None => Ok(Moment::RssAbove(size(limit.trim())?)),
    }
}

/// How often something may happen: `2/1h`. Returns the time between two.
pub fn at_most(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no count and time such as 2/1h");
    let (count, time) = text.split_once('/').ok_or_else(wrong)?;
    let count: u32 = count.trim().parse().ok().filter(|&count| count > 0).ok_or_else(wrong)?;
    // Files are named by the second.
    let pause = duration(time.trim())? / count;
    if pause >= Duration::from_secs(1) { Ok(pause) } else { Err("at most one a second".to_owned()) }
}

/// At most so many objects of a type: `app.Session=10000`.
pub fn objects_of_type(text: &str) -> Result<(String, u64), String> {
    let parts = text.rsplit_once('=').filter(|(name, _)| !name.is_empty());
    let limit = parts.and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?)));
    limit.ok_or_else(|| format!("{text:?} is no type and count such as app.Session=10000"))
}

/// A relative error: `2%`, or a bare number of percent. Returns a fraction.
pub fn error(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let percent: f64 = number.parse().map_err(|_| format!("{text:?} is not a percentage such as 2%"))?;
    if (0.1..=50.0).contains(&percent) {
        Ok(percent / 100.0)
    } else {
        Err("an error is between 0.1% and 50%; for exact figures leave out --sample".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_of_nothing_and_absurd_ones_are_refused() {
        assert_eq!(budget("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(max_read("64MiB"), Ok(64 << 20));
        assert_eq!(max_read("1.5 GiB"), Ok(3 << 29));
        assert_eq!(error("2%"), Ok(0.02));
        for nonsense in ["0", "0ms", "1ms", "99h", "9e99s", "1000m", "-1s", "", "x", "NaN", "inf"] {
            assert!(budget(nonsense).is_err(), "{nonsense}");
        }
        for nonsense in ["0", "1KiB", "-1", "64XiB", "", "MiB", "9999999999GiB", "1..2MiB", "NaN"] {
            assert!(max_read(nonsense).is_err(), "{nonsense}");
        }
        for nonsense in ["0", "0%", "-1%", "100%", "1e9", "NaN", "inf", "", "%"] {
            assert!(error(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn limits_have_units() {
        assert_eq!(growth("60KiB/min"), Ok(1024.0));
        assert_eq!(growth("1 MiB/s"), Ok(1_048_576.0));
        assert_eq!(objects_of_type("app.Session=10"), Ok(("app.Session".to_owned(), 10)));
        for nonsense in ["", "5MiB", "5MiB/year", "/s", "-1/s"] {
            assert!(growth(nonsense).is_err(), "{nonsense}");
        }
        for nonsense in ["", "app.Session", "=5", "app.Session=", "app.Session=-1"] {
            assert!(objects_of_type(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn moments_are_of_resident_memory() {
        assert_eq!(moment("rss>2GiB"), Ok(Moment::RssAbove(2 << 30)));
        assert_eq!(moment("rss > 80 %"), Ok(Moment::RssAboveShare(0.8)));
        assert_eq!(at_most("2/1h"), Ok(Duration::from_secs(1800)));
        for nonsense in ["", "rss", "rss>", "rss>0%", "rss>100%", "rss<1GiB", "pss>1GiB", "rss>-1%", "rss>NaN%"] {
            assert!(moment(nonsense).is_err(), "{nonsense}");
        }
        for nonsense in ["", "2", "0/1h", "-1/1h", "2/", "/1h", "2/year", "2/1s"] {
            assert!(at_most(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for nonsense in ["", "x", "1 parsec", "1..2s", "-1s", "-1", "9e99", "NaN", "99999999999999999999s"] {
            assert!(duration(nonsense).is_err(), "{nonsense}");
        }
    }
}
