//! Writes a report on a process as one HTML file: its memory, what grew, its types, its owners and a flame graph.
//!
//! The file contains everything that it shows, and its content security policy allows no network. Names of the target
//! are escaped in markup and in the data for the script, which sets them as text only.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::analysis::growth::describe::GrowingOwner;
use crate::analysis::histogram::{Amount, Histogram};
use crate::analysis::memory_account::{Account, Group};
use crate::analysis::memory_verdicts::Verdict;
use crate::analysis::owners::{Holding, Node};
use crate::inspect::answer::TargetSummary;
use crate::inspect::growth::Growth;

use super::escape::{printable, xml};
use super::string_table::StringTable;
use super::{finding, json, memory_table, units};

/// Rows of a table.
const ROWS_SHOWN: usize = 40;
/// Types shown of what an owner holds.
const TYPES_SHOWN: usize = 12;
/// Things that grew.
const GROWN_SHOWN: usize = 8;
/// Share of resident memory below which a row of the account is summed with others.
const SMALL: f64 = 0.002;
/// Characters of a name. Chains can be long, and twelve thousand frames have one each.
const NAME_SHOWN: usize = 200;

/// What a page shows.
#[derive(Debug)]
pub struct ReportPage<'a> {
    /// The process.
    pub target: &'a TargetSummary,
    /// When it was read, as text.
    pub time: String,
    /// How it was read, and what could not be: lines of text.
    pub notes: &'a str,
    /// Its memory, with what stands out, if the kernel's figures are known.
    pub memory: Option<(&'a Account, &'a [Verdict])>,
    /// What grew, if that was observed.
    pub growth: Option<&'a Growth>,
    /// Its types.
    pub histogram: &'a Histogram,
    /// Its largest owners; empty if references were not followed.
    pub owners: &'a [Holding],
    /// The frames of the flame graph.
    pub root: &'a Node,
}

/// Writes the file.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, report: &ReportPage<'_>) -> io::Result<()> {
    let ReportPage { target, time, notes, histogram, .. } = report;
    let command = xml(&units::command(&target.command));
    out.write_all(include_bytes!("page_head.html"))?;
    let style = include_str!("page.css");
    writeln!(out, "<title>{command} ({})</title>\n<style>\n{style}</style>\n</head>\n<body>", target.pid)?;
    let total = histogram.total;
    writeln!(
        out,
        "<h1>{command}</h1>\n<p class=\"dim\">process {}, Python {}, {}; {} objects, {}; read by heapsonde {}</p>",
        target.pid,
        xml(&target.version),
        xml(time),
        units::count(total.objects),
        units::bytes(total.bytes),
        env!("CARGO_PKG_VERSION")
    )?;
    if let Some((account, verdicts)) = report.memory {
        write_memory(out, account, verdicts)?;
    }
    if let Some(growth) = report.growth {
        write_growth(out, growth)?;
    }
    write_graph(out, !report.owners.is_empty())?;
    if !report.owners.is_empty() {
        write_owners(out, report.owners, total)?;
    }
    write_types(out, histogram)?;
    writeln!(out, "<h2>How it was read</h2>\n<pre>{}</pre>", notes.lines().map(xml).collect::<Vec<_>>().join("\n"))?;
    out.write_all(b"<script type=\"application/json\" id=\"data\">")?;
    let mut data = Vec::new();
    json::write(&mut data, &tree(report.root))?;
    // In a script, only `<` could end it.
    out.write_all(String::from_utf8_lossy(&data).replace('<', "\\u003c").as_bytes())?;
    writeln!(out, "</script>\n<script>\n{}</script>\n</body>\n</html>", include_str!("page.js"))
}

