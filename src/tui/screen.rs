//! Draws the live screen. Names of the target are escaped, so that they cannot control the terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table, TableState};

use crate::report::escape::printable;
use crate::report::units;

use super::state::{OwnersNow, TableRow, TopState, TopView, WorkersNow, holdings_of};

/// Columns from which there is room for a line of each row.
const WIDE: u16 = 110;

/// Draws the state.
pub fn draw(frame: &mut Frame<'_>, state: &TopState) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(4), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(head_lines(state, head.width)), head);
    match &state.view {
        TopView::Types => types(frame, state, body),
        TopView::Owners(of, now) => owners(frame, state, of.as_deref(), now, body),
        TopView::Workers(now) => workers(frame, state, now, body),
        TopView::Help => frame.render_widget(Paragraph::new(help()), body),
    }
    frame.render_widget(Paragraph::new(foot_line(state)), foot);
}

fn head_lines(state: &TopState, width: u16) -> Vec<Line<'static>> {
    let bold = Style::default().add_modifier(Modifier::BOLD);
    let last = &state.last;
    let basis = if last.is_exact { "exact" } else { "estimated" };
    let paused = if state.is_paused { "   PAUSED" } else { "" };
    let first = Line::from(vec![
        Span::styled(printable(&state.title), bold),
        Span::raw(format!("   {}", units::duration(last.at))),
        Span::styled(paused, bold),
    ]);
    let Some(memory) = &last.memory else {
        let objects =
            format!("{} objects, {}, {basis}", units::count(last.total.objects), units::bytes(last.total.bytes));
        return vec![first, Line::from("RSS: the kernel does not tell"), Line::from(objects), Line::default()];
    };
    let values: Vec<u64> = state.rss.iter().map(|point| point.1).collect();
    let limit = match (last.left, state.time_left()) {
        (None, _) => "no limit".to_owned(),
        (Some(left), None) => format!("{} to the limit", units::bytes(left)),
        (Some(left), Some(time)) => {
            format!("{} to the limit, reached in {}", units::bytes(left), humantime::format_duration(rounded(time)))
        }
    };
    let second = Line::from(vec![
        Span::styled(format!("RSS {}", units::bytes(memory.rss)), bold),
        Span::raw(format!("  {}/s   {limit}   ", units::signed_bytes(state.rss_rate()))),
        Span::styled(
            sparkline(&values, usize::from(width.saturating_sub(68)).min(30)),
            Style::default().fg(Color::Cyan),
        ),
    ]);
    let free = memory.allocator_free.map_or("not known".to_owned(), units::bytes);
    let parts = [
        ("objects", units::bytes(memory.objects)),
        ("free", free),
        ("native", units::bytes(memory.native)),
        ("files", units::bytes(memory.files)),
        ("shared", units::bytes(memory.shared)),
    ];
    let parts: Vec<String> = parts.iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
    let objects = format!("{} objects, {basis}; sorted by {}", units::count(last.total.objects), state.sort.name());
    vec![first, second, Line::from(parts.join("  ")), Line::from(objects)]
}

fn types(frame: &mut Frame<'_>, state: &TopState, area: Rect) {
    let rows = state.rows();
    let is_wide = area.width >= WIDE;
    let mut widths = vec![
        Constraint::Length(11),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(12),
        Constraint::Length(12),
    ];
    let mut head = vec!["objects", "bytes", "±", "per second", "since start"];
    if is_wide {
        widths.push(Constraint::Length(20));
        head.push("last minute");
    }
    widths.push(Constraint::Min(20));
    head.push("type");
    let cells = |row: &TableRow<'_>| {
        let error = if row.error > 0 { units::bytes(row.error) } else { String::new() };
        let rate = if row.rate == 0.0 { String::new() } else { units::signed_bytes(row.rate) };
        let since = if row.since_start == 0 { String::new() } else { units::signed_bytes(row.since_start as f64) };
        let mut cells = vec![units::count(row.amount.objects), units::bytes(row.amount.bytes), error, rate, since];
        cells.iter_mut().zip([10, 9, 8, 11, 11]).for_each(|(cell, width)| *cell = format!("{cell:>width$}"));
        if is_wide {
            cells.push(sparkline(&row.line, 20));
        }
        cells.push(printable(row.name));
        let style = if row.rate > 0.0 { Style::default().fg(Color::Yellow) } else { Style::default() };
        Row::new(cells).style(style)
    };
    table(frame, state, area, rows.iter().map(cells).collect(), widths, head);
}

