//! Draws a flame graph as SVG with inferno. The same stacks give the same bytes.

use std::io::{self, Write};

use inferno::flamegraph::color::{BasicPalette, Color, Palette, PaletteMap};
use inferno::flamegraph::{self, Options};

use crate::analysis::owners::Node;
use crate::graph::ownership::Rank;

use super::escape::printable;
use super::folded::{self, Weight};
use super::units;

/// Frames narrower than this percentage of the width are not drawn, so that a browser opens the graph quickly.
const MIN_WIDTH: f64 = 0.05;

/// Draws the folded stacks.
///
/// # Errors
/// Errors of the writer, and of inferno if there is no stack to draw.
pub fn write(out: &mut dyn Write, lines: &[String], title: &str, subtitle: &str, weight: Weight) -> io::Result<()> {
    let options = options(title, subtitle, weight);
    draw(out, lines, options)
}

/// Draws a tree under a frame that represents the whole, siblings by width. If ranks are known, each rank of owners has
/// a hue; see [`LEGEND`].
///
/// # Errors
/// Errors of the writer, and of inferno if there is no stack to draw.
pub fn write_tree(out: &mut dyn Write, root: &Node, title: &str, subtitle: &str, weight: Weight) -> io::Result<()> {
    let whole = format!("{}: {}, {}", root.name, units::objects(root.total.objects), units::bytes(root.total.bytes));
    let mut palette = PaletteMap::default();
    let mut open: Vec<&Node> = root.children.iter().rev().collect();
    let has_ranks = open.iter().any(|node| node.rank.is_some());
    while let Some(node) = open.pop().filter(|_| has_ranks) {
        let name = folded::escape(&node.name);
        // Frames with the same name have the colour of the first one.
        if palette.get(&name).is_none() {
            let color = shade(hue(node.rank), &name);
            palette.insert(name, color);
        }
        open.extend(node.children.iter().rev());
    }
    let palette = has_ranks.then_some(palette);
    write_in_colors(out, root, &whole, palette, (title, subtitle, weight))
}

/// Draws a tree under a frame of the name `whole`, siblings by width. The palette has a colour for each name.
pub(super) fn write_in_colors(
    out: &mut dyn Write,
    root: &Node,
    whole: &str,
    mut palette: Option<PaletteMap>,
    (title, subtitle, weight): (&str, &str, Weight),
) -> io::Result<()> {
    let mut options = options(title, subtitle, weight);
    let whole = folded::escape(whole);
    let lines: Vec<String> =
        folded::widest_first(root, weight).into_iter().rev().map(|line| format!("{whole};{line}")).collect();
    // The only mode in which inferno keeps the order of stacks; it draws the last one first.
    options.flame_chart = true;
    // Below the whole inferno draws a frame without a name.
    for name in [whole.as_str(), ""] {
        palette.iter_mut().for_each(|palette| _ = palette.insert(name, Color { r: 230, g: 230, b: 230 }));
    }
    options.palette_map = palette.as_mut();
    draw(out, &lines, options)
}

/// The meaning of the hues of [`write_tree`], so short that a subtitle with it is not wider than the picture.
pub const LEGEND: &str =
    "green: modules, classes; blue: threads, tasks; orange: frames; purple: native code; grey: rest";

/// The hue of a rank: red, green, blue.
fn hue(rank: Option<Rank>) -> (u8, u8, u8) {
    match rank {
        Some(Rank::Namespace) => (110, 200, 120),
        Some(Rank::Context) => (110, 170, 230),
        Some(Rank::Local | Rank::Stack) => (240, 170, 90),
        Some(Rank::Native) => (190, 140, 220),
        Some(Rank::Immortal) | None => (190, 190, 190),
    }
}

/// A shade of a colour chosen by name, so that neighbours differ.
fn shade((r, g, b): (u8, u8, u8), name: &str) -> Color {
    /// Number of lightness levels, and the step between them.
    const LEVELS: u32 = 5;
    const LEVEL: u32 = 8;
    let sum = name.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let more = (sum % LEVELS * LEVEL) as u8;
    Color { r: r.saturating_add(more), g: g.saturating_add(more), b: b.saturating_add(more) }
}

fn options<'o>(title: &str, subtitle: &str, weight: Weight) -> Options<'o> {
    let mut options = Options::default();
    options.title = printable(title);
    options.subtitle = Some(printable(subtitle));
    options.count_name = weight.unit().to_owned();
    options.colors = Palette::Basic(BasicPalette::Mem);
    options.deterministic = true;
    options.min_width = MIN_WIDTH;
    options.image_width = Some(1200);
    options
}

fn draw(out: &mut dyn Write, lines: &[String], mut options: Options<'_>) -> io::Result<()> {
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out).map_err(io::Error::other)
}
