//! Draws a flame graph as SVG with inferno. The same stacks give the same bytes.

use std::io::{self, Write};

use inferno::flamegraph::color::{BasicPalette, Palette};
use inferno::flamegraph::{self, Options};

use super::escape::printable;
use super::folded::Weight;

/// Frames narrower than this percentage of the width are not drawn, so that a browser opens the graph quickly.
const MIN_WIDTH: f64 = 0.05;

/// Draws the folded stacks.
///
/// # Errors
/// Errors of the writer, and of inferno if there is no stack to draw.
pub fn write(out: &mut dyn Write, lines: &[String], title: &str, subtitle: &str, weight: Weight) -> io::Result<()> {
    let mut options = Options::default();
    options.title = printable(title);
    options.subtitle = Some(printable(subtitle));
    options.count_name = weight.unit().to_owned();
    options.colors = Palette::Basic(BasicPalette::Mem);
    options.deterministic = true;
    options.min_width = MIN_WIDTH;
    options.image_width = Some(1200);
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out).map_err(io::Error::other)
}
