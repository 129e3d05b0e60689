//! Writes how a process grew during a recording: CSV with a line per second, and a small plot.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::inspect::recorded::Moment;

use super::units;

/// Writes the observations as CSV with a header line. What was not counted at a moment is empty.
///
/// # Errors
/// Errors of the writer.
pub fn write_csv(out: &mut dyn Write, moments: &[Moment]) -> io::Result<()> {
    writeln!(out, "seconds,rss_bytes,heap_objects,collections_0,collections_1,collections_2")?;
    for Moment { seconds, rss_bytes, heap_objects, collections } in moments {
        let objects = heap_objects.map(|objects| objects.to_string()).unwrap_or_default();
        let collections = collections.map_or([const { String::new() }; 3], |all| all.map(|count| count.to_string()));
        writeln!(out, "{seconds:.3},{rss_bytes},{objects},{}", collections.join(","))?;
    }
    Ok(())
}

/// Height of the plot, in the SVG's units.
const HEIGHT: f64 = 64.0;
/// Horizontal range of the curves.
const LEFT: f64 = 330.0;
const RIGHT: f64 = 1180.0;
/// Maximum number of points of a curve.
const POINTS: usize = 400;

/// A curve's name, colour, text position, values and number format.
type Curve<'a> = (&'a str, &'a str, f64, &'a dyn Fn(&Moment) -> Option<u64>, &'a dyn Fn(u64) -> String);

/// Puts a plot above a flame graph, which becomes taller. An SVG without a `viewBox` that starts at 0 is returned
/// unchanged.
pub fn put_above(svg: &str, moments: &[Moment]) -> String {
    let (Some(first), Some(last)) = (moments.first(), moments.last()) else { return svg.to_owned() };
    let Some(plotted) = enlarge(svg) else { return svg.to_owned() };
    let (head, rest) = plotted;
    let span = (last.seconds - first.seconds).max(1e-9);
    let mut plot = String::new();
    let _ = write!(
        plot,
        "<g id=\"growth\" font-family=\"monospace\" font-size=\"12\">\
         <rect x=\"0\" y=\"{:.0}\" width=\"100%\" height=\"{:.0}\" fill=\"#f8f8f8\"/>",
        -HEIGHT, HEIGHT
    );
    let curves: [Curve<'_>; 3] = [
        ("memory", "#1f5fa8", -46.0, &|moment| Some(moment.rss_bytes), &units::bytes),
        ("objects", "#a8461f", -28.0, &|moment| moment.heap_objects, &units::count),
        ("collections", "#5f8f3f", -10.0, &|moment| moment.collections.map(|all| all.iter().sum()), &units::count),
    ];
    for (name, colour, text_y, value, format) in curves {
        let known: Vec<(f64, u64)> =
            moments.iter().filter_map(|moment| Some((moment.seconds, value(moment)?))).collect();
        let ([(_, start), .., (_, end)] | [(_, start @ end)]) = known.as_slice() else { continue };
        let _ = write!(
            plot,
            "<text x=\"10\" y=\"{text_y:.0}\" fill=\"{colour}\">{name} {} to {}</text>\
             <polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"",
            format(*start),
            format(*end),
        );
        let most = known.iter().map(|point| point.1).max().unwrap_or(0).max(1) as f64;
        for (seconds, value) in known.iter().step_by(known.len().div_ceil(POINTS).max(1)) {
            let x = LEFT + (RIGHT - LEFT) * (seconds - first.seconds) / span;
            let y = -6.0 - (HEIGHT - 12.0) * *value as f64 / most;
            let _ = write!(plot, "{x:.1},{y:.1} ");
        }
        let _ = write!(plot, "\"/>");
    }
    plot.push_str("</g>\n");
    format!("{head}{plot}{rest}")
}

/// The SVG with room at its top, split where the plot goes: after the background.
fn enlarge(svg: &str) -> Option<(String, &str)> {
    let start = svg.find("<svg ")?;
    let end = start + svg[start..].find('>')?;
    let tag = &svg[start..end];
    let attribute = |name: &str| {
        let from = tag.find(&format!(" {name}=\""))? + name.len() + 3;
        let until = from + tag[from..].find('"')?;
        Some((from, until))
    };
    let (height_from, height_until) = attribute("height")?;
    let (box_from, box_until) = attribute("viewBox")?;
    let height: f64 = tag[height_from..height_until].parse().ok()?;
    let numbers: Vec<f64> = tag[box_from..box_until].split(' ').map_while(|number| number.parse().ok()).collect();
    let &[0.0, 0.0, width, box_height] = numbers.as_slice() else { return None };
    let mut pieces = [
        (height_from, height_until, format!("{}", height + HEIGHT)),
        (box_from, box_until, format!("0 {} {width} {}", -HEIGHT, box_height + HEIGHT)),
    ];
    pieces.sort_by_key(|piece| piece.0);
    let mut new_tag = String::new();
    let mut at = 0;
    for (from, until, text) in pieces {
        new_tag.push_str(&tag[at..from]);
        new_tag.push_str(&text);
        at = until;
    }
    new_tag.push_str(&tag[at..]);
    // Before the group of the frames, so that neither script nor frames move.
    let body = end + svg[end..].find("<svg id=\"frames\"").or_else(|| svg[end..].find("<g id=\"frames\""))?;
    Some((format!("{}{new_tag}{}", &svg[..start], &svg[end..body]), &svg[body..]))
}
