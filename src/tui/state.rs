//! What the live screen knows: the history of each figure, the order and choice of rows, and which keys do what.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::analysis::histogram::Amount;
use crate::analysis::memory_line::MemoryLine;
use crate::analysis::owners::Holding;
use crate::report::family::MemberLine;

/// Points kept of each figure: a minute at a tick per second.
pub const POINTS: usize = 60;
/// Ticks over which a rate is measured.
const RATE_TICKS: usize = 10;
/// Share of a processor that looks take at most; where one costs more, the next one comes later.
const COST_SHARE: f64 = 0.05;
/// Types that are followed; the largest ones.
const TYPES_MAX: usize = 2000;

/// Where figures come from.
pub trait LiveSource {
    /// Looks once.
    ///
    /// # Errors
    /// The process cannot be read any more.
    fn tick(&mut self) -> anyhow::Result<Tick>;

    /// Copies the heap and finds its owners.
    ///
    /// # Errors
    /// As for a tick, and too little memory.
    fn owners(&mut self) -> anyhow::Result<OwnersNow>;

    /// Counts the objects of the process and its family.
    ///
    /// # Errors
    /// As for a tick.
    fn workers(&mut self) -> anyhow::Result<WorkersNow>;

    /// Saves the heap in a file, and says which.
    ///
    /// # Errors
    /// As for owners, and the file cannot be written.
    fn save(&mut self) -> anyhow::Result<String>;
}

/// One look.
#[derive(Clone, Debug, Default)]
pub struct Tick {
    /// Time since the first look.
    pub at: Duration,
    /// Processor time that the look took.
    pub cost: Duration,
    /// Where resident memory goes, if the kernel tells.
    pub memory: Option<MemoryLine>,
    /// Bytes left to the limit of the process's control groups, if there is one.
    pub left: Option<u64>,
    /// Whether everything was read.
    pub is_exact: bool,
    /// All objects.
    pub total: Amount,
    /// Types, largest first.
    pub rows: Vec<TickRow>,
}

impl Tick {
    /// How long after this look began the next one may begin.
    pub fn rest(&self) -> Duration {
        self.cost.div_f64(COST_SHARE)
    }
}

/// A type at one look.
#[derive(Clone, Debug, Default)]
pub struct TickRow {
    /// The type.
    pub name: String,
    /// Its objects.
    pub amount: Amount,
    /// By how many bytes the truth may differ (95 % confidence).
    pub error: u64,
}

/// The owners of a heap, and for how long the process stood still while it was copied.
#[derive(Clone, Debug, Default)]
pub struct OwnersNow {
    /// The largest ones.
    pub holdings: Vec<Holding>,
    /// The pause.
    pub paused: Option<Duration>,
}

/// The processes of a family, side by side.
#[derive(Clone, Debug, Default)]
pub struct WorkersNow {
    /// Those that were read, parents first.
    pub rows: Vec<MemberLine>,
    /// How many could not be read.
    pub unread: usize,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopSort {
    /// The fastest growth first.
    #[default]
    Growth,
    /// The most bytes.
    Bytes,
    /// The most objects.
    Objects,
    /// The name.
    Name,
}

impl TopSort {
    fn next(self) -> TopSort {
        match self {
            TopSort::Growth => TopSort::Bytes,
            TopSort::Bytes => TopSort::Objects,
            TopSort::Objects => TopSort::Name,
            TopSort::Name => TopSort::Growth,
        }
    }

    /// The word on the screen.
    pub fn name(self) -> &'static str {
        match self {
            TopSort::Growth => "growth",
            TopSort::Bytes => "bytes",
            TopSort::Objects => "objects",
            TopSort::Name => "name",
        }
    }
}

/// A type at one of the looks.
#[derive(Clone, Copy, Debug, Default)]
struct TypePoint {
    at: Duration,
    amount: Amount,
    error: u64,
}

