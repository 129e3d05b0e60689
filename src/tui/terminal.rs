//! Runs the live screen on a terminal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::screen;
use super::state::{Key, LiveSource, Request, TopState};

/// How often `stop` is looked at while no key is pressed.
const PATIENCE: Duration = Duration::from_millis(100);

/// Shows the screen until `q`, `stop` or an error, with a look at each interval. The terminal is restored in any case.
///
/// # Errors
/// Errors of the source and of the terminal.
pub fn run(title: String, source: &mut dyn LiveSource, interval: Duration, stop: &AtomicBool) -> Result<()> {
    let mut terminal = ratatui::try_init()?;
    let result = show(&mut terminal, TopState::new(title), source, interval, stop);
    ratatui::restore();
    result
}

fn show(
    terminal: &mut DefaultTerminal,
    mut state: TopState,
    source: &mut dyn LiveSource,
    interval: Duration,
    stop: &AtomicBool,
) -> Result<()> {
    let mut next = Instant::now();
    let mut is_changed = true;
    loop {
        let now = Instant::now();
        if now >= next {
            let tick = source.tick()?;
            next = now + interval.max(tick.rest());
            state.add(tick);
            is_changed = true;
        }
        if std::mem::take(&mut is_changed) {
            terminal.draw(|frame| screen::draw(frame, &state))?;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !event::poll(next.saturating_duration_since(Instant::now()).min(PATIENCE))? {
            continue;
        }
        // Also a new size of the terminal.
        is_changed = true;
        let Event::Key(pressed) = event::read()? else { continue };
        if pressed.kind == KeyEventKind::Release {
            continue;
        }
        let is_control = pressed.modifiers.contains(KeyModifiers::CONTROL);
        let key = match pressed.code {
            KeyCode::Char('c') if is_control => return Ok(()),
            KeyCode::Char(char) => Key::Char(char),
            KeyCode::Enter => Key::Enter,
            KeyCode::Esc => Key::Escape,
            KeyCode::Backspace => Key::Backspace,
            KeyCode::Up => Key::Up,
            KeyCode::Down => Key::Down,
            _ => continue,
        };
        let request = state.key(key);
        if matches!(request, Request::Owners | Request::Workers | Request::Save) {
            "reading ...".clone_into(&mut state.message);
            terminal.draw(|frame| screen::draw(frame, &state))?;
            state.message.clear();
        }
        match request {
            Request::Quit => return Ok(()),
            Request::Owners => {
                let owners = source.owners();
                state.answer(owners);
            }
            Request::Workers => {
                let workers = source.workers();
                state.answer_workers(workers);
            }
            Request::Save => {
                let saved = source.save();
                state.answer_save(saved);
            }
            Request::Draw => {}
        }
    }
}
