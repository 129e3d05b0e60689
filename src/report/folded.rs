//! Writes folded stacks: one line `a;b;c N` per stack, sorted.

use std::cmp::Reverse;
use std::io::{self, Write};

use crate::analysis::histogram::{Amount, Histogram};
use crate::analysis::owners::Node;
use crate::record::profile::Profile;
use crate::record::shares::Quantity;

use super::escape::is_unsafe;

/// What the width of a frame measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weight {
    /// Shallow bytes.
    #[default]
    Bytes,
    /// Objects.
    Objects,
}

impl Weight {
    /// The unit, as flame graphs name it.
    pub fn unit(self) -> &'static str {
        match self {
            Weight::Bytes => "bytes",
            Weight::Objects => "objects",
        }
    }
}

/// The part of an amount that a weight measures.
pub fn amount_of(amount: Amount, weight: Weight) -> u64 {
    match weight {
        Weight::Bytes => amount.bytes,
        Weight::Objects => amount.objects,
    }
}

/// The stacks of a histogram: package, module, type. Frames of the same name merge; the weights add up to the
/// histogram's total.
pub fn of_types(histogram: &Histogram, weight: Weight) -> Vec<String> {
    of_tree(&Node::of_types(histogram, "heap"), weight)
}

/// The stacks of all frames with a weight of their own, without the root, sorted; the weights add up to the root's.
pub fn of_tree(root: &Node, weight: Weight) -> Vec<String> {
    let mut lines = widest_first(root, weight);
    lines.sort();
    lines
}

/// The same stacks in the order of a picture: siblings by width, widest first.
pub fn widest_first(root: &Node, weight: Weight) -> Vec<String> {
    let children = |node: &'_ Node| -> Vec<usize> {
        let mut order: Vec<usize> = (0..node.children.len()).collect();
        let key = |&index: &usize| (amount_of(node.children[index].total, weight), Reverse(&node.children[index].name));
        // The last one pushed is visited first.
        order.sort_by(|a, b| key(a).cmp(&key(b)));
        order
    };
    let mut lines = Vec::new();
    let first = children(root).into_iter().map(|index| &root.children[index]);
    let mut open: Vec<(String, &Node)> = first.map(|node| (escape(&node.name), node)).collect();
    while let Some((stack, node)) = open.pop() {
        let amount = amount_of(node.own, weight);
        if amount > 0 {
            lines.push((format!("{stack} {amount}"), amount));
        }
        let above = children(node).into_iter().map(|index| &node.children[index]);
        open.extend(above.map(|child| (format!("{stack};{}", escape(&child.name)), child)));
    }
    let sum: u64 = lines.iter().map(|line| line.1).sum();
    assert_eq!(sum, amount_of(root.total, weight), "the stacks add up to the whole");
    lines.into_iter().map(|line| line.0).collect()
}

/// The part of a recorded amount that a weight measures.
pub fn quantity_of(quantity: Quantity, weight: Weight) -> u64 {
    match weight {
        Weight::Bytes => quantity.bytes,
        Weight::Objects => quantity.objects,
    }
}

/// The frame above what no stack is known of.
pub const NOT_ATTRIBUTED: &str = "not attributed";

/// The stacks of a recording: thread, then functions; and types that are not attributed. Stacks of weight 0 are left
/// out; the weights add up to the whole.
pub fn of_profile(profile: &Profile, weight: Weight) -> Vec<String> {
    let stacks = profile.stacks.iter().map(|stack| {
        let frames = std::iter::once(escape(&stack.thread)).chain(stack.frames.iter().map(|it| escape(&it.label())));
        (frames.collect::<Vec<String>>(), stack.made)
    });
    let others = profile.types_not_attributed().into_iter();
    let others = others.map(|of| (vec![NOT_ATTRIBUTED.to_owned(), escape(&of.name)], of.not_attributed));
    let weighed = stacks.chain(others).map(|(frames, made)| (frames.join(";"), quantity_of(made, weight)));
    let weighed = weighed.filter(|&(_, amount)| amount > 0);
    let mut lines: Vec<String> = weighed.map(|(stack, amount)| format!("{stack} {amount}")).collect();
    lines.sort();
    lines
}

/// A name as a frame: separators of frames and lines are escaped as in a Python string.
pub fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for char in name.chars() {
        match char {
            ';' => escaped.push_str("\\x3b"),
            '\\' => escaped.push_str("\\\\"),
            char if is_unsafe(char) => escaped.extend(char.escape_default()),
            char => escaped.push(char),
        }
    }
    let trimmed = escaped.trim();
    if trimmed.is_empty() { "?".to_owned() } else { trimmed.to_owned() }
}

/// Writes the lines.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, lines: &[String]) -> io::Result<()> {
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_a_line() {
        assert_eq!(escape("a;b"), "a\\x3bb");
        assert_eq!(escape("a\nb\\"), "a\\nb\\\\");
        assert_eq!(escape("  "), "?");
        assert_eq!(escape("Generic[int, str]"), "Generic[int, str]");
    }
}