/// The history of a type.
#[derive(Clone, Debug, Default)]
struct TypeHistory {
    /// The looks at which it was seen, oldest first.
    points: VecDeque<TypePoint>,
    /// What is known of it at the start.
    first: TypePoint,
    tick: u64,
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct TableRow<'a> {
    /// The type.
    pub name: &'a str,
    /// Its objects now.
    pub amount: Amount,
    /// By how many bytes the truth may differ.
    pub error: u64,
    /// Growth in bytes per second; 0 if it is within the error.
    pub rate: f64,
    /// Bytes more than at the first look; 0 if that is within the error.
    pub since_start: i64,
    /// Its bytes, oldest first.
    pub line: Vec<u64>,
}

/// What the screen shows in its lower part.
#[derive(Clone, Debug, Default)]
pub enum TopView {
    /// Types.
    #[default]
    Types,
    /// Owners, and of what: all, or those of a type.
    Owners(Option<String>, OwnersNow),
    /// The processes of the family.
    Workers(WorkersNow),
    /// The keys.
    Help,
}

/// What a key asks of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing but to draw.
    Draw,
    /// To copy the heap and find its owners.
    Owners,
    /// To count the objects of the family.
    Workers,
    /// To copy the heap and save it.
    Save,
    /// To end.
    Quit,
}

/// A key, as far as the screen knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A letter.
    Char(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// A row up.
    Up,
    /// A row down.
    Down,
}

/// What pauses the process.
#[derive(Clone, Debug)]
enum PausingRequest {
    /// Owners of all, or of a type.
    Owners(Option<String>),
    Save,
}

/// The state of the screen.
#[derive(Clone, Debug, Default)]
pub struct TopState {
    /// The process, as a title.
    pub title: String,
    /// The last look.
    pub last: Tick,
    /// Resident bytes of each look, oldest first.
    pub rss: VecDeque<(Duration, u64)>,
    /// The view.
    pub view: TopView,
    /// The order of types.
    pub sort: TopSort,
    /// What the names of shown types contain.
    pub filter: String,
    /// Whether the filter is being typed.
    pub is_typing: bool,
    /// Whether looks are not shown.
    pub is_paused: bool,
    /// The chosen row.
    pub chosen: usize,
    /// A question or an answer in the last line.
    pub message: String,
    /// What is asked for, once that is confirmed, since it pauses the process.
    asked: Option<PausingRequest>,
    types: FxHashMap<String, TypeHistory>,
    ticks: u64,
}

impl TopState {
    /// A screen for this process.
    pub fn new(title: String) -> TopState {
        TopState { title, ..TopState::default() }
    }

    /// Takes a look in.
    pub fn add(&mut self, tick: Tick) {
        if self.is_paused {
            return;
        }
        self.ticks += 1;
        if let Some(memory) = &tick.memory {
            push(&mut self.rss, (tick.at, memory.rss));
        }
        for row in tick.rows.iter().take(TYPES_MAX) {
            let point = TypePoint { at: tick.at, amount: row.amount, error: row.error };
            // What an exact look did not meet was not there; a sample may have missed it.
            let was_missing = self.ticks > 1 && self.last.is_exact;
            let history = self.types.entry(row.name.clone()).or_insert_with(|| TypeHistory {
                first: if was_missing { TypePoint::default() } else { point },
                ..TypeHistory::default()
            });
            push(&mut history.points, point);
            history.tick = self.ticks;
        }
        let now = self.ticks;
        self.types.retain(|_, history| now - history.tick < POINTS as u64);
        self.last = tick;
    }