fn write_memory(out: &mut dyn Write, account: &Account, verdicts: &[Verdict]) -> io::Result<()> {
    let rss = account.rollup.rss.max(1);
    writeln!(out, "<h2>Memory</h2>\n<p>{}</p>\n<div class=\"bar\">", xml(&memory_table::line(account)))?;
    let group = |group: Group| (group, u64::try_from(account.group(group)).unwrap_or(0));
    let groups: Vec<(Group, u64)> = Group::ALL.into_iter().map(group).filter(|(_, bytes)| *bytes > 0).collect();
    for (group, bytes) in &groups {
        let label = format!("{}: {} ({})", group.name(), units::bytes(*bytes), units::percent(*bytes, rss) + " %");
        writeln!(out, "<i style=\"flex:{bytes};background:{}\" title=\"{}\"></i>", color(*group), xml(&label))?;
    }
    writeln!(out, "</div>\n<div class=\"legend\">")?;
    for (group, bytes) in &groups {
        let (name, size) = (xml(group.name()), units::bytes(*bytes));
        writeln!(out, "<span><i style=\"background:{}\"></i>{name} {size}</span>", color(*group))?;
    }
    writeln!(out, "</div>\n<div class=\"scroll\"><table>")?;
    writeln!(out, "<tr><th>where<th class=\"number\">resident<th class=\"number\">%<th class=\"number\">objects</tr>")?;
    let is_shown = |resident: i64| resident > 0 && resident as f64 >= SMALL * rss as f64;
    let small: i64 = account.rows.iter().map(|row| row.resident).filter(|&resident| !is_shown(resident)).sum();
    for row in account.rows.iter().filter(|row| is_shown(row.resident)) {
        let resident = u64::try_from(row.resident).unwrap_or(0);
        let objects = if row.objects > 0 { units::count(row.objects) } else { String::new() };
        writeln!(
            out,
            "<tr><td>{}<td class=\"number\">{}<td class=\"number\">{}<td class=\"number\">{objects}</tr>",
            xml(row.kind.name()),
            units::bytes(resident),
            units::percent(resident, rss)
        )?;
    }
    let small = u64::try_from(small).unwrap_or(0);
    writeln!(
        out,
        "<tr class=\"dim\"><td>smaller ones<td class=\"number\">{}<td class=\"number\">{}<td></tr>\n</table></div>",
        units::bytes(small),
        units::percent(small, rss)
    )?;
    for verdict in verdicts {
        let (finding, advice) = (xml(&verdict.finding), xml(&verdict.advice));
        writeln!(out, "<div class=\"card\"><p>{finding}.</p><p class=\"dim\">{advice}</p></div>")?;
    }
    Ok(())
}

fn color(group: Group) -> &'static str {
    const COLORS: [&str; 7] = ["#3f8fd2", "#e0a030", "#8d6cc0", "#4caf82", "#9aa5b1", "#c96f53", "#6b7785"];
    COLORS[group as usize % COLORS.len()]
}

fn write_growth(out: &mut dyn Write, growth: &Growth) -> io::Result<()> {
    writeln!(
        out,
        "<h2>What grew</h2>\n<p>{} in {}: heap {}, resident memory {}</p>",
        growth.times(),
        units::duration(growth.duration),
        units::signed_bytes(growth.heap_bytes.growth()),
        units::signed_bytes(growth.rss_bytes.growth())
    )?;
    let (suspects, others): (Vec<&GrowingOwner>, Vec<&GrowingOwner>) =
        growth.owners.iter().partition(|owner| owner.verdict.is_of_a_leak());
    if suspects.is_empty() {
        writeln!(out, "<p>No suspect: nothing grew at each look as a leak does.</p>")?;
    }
    for owner in suspects.into_iter().chain(others).take(GROWN_SHOWN) {
        let class = if owner.is_sure { "sure" } else { "dim" };
        let (first, last) = (owner.counts.values.first(), owner.counts.values.last());
        writeln!(
            out,
            "<div class=\"card\"><div class=\"name\">{}</div><p>{}: {} to {} objects of {}, {}/s</p>\
             <p class=\"{class}\">{}{}</p>",
            xml(&owner.chain),
            xml(&owner.type_name),
            units::count(first.copied().unwrap_or(0)),
            units::count(last.copied().unwrap_or(0)),
            xml(&owner.growing_type),
            units::signed_bytes(owner.bytes.rate()),
            xml(owner.verdict.sentence()),
            if owner.is_sure { "" } else { " (not sure)" }
        )?;
        for (line, objects) in owner.made_in.iter().take(3) {
            writeln!(out, "<p class=\"dim\">made in {}: {} objects alive</p>", xml(line), units::count(*objects))?;
        }
        for found in &owner.findings {
            writeln!(out, "<p>{}</p>", xml(&finding::sentence(found)))?;
        }
        write_line(out, &owner.bytes.values)?;
        writeln!(out, "</div>")?;
    }
    Ok(())
}

/// A line through values, from the least to the most.
fn write_line(out: &mut dyn Write, values: &[u64]) -> io::Result<()> {
    let (Some(&least), Some(&most)) = (values.iter().min(), values.iter().max()) else { return Ok(()) };
    let (range, last) = ((most - least).max(1) as f64, values.len().saturating_sub(1).max(1) as f64);
    let point = |(index, &value): (usize, &u64)| {
        format!("{:.1},{:.1}", index as f64 * 100.0 / last, 29.0 - (value - least) as f64 * 28.0 / range)
    };
    let points: Vec<String> = values.iter().enumerate().map(point).collect();
    writeln!(
        out,
        "<svg viewBox=\"0 0 100 30\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"bytes at each look\">\
         <polyline points=\"{}\"/></svg>",
        points.join(" ")
    )
}

/// A cell with a bar as long as a part of the whole.
fn share(part: u64, whole: u64) -> String {
    let percent = part as f64 * 100.0 / whole.max(1) as f64;
    format!(
        "<td class=\"number\">{}<td class=\"share\"><i style=\"width:{percent:.2}%\"></i>",
        units::percent(part, whole)
    )
}

