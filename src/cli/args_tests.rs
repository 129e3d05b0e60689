//! Unit tests of the arguments.

use super::*;
use clap::CommandFactory;

#[test]
fn the_arguments_are_consistent() {
    Arguments::command().debug_assert();
}

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
fn the_default_pause_is_the_librarys() {
    assert_eq!(duration(MAX_PAUSE), Ok(CopyOptions::MAX_PAUSE));
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