    /// The rows of the table, in order.
    pub fn rows(&self) -> Vec<TableRow<'_>> {
        let filter = self.filter.to_lowercase();
        let is_shown = |name: &str| filter.is_empty() || name.to_lowercase().contains(&filter);
        let shown = self.types.iter().filter(|(name, _)| is_shown(name));
        let mut rows: Vec<TableRow<'_>> = shown.map(|(name, history)| self.row(name, history)).collect();
        rows.sort_by(|a, b| {
            let order = match self.sort {
                TopSort::Growth => b.rate.total_cmp(&a.rate).then(b.since_start.cmp(&a.since_start)),
                TopSort::Bytes => Ordering::Equal,
                TopSort::Objects => b.amount.objects.cmp(&a.amount.objects),
                TopSort::Name => a.name.cmp(b.name),
            };
            order.then(b.amount.bytes.cmp(&a.amount.bytes)).then(a.name.cmp(b.name))
        });
        rows
    }

    fn row<'a>(&self, name: &'a str, history: &TypeHistory) -> TableRow<'a> {
        // A type that the last look did not meet is gone.
        let now = history.points.back().filter(|_| history.tick == self.ticks).copied().unwrap_or_default();
        let points: Vec<TypePoint> = history.points.iter().copied().collect();
        let recent = recent(&points);
        let bytes: Vec<(Duration, u64)> = recent.iter().map(|point| (point.at, point.amount.bytes)).collect();
        let (rate, change) = slope(&bytes).unwrap_or_default();
        // Both ends of a difference may be off.
        let off = |one: Option<&TypePoint>, other: Option<&TypePoint>| {
            one.map_or(0, |point| point.error).saturating_add(other.map_or(0, |point| point.error))
        };
        let is_error = change.unsigned_abs() <= off(recent.first(), recent.last());
        let since_start = now.amount.bytes as i64 - history.first.amount.bytes as i64;
        let is_start_error = since_start.unsigned_abs() <= off(Some(&history.first), Some(&now));
        TableRow {
            name,
            amount: now.amount,
            error: now.error,
            rate: if is_error { 0.0 } else { rate },
            since_start: if is_start_error { 0 } else { since_start },
            line: points.iter().map(|point| point.amount.bytes).collect(),
        }
    }

    /// Growth of resident memory, bytes per second, over the last looks.
    pub fn rss_rate(&self) -> f64 {
        let points: Vec<(Duration, u64)> = self.rss.iter().copied().collect();
        slope(recent(&points)).map_or(0.0, |slope| slope.0)
    }

    /// When the limit is reached if resident memory goes on growing like this.
    pub fn time_left(&self) -> Option<Duration> {
        let (left, rate) = (self.last.left?, self.rss_rate());
        // A year is never.
        const LONG: f64 = 365.0 * 86_400.0;
        let seconds = left as f64 / rate;
        (rate > 0.0 && seconds < LONG).then(|| Duration::from_secs_f64(seconds))
    }

    /// Takes the answer to [`Request::Owners`].
    pub fn answer(&mut self, owners: anyhow::Result<OwnersNow>) {
        let of = match self.asked.take() {
            Some(PausingRequest::Owners(of)) => of,
            _ => None,
        };
        match owners {
            Ok(owners) => {
                self.message.clear();
                self.chosen = 0;
                self.view = TopView::Owners(of, owners);
            }
            Err(error) => self.message = error.to_string(),
        }
    }

    /// Takes the answer to [`Request::Workers`].
    pub fn answer_workers(&mut self, workers: anyhow::Result<WorkersNow>) {
        match workers {
            Ok(workers) => {
                self.chosen = workers.rows.iter().position(|row| row.is_outlier).unwrap_or(0);
                self.view = TopView::Workers(workers);
            }
            Err(error) => self.message = error.to_string(),
        }
    }

    /// Takes the answer to [`Request::Save`].
    pub fn answer_save(&mut self, saved: anyhow::Result<String>) {
        self.asked = None;
        self.message = saved.unwrap_or_else(|error| format!("{error:#}"));
    }

    /// Takes a key.
    pub fn key(&mut self, key: Key) -> Request {
        if self.is_typing {
            match key {
                Key::Char(char) => self.filter.push(char),
                Key::Backspace => drop(self.filter.pop()),
                Key::Enter => self.is_typing = false,
                Key::Escape => {
                    self.is_typing = false;
                    self.filter.clear();
                }
                Key::Up | Key::Down => {}
            }
            self.chosen = 0;
            return Request::Draw;
        }
        if let Some(asked) = &self.asked {
            if key == Key::Enter {
                return match asked {
                    PausingRequest::Owners(_) => Request::Owners,
                    PausingRequest::Save => Request::Save,
                };
            }
            self.asked = None;
            self.message.clear();
            return Request::Draw;
        }
        self.message.clear();
        match key {
            Key::Char('q') => return Request::Quit,
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Char('p') => self.is_paused = !self.is_paused,
            Key::Char('/') => self.is_typing = true,
            Key::Char('?') => self.view = TopView::Help,
            Key::Char('w') => return Request::Workers,
            Key::Char('S') => {
                self.ask(PausingRequest::Save, "save a snapshot in this directory");
            }
            Key::Char('o') if matches!(self.view, TopView::Types) => self.ask_owners(None),
            Key::Enter if matches!(self.view, TopView::Types) => {
                let chosen = self.rows().get(self.chosen).map(|row| row.name.to_owned());
                if chosen.is_some() {
                    self.ask_owners(chosen);
                }
            }
            Key::Escape | Key::Char('o') => (self.view, self.chosen) = (TopView::Types, 0),
            Key::Up | Key::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            Key::Down | Key::Char('j') => {
                let rows = match &self.view {
                    TopView::Owners(of, now) => holdings_of(now, of.as_deref()).len(),
                    TopView::Workers(now) => now.rows.len(),
                    _ => self.rows().len(),
                };
                self.chosen = (self.chosen + 1).min(rows.saturating_sub(1));
            }
            _ => {}
        }
        Request::Draw
    }

    fn ask_owners(&mut self, of: Option<String>) {
        let what = of.as_deref().map_or("the owners of the heap".to_owned(), |name| format!("who holds {name}"));
        self.ask(PausingRequest::Owners(of), &format!("find {what}"));
    }

    fn ask(&mut self, asked: PausingRequest, what: &str) {
        self.message = format!("To {what}, the process is paused for at most 500 ms. Enter: do it; other keys: no");
        self.asked = Some(asked);
    }
}

