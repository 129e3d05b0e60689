//! What the processes of a family share, as a table or as JSON.

use std::io::{self, Write};

use serde::Serialize;

use crate::inspect::family::UnreadProcess;
use crate::inspect::memory_family::{BrokenSharing, FamilyMemory, MemberMemory};

use super::family::write_unread;
use super::histogram_json::SCHEMA_VERSION;
use super::units;

/// Savings that are worth a line: a megabyte in each of a hundred workers is noise beside their interpreters.
const SAVING_MIN: u64 = 4 << 20;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    processes: &'a [MemberMemory],
    unread: &'a [UnreadProcess],
}

/// Writes a JSON document.
///
/// # Errors
/// Errors of the writer.
pub fn write_json(out: &mut dyn Write, family: &FamilyMemory) -> io::Result<()> {
    let document = Document { schema_version: SCHEMA_VERSION, processes: &family.members, unread: &family.unread };
    super::json::write_pretty(out, &document)
}

/// Writes a row for each process, their sums, and what broke the sharing.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, family: &FamilyMemory) -> io::Result<()> {
    writeln!(
        out,
        "{:>8} {:>10} {:>10} {:>10} {:>12} {:>12} {:>12} {:>12}  command",
        "pid", "USS", "PSS", "RSS", "heap private", "heap shared", "copied", "same content"
    )?;
    let mut sums = [0u64; 7];
    for member in &family.members {
        let broken = member.broken.unwrap_or_default();
        let figures = [
            member.rollup.uss,
            member.rollup.pss,
            member.rollup.rss,
            member.heap_private,
            member.heap_shared,
            broken.bytes,
            broken.identical,
        ];
        sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum = sum.saturating_add(figure));
        row(out, &member.target.pid.to_string(), &figures, member.broken.is_some(), &member.target.command)?;
    }
    row(out, "all", &sums, true, "")?;
    writeln!(
        out,
        "\ncopied: pages of the parent's heap that the process wrote to since the fork; same content: of these, those \
         that are again as in the parent"
    )?;
    for member in &family.members {
        if let Some(broken) = &member.broken {
            write_cause(out, member.target.pid, broken)?;
        }
    }
    write_unread(out, &family.unread)
}

fn row(out: &mut dyn Write, pid: &str, figures: &[u64; 7], has_parent: bool, command: &str) -> io::Result<()> {
    let [uss, pss, rss, private, shared, copied, identical] = figures.map(units::bytes);
    let (copied, identical) = if has_parent { (copied, identical) } else { (String::new(), String::new()) };
    writeln!(
        out,
        "{pid:>8} {uss:>10} {pss:>10} {rss:>10} {private:>12} {shared:>12} {copied:>12} {identical:>12}  {}",
        units::command(command)
    )
}

/// What broke the sharing of one process, where it is enough to ask for.
fn write_cause(out: &mut dyn Write, pid: i32, broken: &BrokenSharing) -> io::Result<()> {
    if broken.by_collector >= SAVING_MIN {
        writeln!(
            out,
            "{pid}: the collector's marks copied {} of {}: call gc.freeze() before the fork.",
            units::bytes(broken.by_collector),
            units::bytes(broken.bytes)
        )
    } else if broken.bytes >= SAVING_MIN {
        writeln!(
            out,
            "{pid}: reference counts and new data copied {}; {} still have the parent's content. gc.freeze() would not \
             have saved it.",
            units::bytes(broken.bytes),
            units::bytes(broken.identical)
        )
    } else {
        Ok(())
    }
}
