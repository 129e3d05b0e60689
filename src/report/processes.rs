//! Lists the Python processes of a machine: a table in tree order, or JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::escape::printable;
use super::histogram_json::SCHEMA_VERSION;
use super::json;
use super::units;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessRow {
    /// Always [`SCHEMA_VERSION`]; in each row, because the document is a list.
    pub schema_version: u32,
    /// Its process id in our namespace.
    pub pid: i32,
    /// Its parent's process id.
    pub ppid: i32,
    /// Its user id.
    pub uid: u32,
    /// Its Python version, if known.
    pub version: Option<String>,
    /// `default`, `free-threaded` or `debug`, if known.
    pub build: Option<&'static str>,
    /// Its resident memory.
    pub rss_bytes: u64,
    /// Whether we have the permission and the layout to read it.
    pub readable: bool,
    /// Why it cannot be read.
    pub why: Option<String>,
    /// The container that it runs in and we do not.
    pub container: Option<String>,
    /// Its command line, joined by spaces.
    pub command: String,
    /// How many of its ancestors are among the rows.
    #[serde(skip)]
    pub depth: usize,
}

impl ProcessRow {
    /// A row of which only the process ids are known yet.
    pub fn new(pid: i32, ppid: i32) -> ProcessRow {
        ProcessRow {
            schema_version: SCHEMA_VERSION,
            pid,
            ppid,
            uid: 0,
            version: None,
            build: None,
            rss_bytes: 0,
            readable: false,
            why: None,
            container: None,
            command: String::new(),
            depth: 0,
        }
    }
}

/// Puts each process after its nearest ancestor among the rows and sets the depths. `parents` has the (id, parent) of
/// all processes, since a shell may come between two rows. Siblings are in order of id.
pub fn in_tree_order(mut rows: Vec<ProcessRow>, parents: &[(i32, i32)]) -> Vec<ProcessRow> {
    rows.sort_by_key(|row| row.pid);
    let listed = |pid: i32| rows.binary_search_by_key(&pid, |row| row.pid).is_ok();
    let parent_of = |pid: i32| parents.iter().find(|&&(child, _)| child == pid).map(|&(_, parent)| parent);
    let ancestor = |pid: i32| -> Option<i32> {
        // No chain is longer than the number of processes: ids may be reused while we look, which can make cycles.
        let mut at = pid;
        (0..parents.len()).find_map(|_| {
            at = parent_of(at)?;
            Some(at).filter(|&at| at != pid && listed(at))
        })
    };
    let ancestors: Vec<Option<i32>> = rows.iter().map(|row| ancestor(row.pid)).collect();
    let mut order: Vec<(usize, usize)> = Vec::with_capacity(rows.len());
    let mut placed = vec![false; rows.len()];
    // Roots first; then whatever a cycle keeps from being reached.
    let roots = (0..rows.len()).filter(|&index| ancestors[index].is_none()).chain(0..rows.len());
    for root in roots {
        let mut stack = vec![(root, 0)];
        while let Some((index, depth)) = stack.pop() {
            if std::mem::replace(&mut placed[index], true) {
                continue;
            }
            order.push((index, depth));
            let children = (0..rows.len()).rev().filter(|&child| ancestors[child] == Some(rows[index].pid));
            stack.extend(children.map(|child| (child, depth + 1)));
        }
    }
    order.into_iter().map(|(index, depth)| ProcessRow { depth, ..rows[index].clone() }).collect()
}

/// Writes the rows as a table; below it, why some cannot be read.
///
/// # Errors
/// Errors of the writer.
pub fn write_table(out: &mut dyn Write, rows: &[ProcessRow]) -> io::Result<()> {
    let width =
        |title: &str, of: &dyn Fn(&ProcessRow) -> usize| rows.iter().map(of).max().unwrap_or(0).max(title.len());
    let text = |value: &Option<String>| value.as_ref().map_or("-".to_owned(), |value| printable(value));
    let version = width("VERSION", &|row| text(&row.version).chars().count());
    let build = width("BUILD", &|row| row.build.unwrap_or("-").len());
    let container = width("CONTAINER", &|row| text(&row.container).chars().count());
    writeln!(
        out,
        "{:>8} {:>8}  {:<version$}  {:<build$}  {:>9}  {:<8}  {:<container$}  COMMAND",
        "PID", "PPID", "VERSION", "BUILD", "RSS", "READABLE", "CONTAINER"
    )?;
    for row in rows {
        writeln!(
            out,
            "{:>8} {:>8}  {:<version$}  {:<build$}  {:>9}  {:<8}  {:<container$}  {}{}",
            row.pid,
            row.ppid,
            text(&row.version),
            row.build.unwrap_or("-"),
            units::bytes(row.rss_bytes),
            if row.readable { "yes" } else { "no" },
            text(&row.container),
            "  ".repeat(row.depth),
            units::command(&row.command),
        )?;
    }
    let mut refused = rows.iter().filter(|row| !row.readable).peekable();
    if refused.peek().is_some() {
        writeln!(out)?;
    }
    for row in refused {
        let why = row.why.as_deref().unwrap_or("the reason is not known");
        writeln!(out, "{}: {}. More: heapsonde doctor {}", row.pid, printable(why), row.pid)?;
    }
    Ok(())
}

/// Writes the rows as a JSON list.
///
/// # Errors
/// Errors of the writer.
pub fn write_json(out: &mut dyn Write, rows: &[ProcessRow]) -> io::Result<()> {
    json::write_pretty(out, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(rows: &[i32], parents: &[(i32, i32)]) -> Vec<(i32, usize)> {
        let rows = rows.iter().map(|&pid| ProcessRow::new(pid, 0)).collect();
        in_tree_order(rows, parents).iter().map(|row| (row.pid, row.depth)).collect()
    }

    #[test]
    fn families_stand_together() {
        // 1 - 10 - 12
        //   \    \ 11 (a shell) - 13
        //     5
        let parents = [(1, 0), (5, 1), (10, 1), (11, 10), (12, 10), (13, 11)];
        assert_eq!(order(&[13, 12, 10, 5], &parents), [(5, 0), (10, 0), (12, 1), (13, 1)]);
        assert_eq!(order(&[1, 5, 13], &parents), [(1, 0), (5, 1), (13, 1)]);
        assert!(order(&[], &parents).is_empty());
    }

    #[test]
    fn circles_and_missing_parents_lose_no_process() {
        assert_eq!(order(&[2, 3, 4], &[(2, 3), (3, 2), (4, 4)]).len(), 3);
        assert_eq!(order(&[7], &[(7, 99)]), [(7, 0)]);
        assert_eq!(order(&[7], &[]), [(7, 0)]);
    }

    #[test]
    fn the_table_tells_what_cannot_be_read() {
        let mut row = ProcessRow::new(7, 1);
        row.command = "python3 \x1b[31m app.py".into();
        row.why = Some("it is not ours".into());
        let mut out = Vec::new();
        write_table(&mut out, &[row]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("7: it is not ours. More: heapsonde doctor 7") && !text.contains('\x1b'), "{text}");
    }
}
