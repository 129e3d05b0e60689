//! Limits and what was found: as text, and for continuous integration as JUnit's XML.

use std::io::{self, Write};

use crate::inspect::limits::{Checked, LimitKind};

use super::escape::{printable, xml};
use super::units;

/// Writes a line for each limit.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, checked: &[Checked]) -> io::Result<()> {
    for check in checked {
        let word = if check.is_crossed() { "CROSSED" } else { "ok" };
        writeln!(out, "{word:<8} {}", sentence(check))?;
    }
    Ok(())
}

/// Writes a test suite with a test case for each limit. `about`: the program; `error`: why other limits could not be
/// compared.
///
/// # Errors
/// Errors of the writer.
pub fn write_junit(out: &mut dyn Write, about: &str, checked: &[Checked], error: Option<&str>) -> io::Result<()> {
    let errors = usize::from(error.is_some());
    let tests = checked.len() + errors;
    let failures = checked.iter().filter(|check| check.is_crossed()).count();
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    writeln!(out, r#"<testsuite name="heapsonde check" tests="{tests}" failures="{failures}" errors="{errors}">"#)?;
    for check in checked {
        let (class, name, text) = (xml(about), xml(&name(check)), xml(&sentence(check)));
        match check.is_crossed() {
            false => writeln!(out, r#"  <testcase classname="{class}" name="{name}"/>"#)?,
            true => {
                writeln!(out, r#"  <testcase classname="{class}" name="{name}">"#)?;
                writeln!(out, r#"    <failure message="{text}"/>"#)?;
                writeln!(out, "  </testcase>")?;
            }
        }
    }
    if let Some(error) = error {
        writeln!(out, r#"  <testcase classname="{}" name="all limits are compared">"#, xml(about))?;
        writeln!(out, r#"    <error message="{}"/>"#, xml(error))?;
        writeln!(out, "  </testcase>")?;
    }
    writeln!(out, "</testsuite>")
}

/// The option that sets the limit.
fn name(check: &Checked) -> String {
    match &check.kind {
        LimitKind::Rss => "max-rss".to_owned(),
        LimitKind::Growth => "max-growth".to_owned(),
        LimitKind::Objects { name, .. } => format!("max-objects {name}"),
        LimitKind::Garbage => "max-garbage".to_owned(),
    }
}

fn sentence(check: &Checked) -> String {
    let [found, limit] = [check.found, check.limit];
    let count = |amount: f64| units::count(amount.max(0.0) as u64);
    let size = |amount: f64| {
        let sign = if amount < 0.0 { "-" } else { "" };
        format!("{sign}{}", units::bytes(amount.abs() as u64))
    };
    match &check.kind {
        LimitKind::Rss => format!("RSS {}, at most {}", size(found), size(limit)),
        LimitKind::Growth => format!("RSS grows by {}/min, at most {}/min", size(found * 60.0), size(limit * 60.0)),
        LimitKind::Objects { name, is_seen } => {
            let doubt = if *is_seen { "" } else { " (no type of this name has any: is it spelled right?)" };
            format!("{}: {} objects{doubt}, at most {}", printable(name), count(found), count(limit))
        }
        LimitKind::Garbage => format!("garbage: {} objects, at most {}", count(found), count(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crossed_limits_are_failures() {
        let checked = [
            Checked { kind: LimitKind::Rss, found: 2048.0, limit: 1024.0 },
            Checked { kind: LimitKind::Objects { name: "a.<b>".to_owned(), is_seen: true }, found: 5.0, limit: 5.0 },
        ];
        let mut out = Vec::new();
        write(&mut out, &checked).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "CROSSED  RSS 2.00 KiB, at most 1.00 KiB\nok       a.<b>: 5 objects, at most 5\n");
        let mut out = Vec::new();
        write_junit(&mut out, "app", &checked, Some("gone")).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains(r#"tests="3" failures="1" errors="1""#) && text.contains(r#"<error message="gone"/>"#));
        assert!(text.contains("max-objects a.&lt;b&gt;"), "{text}");
    }
}
