//! What grew, as a flame graph of all owners: as wide as at the last look, the redder the more they grew.

use std::io::{self, Write};

use inferno::flamegraph::color::{Color, PaletteMap};
use rustc_hash::FxHashMap;

use crate::analysis::growth::series::DrawnPath;
use crate::analysis::histogram::Amount;
use crate::analysis::owners::Node;

use super::folded::{self, Weight};
use super::{flamegraph, units};

/// The meaning of the colours.
pub const LEGEND: &str = "red: grew, the more the redder; blue: shrank; white: as before";

/// One part of the heap in so many is seen: half a pixel of a picture.
const SEEN: u64 = 2000;

/// A frame and its bytes at the first look and at the last, its own and with all above it.
struct GrownFrame {
    name: String,
    parent: Option<usize>,
    own: (u64, u64),
    total: (u64, u64),
}

/// Draws the owners.
///
/// # Errors
/// Errors of the writer, and of inferno if there is nothing to draw.
pub fn write(out: &mut dyn Write, tree: &[DrawnPath], title: &str, subtitle: &str) -> io::Result<()> {
    let frames = frames(tree);
    let sum = |of: fn(&GrownFrame) -> u64| frames.iter().map(of).sum::<u64>();
    let (before, after) = (sum(|frame| frame.own.0), sum(|frame| frame.own.1));
    let most = frames.iter().map(|frame| frame.total.0.abs_diff(frame.total.1)).max().unwrap_or(0);
    let mut picture = Picture { least: after / SEEN, most, palette: PaletteMap::default() };
    let mut above: Vec<Vec<(GrownFrame, Vec<Node>)>> = frames.iter().map(|_| Vec::new()).collect();
    let mut roots = Vec::new();
    // Each frame comes after the one below it.
    for (index, frame) in frames.into_iter().enumerate().rev() {
        let children = picture.nodes(std::mem::take(&mut above[index]));
        match frame.parent {
            Some(parent) => above[parent].push((frame, children)),
            None => roots.push((frame, children)),
        }
    }
    let whole = titled("heap", (before, after));
    let (total, own) = (Amount { objects: 0, bytes: after }, Amount::default());
    let root = Node { name: whole.clone(), total, own, children: picture.nodes(roots), rank: None };
    flamegraph::write_in_colors(out, &root, &whole, Some(picture.palette), (title, subtitle, Weight::Bytes))
}

/// What decides how frames are drawn.
struct Picture {
    /// Siblings that are narrower, and changed by less, are one frame.
    least: u64,
    /// The largest change, bytes.
    most: u64,
    palette: PaletteMap,
}

impl Picture {
    /// Siblings with what is above them.
    fn nodes(&mut self, siblings: Vec<(GrownFrame, Vec<Node>)>) -> Vec<Node> {
        let is_seen =
            |frame: &GrownFrame| frame.total.1 > self.least || frame.total.0.abs_diff(frame.total.1) > self.least;
        let (seen, thin): (Vec<_>, Vec<_>) = siblings.into_iter().partition(|(frame, _)| is_seen(frame));
        let mut nodes: Vec<Node> = seen
            .into_iter()
            .map(|(frame, children)| self.node(&frame.name, frame.own.1, frame.total, children))
            .collect();
        let total = thin.iter().fold((0u64, 0u64), |sum, (frame, _)| {
            (sum.0.saturating_add(frame.total.0), sum.1.saturating_add(frame.total.1))
        });
        if total.1 > 0 {
            let name = format!("({} more)", units::count(thin.len() as u64));
            nodes.push(self.node(&name, total.1, total, Vec::new()));
        }
        nodes
    }

    fn node(&mut self, name: &str, own: u64, total: (u64, u64), children: Vec<Node>) -> Node {
        let name = titled(name, total);
        self.palette.insert(folded::escape(&name), color(total, self.most));
        let amount = |bytes: u64| Amount { objects: 0, bytes };
        Node { name, total: amount(total.1), own: amount(own), children, rank: None }
    }
}

/// The frames of a tree, each after the one below it.
fn frames(tree: &[DrawnPath]) -> Vec<GrownFrame> {
    let mut frames: Vec<GrownFrame> = Vec::new();
    let mut known: FxHashMap<(Option<usize>, &str), usize> = FxHashMap::default();
    for path in tree {
        let mut at = None;
        for name in &path.frames {
            let index = *known.entry((at, name)).or_insert_with(|| {
                frames.push(GrownFrame { name: name.clone(), parent: at, own: (0, 0), total: (0, 0) });
                frames.len() - 1
            });
            at = Some(index);
        }
        if let Some(index) = at {
            let own = &mut frames[index].own;
            *own = (own.0.saturating_add(path.before), own.1.saturating_add(path.after));
        }
    }
    for index in (0..frames.len()).rev() {
        let (own, above) = (frames[index].own, frames[index].total);
        let total = (own.0.saturating_add(above.0), own.1.saturating_add(above.1));
        frames[index].total = total;
        if let Some(parent) = frames[index].parent {
            let below = &mut frames[parent].total;
            *below = (below.0.saturating_add(total.0), below.1.saturating_add(total.1));
        }
    }
    frames
}

/// `CACHE dict +1.50 MiB`: frames of one name have one colour, so what grew by the same is alike.
fn titled(name: &str, (before, after): (u64, u64)) -> String {
    match before == after {
        true => name.to_owned(),
        false => format!("{name} {}", units::signed_bytes(after as f64 - before as f64)),
    }
}

/// From white to red or blue, by the root of the share in the largest change: what grew by a tenth of it is seen.
fn color((before, after): (u64, u64), most: u64) -> Color {
    let share = (before.abs_diff(after) as f64 / most.max(1) as f64).sqrt();
    let faded = (235.0 - share * 160.0) as u8;
    match after >= before {
        true => Color { r: 245, g: faded, b: faded },
        false => Color { r: faded, g: faded, b: 245 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_and_growth_is_red() {
        let path = |frames: &[&str], before, after| DrawnPath {
            frames: frames.iter().map(|&name| name.to_owned()).collect(),
            before,
            after,
        };
        let mut tree = vec![
            path(&["app"], 10, 10),
            path(&["app", "CACHE dict"], 100, 5000),
            path(&["app", "OLD list", "[…] str"], 300, 100),
            path(&["sys"], 700, 700),
        ];
        tree.extend(["a", "b", "c", "d", "e"].map(|name| path(&[name], 2, 2)));
        let of = |name: &str| frames(&tree).into_iter().find(|frame| frame.name == name).map(|frame| frame.total);
        assert_eq!(of("app"), Some((410, 5110)));
        assert_eq!(of("OLD list"), Some((300, 100)));
        let mut svg = Vec::new();
        write(&mut svg, &tree, "title", "subtitle").unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains("(5 more)"), "what is thin is counted: {svg}");
        for text in ["heap +4.59 KiB", "CACHE dict +4.79 KiB", "OLD list -200 B", ">sys"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        let Color { r, g, b } = color((100, 5000), 4900);
        assert!(r > 200 && g < 100 && b < 100);
        let Color { r, g, b } = color((700, 700), 4900);
        assert!(r.min(g).min(b) > 200);
        let Color { r, b, .. } = color((300, 100), 4900);
        assert!(b > r);
    }
}