/// Owners, with what they hold of a type, or of all; the largest first.
pub fn holdings_of<'a>(now: &'a OwnersNow, of: Option<&str>) -> Vec<(&'a Holding, Amount)> {
    let Some(of) = of else { return now.holdings.iter().map(|holding| (holding, holding.owner.amount)).collect() };
    // Frames have the names of types without their modules.
    let short = of.rsplit('.').next().unwrap_or(of);
    let amount = |holding: &Holding| holding.types.iter().find(|(name, _)| name == short).map(|(_, amount)| *amount);
    let mut found: Vec<(&Holding, Amount)> =
        now.holdings.iter().filter_map(|holding| Some((holding, amount(holding)?))).collect();
    found.sort_by_key(|(_, amount)| std::cmp::Reverse(amount.bytes));
    found
}

fn push<T>(points: &mut VecDeque<T>, point: T) {
    if points.len() == POINTS {
        points.pop_front();
    }
    points.push_back(point);
}

/// The points over which a rate is measured.
fn recent<T>(points: &[T]) -> &[T] {
    &points[points.len().saturating_sub(RATE_TICKS)..]
}

/// Change per second, and the change itself, from the first point to the last.
fn slope(points: &[(Duration, u64)]) -> Option<(f64, i64)> {
    let (first, last) = (points.first()?, points.last()?);
    let (seconds, change) = (last.0.saturating_sub(first.0).as_secs_f64(), last.1 as i64 - first.1 as i64);
    (seconds > 0.0).then(|| (change as f64 / seconds, change))
}
