//! What holds objects in each process of a family: a line for each, with the holder that sets it apart from the others.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::inspect::family::UnreadProcess;

use super::escape::printable;
use super::family::{APART_SHARE, median, write_unread};
use super::units;

/// What holds objects in one process.
#[derive(Clone, Debug, Default)]
pub struct MemberHolders {
    /// The process.
    pub pid: i32,
    /// Number of objects that were asked about.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Who holds them, the largest first.
    pub holders: Vec<MemberHolder>,
}

/// A holder in one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberHolder {
    /// Its name, or the shape of the chain.
    pub name: String,
    /// Number of objects that it holds.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes the lines, and the processes that were not read.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, members: &[MemberHolders], unread: &[UnreadProcess]) -> io::Result<()> {
    writeln!(out, "{:>8} {:>12} {:>10} {:>11}  held by", "pid", "objects", "bytes", "+ bytes")?;
    for (index, member) in members.iter().enumerate() {
        let others: Vec<&MemberHolders> =
            members.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other).collect();
        let usual = median(others.iter().map(|other| other.bytes).collect());
        let more = units::signed_bytes(member.bytes as f64 - usual as f64);
        let (objects, bytes) = (units::count(member.objects), units::bytes(member.bytes));
        let holder = apart(member, &others).map_or_else(String::new, |holder| {
            let (objects, bytes) = (units::objects(holder.objects), units::bytes(holder.bytes));
            format!("{}: {objects}, {bytes}", printable(&holder.name))
        });
        writeln!(out, "{:>8} {objects:>12} {bytes:>10} {more:>11}  {holder}", member.pid)?;
    }
    if members.len() > 1 {
        writeln!(out, "\n+ bytes: more than the median of the others; named is the holder that differs most")?;
    }
    write_unread(out, unread)
}

/// The holder that holds most more than in the others; the largest if none holds much more.
fn apart<'m>(member: &'m MemberHolders, others: &[&MemberHolders]) -> Option<&'m MemberHolder> {
    let mut usual: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for holder in others.iter().flat_map(|other| &other.holders) {
        usual.entry(&holder.name).or_default().push(holder.bytes);
    }
    let more = |holder: &MemberHolder| {
        // Those without it hold 0.
        let mut bytes = usual.get(holder.name.as_str()).cloned().unwrap_or_default();
        bytes.resize(others.len(), 0);
        holder.bytes.saturating_sub(median(bytes))
    };
    let least = (member.bytes as f64 * APART_SHARE) as u64;
    let differs = member.holders.iter().rev().max_by_key(|holder| more(holder));
    differs.filter(|holder| more(holder) > least).or(member.holders.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(pid: i32, holders: &[(&str, u64)]) -> MemberHolders {
        let holder = |&(name, bytes): &(&str, u64)| MemberHolder { name: name.to_owned(), objects: 1, bytes };
        let bytes = holders.iter().map(|(_, bytes)| bytes).sum();
        MemberHolders { pid, objects: 9, bytes, holders: holders.iter().map(holder).collect() }
    }

    #[test]
    fn the_holder_that_differs_is_named_and_else_the_largest() {
        let like = |pid| member(pid, &[("app.DATA", 9000), ("app.SEEN", 100)]);
        let members = [like(1), member(2, &[("app.DATA", 9000), ("app.SEEN", 3000)]), like(3)];
        let mut out = Vec::new();
        write(&mut out, &members, &[]).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line = |pid: &str| text.lines().find(|line| line.trim_start().starts_with(pid)).unwrap().to_owned();
        assert!(line("2 ").contains("+2.83 KiB  app.SEEN: 1 object, 2.93 KiB"), "{text}");
        assert!(line("1 ").ends_with("+0 B  app.DATA: 1 object, 8.79 KiB"), "{text}");
    }
}