fn owners(frame: &mut Frame<'_>, state: &TopState, of: Option<&str>, now: &OwnersNow, area: Rect) {
    let paused = now.paused.map_or("not paused".to_owned(), |pause| format!("paused for {}", units::duration(pause)));
    let title = match of {
        None => format!("Owners, and what would be freed with each ({paused})"),
        Some(name) => format!("Who holds {} ({paused})", printable(name)),
    };
    let [top, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    frame.render_widget(Paragraph::new(title), top);
    let rows = holdings_of(now, of).into_iter().map(|(holding, amount)| {
        let (objects, bytes) = (units::count(amount.objects), units::bytes(amount.bytes));
        Row::new(vec![format!("{objects:>10}"), format!("{bytes:>9}"), printable(&holding.owner.holder)])
    });
    let widths = vec![Constraint::Length(11), Constraint::Length(10), Constraint::Min(20)];
    table(frame, state, rest, rows.collect(), widths, vec!["objects", "bytes", "owner"]);
}

fn workers(frame: &mut Frame<'_>, state: &TopState, now: &WorkersNow, area: Rect) {
    let unread = if now.unread > 0 { format!(", {} not read", now.unread) } else { String::new() };
    let title = format!("The family, process by process (not paused{unread})");
    let [top, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    frame.render_widget(Paragraph::new(title), top);
    let rows = now.rows.iter().map(|row| {
        let rss = row.rss.map_or_else(String::new, units::bytes);
        let (objects, bytes) = (units::count(row.total.objects), units::bytes(row.total.bytes));
        let more = if now.rows.len() > 1 { units::signed_bytes(row.more as f64) } else { String::new() };
        let mark = if row.is_outlier { "outlier " } else { "" };
        let cells = vec![
            format!("{:>8}", row.pid),
            format!("{rss:>9}"),
            format!("{objects:>10}"),
            format!("{bytes:>9}"),
            format!("{more:>11}"),
            format!("{mark:>8}"),
            printable(&row.apart.join(", ")),
        ];
        let style = if row.is_outlier { Style::default().fg(Color::Yellow) } else { Style::default() };
        Row::new(cells).style(style)
    });
    let widths = vec![
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(11),
        Constraint::Length(10),
        Constraint::Length(12),
        Constraint::Length(9),
        Constraint::Min(20),
    ];
    let head = vec!["pid", "RSS", "objects", "bytes", "+ bytes", "", "more than the others' median"];
    table(frame, state, rest, rows.collect(), widths, head);
}

fn table(
    frame: &mut Frame<'_>,
    state: &TopState,
    area: Rect,
    rows: Vec<Row<'_>>,
    widths: Vec<Constraint>,
    head: Vec<&'static str>,
) {
    let last = head.len().saturating_sub(1);
    let head = head.into_iter().enumerate().map(|(index, name)| match &widths[index] {
        Constraint::Length(width) if index < last => format!("{name:>width$}", width = usize::from(*width) - 1),
        _ => name.to_owned(),
    });
    let head = Row::new(head.collect::<Vec<_>>()).style(Style::default().add_modifier(Modifier::UNDERLINED));
    let mut chosen = TableState::default();
    if !rows.is_empty() {
        chosen.select(Some(state.chosen.min(rows.len() - 1)));
    }
    let table = Table::new(rows, widths)
        .header(head)
        .column_spacing(0)
        .row_highlight_style(Style::default().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut chosen);
}

fn foot_line(state: &TopState) -> String {
    if state.is_typing {
        return format!("filter: {}_   Enter: keep, Escape: clear", printable(&state.filter));
    }
    if !state.message.is_empty() {
        return printable(&state.message);
    }
    let filter =
        if state.filter.is_empty() { String::new() } else { format!("   filter: {}", printable(&state.filter)) };
    format!("q quit  s sort  / filter  Enter holders  o owners  w workers  p pause  ? help{filter}")
}

fn help() -> Vec<Line<'static>> {
    [
        "",
        "  up, down   choose a row",
        "  Enter      who holds the objects of the chosen type (pauses the process)",
        "  o          owners of the heap, and back (pauses the process)",
        "  w          the processes of the family side by side, and which is an outlier; again: read anew",
        "  S          save a snapshot in this directory (pauses the process)",
        "  s          sort by growth, bytes, objects or name",
        "  /          show only types whose names contain a text",
        "  p          stop and go on showing new figures",
        "  Escape     back to the types",
        "  q          quit",
        "",
        "  ±            by how much an estimate may be off (95 % confidence)",
        "  per second   growth over the last ten looks; empty if it is within the error",
    ]
    .into_iter()
    .map(Line::from)
    .collect()
}

/// Values as blocks of different heights, from the least to the most.
fn sparkline(values: &[u64], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = &values[values.len().saturating_sub(width)..];
    let (Some(&least), Some(&most)) = (values.iter().min(), values.iter().max()) else { return String::new() };
    let block = |&value: &u64| match most - least {
        0 => BLOCKS[0],
        range => BLOCKS[((value - least) as f64 / range as f64 * 7.0).round() as usize],
    };
    values.iter().map(block).collect()
}

/// Whole seconds; whole minutes from an hour on.
fn rounded(time: std::time::Duration) -> std::time::Duration {
    let step = if time.as_secs() >= 3600 { 60 } else { 1 };
    std::time::Duration::from_secs(time.as_secs() / step * step)
}