fn write_owners(out: &mut dyn Write, owners: &[Holding], total: Amount) -> io::Result<()> {
    writeln!(out, "<h2>Owners</h2>\n<p class=\"dim\">What would be freed with each. A click shows what it holds.</p>")?;
    writeln!(out, "<div class=\"scroll\"><table id=\"owners\">\n<tr><th>owner<th class=\"number\">bytes")?;
    writeln!(out, "<th class=\"number\">objects<th class=\"number\">%<th class=\"share\"></tr>")?;
    for holding in owners.iter().take(ROWS_SHOWN) {
        let owner = &holding.owner;
        writeln!(
            out,
            "<tr class=\"owner\" tabindex=\"0\" aria-expanded=\"false\"><td class=\"name\">{}<td class=\"number\">{}\
             <td class=\"number\">{}{}</tr>",
            xml(&beginning(&owner.holder)),
            units::bytes(owner.amount.bytes),
            units::count(owner.amount.objects),
            share(owner.amount.bytes, total.bytes)
        )?;
        writeln!(
            out,
            "<tr class=\"held\" hidden><td colspan=\"5\"><p>largest part: <span class=\"name\">{}</span></p><table>",
            xml(&beginning(&owner.chain))
        )?;
        for (name, amount) in holding.types.iter().take(TYPES_SHOWN) {
            writeln!(
                out,
                "<tr><td class=\"name\">{}<td class=\"number\">{}<td class=\"number\">{}</tr>",
                xml(&beginning(name)),
                units::bytes(amount.bytes),
                units::count(amount.objects)
            )?;
        }
        let more = holding.types.len().saturating_sub(TYPES_SHOWN);
        let more = if more > 0 { format!("<p class=\"dim\">{more} more types</p>") } else { String::new() };
        writeln!(out, "</table>{more}</td></tr>")?;
    }
    writeln!(out, "</table></div>")
}

fn write_graph(out: &mut dyn Write, has_owners: bool) -> io::Result<()> {
    let (title, explanation) = match has_owners {
        true => (
            "Flame graph by owner",
            "A frame is as wide as what would be freed without it. Green: modules and classes; blue: threads and \
             tasks; orange: running frames; purple: native code; grey: the rest.",
        ),
        false => ("Flame graph by type", "Packages, modules and types."),
    };
    writeln!(
        out,
        "<h2>{title}</h2>\n<p class=\"dim\">{explanation} A click zooms in, Escape goes back.</p>\n\
         <div class=\"tools\"><button data-weight=\"2\" aria-pressed=\"true\">bytes</button>\
         <button data-weight=\"1\" aria-pressed=\"false\">objects</button><button id=\"whole\">whole heap</button>\
         <input id=\"search\" type=\"search\" placeholder=\"search\" aria-label=\"search\">\
         <span id=\"matched\" class=\"dim\"></span></div>\n<div id=\"graph\"></div>\n\
         <div id=\"inside\" class=\"card scroll\"></div>"
    )
}

fn write_types(out: &mut dyn Write, histogram: &Histogram) -> io::Result<()> {
    writeln!(
        out,
        "<h2>Types</h2>\n<div class=\"scroll\"><table id=\"types\">\n<tr><th>type<th class=\"number\">bytes"
    )?;
    writeln!(out, "<th class=\"number\">objects<th class=\"number\">%<th class=\"share\"></tr>")?;
    for row in histogram.rows.iter().take(ROWS_SHOWN) {
        writeln!(
            out,
            "<tr><td class=\"name\">{}<td class=\"number\">{}<td class=\"number\">{}{}</tr>",
            xml(&beginning(&row.label())),
            units::bytes(row.amount.bytes),
            units::count(row.amount.objects),
            share(row.amount.bytes, histogram.total.bytes)
        )?;
    }
    writeln!(out, "</table></div>")?;
    let rest = histogram.rows.get(ROWS_SHOWN..).unwrap_or_default();
    if !rest.is_empty() {
        let bytes: u64 = rest.iter().map(|row| row.amount.bytes).sum();
        writeln!(out, "<p class=\"dim\">{} more types, {}</p>", units::count(rest.len() as u64), units::bytes(bytes))?;
    }
    Ok(())
}

fn beginning(name: &str) -> String {
    match name.char_indices().nth(NAME_SHOWN) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// The frames for the script. Their depth is bounded by `analysis::frames`.
fn tree(root: &Node) -> Value {
    fn frame(node: &Node, strings: &mut StringTable) -> Value {
        let name = strings.index(&printable(&beginning(&node.name)));
        let children: Vec<Value> = node.children.iter().map(|child| frame(child, strings)).collect();
        let rank = node.rank.map_or(0, |rank| rank as u8);
        json!([name, node.total.objects, node.total.bytes, node.own.objects, node.own.bytes, rank, children])
    }
    let mut strings = StringTable::default();
    let root = frame(root, &mut strings);
    json!({"strings": strings.list(), "root": root})
}
