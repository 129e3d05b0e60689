//! An account of memory as a picture: a bar of all rows, a legend, and how full pymalloc's pools are.

use std::io::{self, Write};

use crate::analysis::memory_account::{Account, Group, Row};
use crate::inspect::answer::TargetSummary;

use super::escape::xml;
use super::memory_table::line;
use super::units;

/// Sizes, in the SVG's units.
const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 20.0;
const BAR: f64 = 48.0;
const LINE: f64 = 20.0;
const HISTOGRAM: f64 = 120.0;
/// Share of RSS below which a row is drawn together with the other small ones.
const SMALL: f64 = 0.005;

/// A piece of the bar.
struct BarPiece {
    name: &'static str,
    color: &'static str,
    bytes: u64,
}

/// Writes the picture. The same account gives the same bytes.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, account: &Account, about: &TargetSummary) -> io::Result<()> {
    let rss = account.rollup.rss.max(1) as f64;
    let pieces = pieces(&account.rows, rss);
    let legend_top = MARGIN + 3.0 * LINE + BAR;
    let pools = account.fills.pools;
    let histogram = if pools > 0 { HISTOGRAM + 3.0 * LINE } else { 0.0 };
    let height = legend_top + LINE * (pieces.len() as f64 + 1.0) + histogram + MARGIN;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">"
    )?;
    writeln!(out, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>")?;
    let title = format!("Process {}: {}", about.pid, units::command(&about.command));
    text(out, MARGIN, MARGIN + 10.0, &title)?;
    text(out, MARGIN, MARGIN + 10.0 + LINE, &line(account))?;
    let (mut x, top) = (MARGIN, MARGIN + 2.0 * LINE);
    let sum: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let scale = (WIDTH - 2.0 * MARGIN) / sum.max(1) as f64;
    for (index, piece) in pieces.iter().enumerate() {
        let width = piece.bytes as f64 * scale;
        let BarPiece { name, color, bytes } = piece;
        let label = format!("{name}: {} ({:.1} %)", units::bytes(*bytes), *bytes as f64 * 100.0 / rss);
        writeln!(
            out,
            "<rect x=\"{x:.2}\" y=\"{top}\" width=\"{width:.2}\" height=\"{BAR}\" fill=\"{color}\" \
             stroke=\"#ffffff\"><title>{}</title></rect>",
            xml(&label)
        )?;
        let y = legend_top + LINE * (index as f64 + 1.0);
        writeln!(out, "<rect x=\"{MARGIN}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{color}\"/>", y - 11.0)?;
        text(out, MARGIN + 20.0, y, &label)?;
        x += width;
    }
    if pools > 0 {
        let top = legend_top + LINE * (pieces.len() as f64 + 2.0);
        write_fills(out, &account.fills.by_tenth, pools, top)?;
    }
    writeln!(out, "</svg>")
}

/// Rows from the largest on, small ones together.
fn pieces(rows: &[Row], rss: f64) -> Vec<BarPiece> {
    let mut pieces: Vec<BarPiece> = Vec::new();
    let mut small = 0;
    // Rows of a group stand side by side, each in another shade.
    let mut shades = [0usize; 7];
    for group in Group::ALL {
        for row in rows.iter().filter(|row| row.kind.group() == group) {
            let Ok(bytes) = u64::try_from(row.resident) else { continue };
            if (bytes as f64) < SMALL * rss {
                small += bytes;
                continue;
            }
            let shade = &mut shades[group as usize];
            pieces.push(BarPiece { name: row.kind.name(), color: color(group, *shade), bytes });
            *shade += 1;
        }
    }
    if small > 0 {
        pieces.push(BarPiece { name: "rows of less than 0.5 % of RSS each", color: "#d0d0d0", bytes: small });
    }
    pieces
}

/// Objects are green, free memory is orange, native memory red, the rest grey and blue.
fn color(group: Group, shade: usize) -> &'static str {
    let shades: [&str; 4] = match group {
        Group::Objects => ["#2e7d32", "#66bb6a", "#9ccc65", "#c5e1a5"],
        Group::AllocatorFree => ["#ef6c00", "#ffa726", "#ffcc80", "#ffe0b2"],
        Group::Native => ["#b71c1c", "#e57373", "#ef9a9a", "#ffcdd2"],
        Group::Stacks => ["#6a1b9a", "#ab47bc", "#ce93d8", "#e1bee7"],
        Group::Files => ["#37474f", "#78909c", "#b0bec5", "#cfd8dc"],
        Group::Shared => ["#1565c0", "#42a5f5", "#90caf9", "#bbdefb"],
        Group::NotAccounted => ["#424242", "#757575", "#9e9e9e", "#bdbdbd"],
    };
    shades[shade % shades.len()]
}

/// How many pools are how full.
fn write_fills(out: &mut dyn Write, by_tenth: &[u64; 10], pools: u64, top: f64) -> io::Result<()> {
    text(out, MARGIN, top, &format!("{} pools of pymalloc by the share of their blocks in use", units::count(pools)))?;
    let most = by_tenth.iter().copied().max().unwrap_or(0).max(1) as f64;
    let (step, bottom) = ((WIDTH - 2.0 * MARGIN) / 10.0, top + LINE + HISTOGRAM);
    for (index, &count) in by_tenth.iter().enumerate() {
        let height = (HISTOGRAM - LINE) * count as f64 / most;
        let x = MARGIN + step * index as f64;
        writeln!(
            out,
            "<rect x=\"{x:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{height:.2}\" fill=\"#2e7d32\"/>",
            bottom - height,
            step - 8.0
        )?;
        text(out, x, bottom - height - 4.0, &units::count(count))?;
        text(out, x, bottom + 16.0, &format!("{}\u{2013}{} %", index * 10, index * 10 + 10))?;
    }
    Ok(())
}

fn text(out: &mut dyn Write, x: f64, y: f64, text: &str) -> io::Result<()> {
    writeln!(out, "<text x=\"{x:.2}\" y=\"{y:.2}\">{}</text>", xml(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::memory_account::{Builder, PoolFills};
    use crate::process::residency::Residency;
    use crate::process::smaps::{self, Rollup};

    #[test]
    fn each_row_is_as_wide_as_its_share_and_names_are_escaped() {
        let maps =
            "1000-9000 rw-p 00000000 00:00 0 \nRss: 300 kB\n20000-21000 r-xp 00000000 08:01 7 /x.so\nRss: 100 kB\n";
        let residency = Residency::default();
        let rollup = Rollup { rss: 400 << 10, ..Rollup::default() };
        let mut account = Builder::new(&residency).finish(rollup, &smaps::parse(maps.as_bytes()), &[], &[]);
        account.fills = PoolFills { pools: 3, by_tenth: [2, 0, 0, 0, 0, 0, 0, 0, 0, 1], ..PoolFills::default() };
        let about = TargetSummary {
            pid: 7,
            version: String::new(),
            build: "default",
            command: "<a&b>".to_owned(),
            interpreters: 1,
        };
        let mut out = Vec::new();
        write(&mut out, &account, &about).unwrap();
        let svg = String::from_utf8(out).unwrap();
        assert!(svg.contains("&lt;a&amp;b&gt;") && !svg.contains("<a&"), "{svg}");
        // 960 units wide: three quarters, and one.
        assert!(svg.contains("width=\"720.00\"") && svg.contains("width=\"240.00\""), "{svg}");
        assert_eq!(svg.matches("fill=\"#2e7d32\"").count(), 10, "{svg}");
    }
}
