//! Tests the live screen: its state and its pictures from fixed figures, and what `top` writes without a terminal.
//!
//! After an intended change, `HEAPSONDE_BLESS=1 cargo test --test all -- top::` rewrites the pictures.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use heapsonde::analysis::histogram::Amount;
use heapsonde::analysis::memory_line::MemoryLine;
use heapsonde::analysis::owners::{Holding, Owner};
use heapsonde::report::family::MemberLine;
use heapsonde::tui::screen;
use heapsonde::tui::state::{Key, OwnersNow, Request, Tick, TickRow, TopState, TopView, WorkersNow};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use crate::case::{TestCase, cases};
use crate::common::target::Target;
use crate::common::tool::{self, heapsonde};
use crate::common::{self, interpreters, skipped};
use crate::golden::golden;
use crate::schemas;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let slow = TestCase::of("ticks_of_a_second_take_a_twentieth_of_a_processor", ticks_of_a_second);
    let mut all = cases![
        the_screen_at_two_sizes,
        owners_are_asked_for_twice,
        workers_stand_side_by_side,
        a_snapshot_is_asked_for_twice,
        rows_are_sorted_and_filtered,
        looks_that_cost_too_much_come_later,
        growth_within_the_error_is_none,
        both_ends_of_a_difference_may_be_off,
        the_limit_is_reached_in_time,
        lines_without_a_terminal,
        it_ends_when_the_target_does,
        it_runs_in_a_terminal,
    ];
    all.push(slow.ignored_if(true));
    all
}

const MIB: u64 = 1 << 20;

fn row(name: &str, objects: u64, bytes: u64, error: u64) -> TickRow {
    TickRow { name: name.to_owned(), amount: Amount { objects, bytes }, error }
}

/// A look after `n` seconds at a heap in which sessions grow by 1 MiB per second.
fn look(n: u64) -> Tick {
    let rows = vec![
        row("builtins.dict", 300_000, 60 * MIB, 2 * MIB),
        row("app.cache.Session", 40_000 + n * 1000, (20 + n) * MIB, MIB / 2),
        row("builtins.str", 90_000, 9 * MIB + n % 2 * 4096, 64 << 10),
        row("app\u{1b}[31m.Odd\u{202e}", 7, 448, 0),
    ];
    let total = rows.iter().fold(Amount::default(), |sum, row| Amount {
        objects: sum.objects + row.amount.objects,
        bytes: sum.bytes + row.amount.bytes,
    });
    let memory = MemoryLine {
        rss: (120 + n) * MIB,
        objects: (90 + n) * MIB,
        allocator_free: Some(12 * MIB),
        native: 8 * MIB,
        files: 9 * MIB,
        shared: MIB,
    };
    let at = Duration::from_secs(n);
    Tick { at, cost: Duration::ZERO, memory: Some(memory), left: Some((512 - n) * MIB), is_exact: false, total, rows }
}

fn state(looks: u64) -> TopState {
    let mut state = TopState::new("Process 4711: python3 app.py, Python 3.14.0".to_owned());
    (0..looks).for_each(|n| state.add(look(n)));
    state
}

/// The screen as text, without spaces at the ends of lines.
fn picture(state: &TopState, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen of its own");
    terminal.draw(|frame| screen::draw(frame, state)).expect("it draws");
    let buffer = terminal.backend().buffer();
    let line = |y: u16| {
        let line: String = (0..width).filter_map(|x| buffer.cell((x, y))).map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned() + "\n"
    };
    (0..height).map(line).collect()
}

fn the_screen_at_two_sizes() {
    let state = state(12);
    for (width, height) in [(80, 24), (200, 50)] {
        let drawn = picture(&state, width, height);
        assert!(!drawn.contains(['\u{1b}', '\u{202e}']), "names cannot control the terminal");
        golden(&format!("top-{width}x{height}.txt"), |out| out.write_all(drawn.as_bytes()));
    }
    // Nothing is too small to be drawn.
    for (width, height) in [(1, 1), (10, 3), (40, 6)] {
        picture(&state, width, height);
    }
    picture(&TopState::new(String::new()), 80, 24);
}

fn owners_are_asked_for_twice() {
    let mut state = state(3);
    assert_eq!(state.key(Key::Enter), Request::Draw);
    assert!(state.message.contains("paused for at most 500 ms"), "{}", state.message);
    assert_eq!(state.key(Key::Char('x')), Request::Draw);
    assert!(state.message.is_empty() && matches!(state.view, TopView::Types), "another key is no");
    state.key(Key::Enter);
    assert_eq!(state.key(Key::Enter), Request::Owners);
    let held = Amount { objects: 42_000, bytes: 22 * MIB };
    let owner = Owner { holder: "app.cache.SESSIONS".to_owned(), amount: held, chain: String::new() };
    let other = Owner { holder: "app.log.RECENT".to_owned(), amount: held, chain: String::new() };
    let holdings = vec![
        Holding { owner, types: vec![("Session".to_owned(), held)] },
        Holding { owner: other, types: vec![("Entry".to_owned(), held)] },
    ];
    state.answer(Ok(OwnersNow { holdings, paused: Some(Duration::from_millis(81)) }));
    let drawn = picture(&state, 80, 24);
    assert!(drawn.contains("Who holds app.cache.Session (paused for 81.0 ms)"), "{drawn}");
    assert!(drawn.contains("app.cache.SESSIONS") && !drawn.contains("RECENT"), "{drawn}");
    state.key(Key::Escape);
    assert!(matches!(state.view, TopView::Types));
    state.key(Key::Char('o'));
    assert_eq!(state.key(Key::Enter), Request::Owners);
    state.answer(Err(anyhow::anyhow!("no room")));
    assert!(matches!(state.view, TopView::Types) && state.message == "no room");
    assert_eq!(state.key(Key::Char('q')), Request::Quit);
}

fn workers_stand_side_by_side() {
    let mut state = state(3);
    assert_eq!(state.key(Key::Char('w')), Request::Workers);
    let row = |pid: i32, mebibytes: u64, is_outlier: bool| MemberLine {
        pid,
        rss: Some((mebibytes + 20) * MIB),
        total: Amount { objects: mebibytes * 10_000, bytes: mebibytes * MIB },
        more: (mebibytes as i64 - 40) * MIB as i64,
        apart: if is_outlier { vec!["+2,211 app.Odd\u{202e} (60.0 MiB)".to_owned()] } else { Vec::new() },
        is_outlier,
    };
    let rows = vec![row(10, 12, false), row(11, 40, false), row(12, 100, true), row(13, 41, false)];
    state.answer_workers(Ok(WorkersNow { rows, unread: 1 }));
    assert_eq!(state.chosen, 2, "the outlier is chosen");
    let drawn = picture(&state, 120, 24);
    assert!(drawn.contains("not paused, 1 not read") && !drawn.contains('\u{202e}'), "{drawn}");
    let marked: Vec<&str> = drawn.lines().filter(|line| line.contains("outlier")).collect();
    let [line] = marked.as_slice() else { panic!("{drawn}") };
    assert!(line.contains("12") && line.contains("+60.0 MiB") && line.contains("+2,211 app.Odd"), "{line}");
    (0..9).for_each(|_| assert_eq!(state.key(Key::Down), Request::Draw));
    assert_eq!(state.chosen, 3, "there are four rows");
    assert_eq!(state.key(Key::Char('w')), Request::Workers, "read anew");
    state.answer_workers(Err(anyhow::anyhow!("gone")));
    assert!(matches!(state.view, TopView::Workers(_)) && state.message == "gone");
    state.key(Key::Escape);
    assert!(matches!(state.view, TopView::Types));
    picture(&state, 10, 3);
}

fn a_snapshot_is_asked_for_twice() {
    let mut state = state(3);
    assert_eq!(state.key(Key::Char('S')), Request::Draw);
    assert!(state.message.contains("snapshot") && state.message.contains("paused for at most 500 ms"));
    assert_eq!(state.key(Key::Char('S')), Request::Draw, "another key is no");
    state.key(Key::Char('S'));
    assert_eq!(state.key(Key::Enter), Request::Save);
    state.answer_save(Ok("here: 9 objects".to_owned()));
    assert!(picture(&state, 80, 24).contains("here: 9 objects"));
    assert_eq!(state.key(Key::Enter), Request::Draw, "it is saved once");
}

fn rows_are_sorted_and_filtered() {
    let mut state = state(12);
    let names = |state: &TopState| state.rows().iter().map(|row| row.name.to_owned()).collect::<Vec<String>>();
    assert_eq!(names(&state)[..2], ["app.cache.Session", "builtins.dict"], "growth first, then size");
    state.key(Key::Char('s'));
    assert_eq!(names(&state)[..3], ["builtins.dict", "app.cache.Session", "builtins.str"], "bytes");
    state.key(Key::Char('s'));
    assert_eq!(names(&state)[1], "builtins.str", "objects");
    state.key(Key::Char('s'));
    assert_eq!(names(&state)[3], "builtins.str", "names");
    state.key(Key::Char('/'));
    for char in "SESSq".chars() {
        state.key(Key::Char(char));
    }
    assert!(names(&state).is_empty(), "q is a letter while a filter is typed");
    state.key(Key::Backspace);
    state.key(Key::Enter);
    assert_eq!(names(&state), ["app.cache.Session"]);
    state.key(Key::Char('p'));
    state.add(look(20));
    assert_eq!(state.last.at, Duration::from_secs(11), "looks are not shown while paused");
    state.key(Key::Down);
    assert_eq!(state.chosen, 0, "there is one row");
}

fn looks_that_cost_too_much_come_later() {
    let rest = |cost: u64| Tick { cost: Duration::from_millis(cost), ..Tick::default() }.rest();
    assert_eq!([rest(50), rest(200)], [1, 4].map(Duration::from_secs), "5 % of a processor");
}

fn growth_within_the_error_is_none() {
    let state = state(12);
    let rows = state.rows();
    let row = |name: &str| rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("{name}"));
    let session = row("app.cache.Session");
    assert!((session.rate - MIB as f64).abs() < 1.0, "1 MiB per second: {}", session.rate);
    assert_eq!(session.since_start, 11 * MIB as i64);
    assert_eq!((row("builtins.str").rate, row("builtins.str").since_start), (0.0, 0), "4 KiB of 64 KiB");
}

fn both_ends_of_a_difference_may_be_off() {
    let look = |seconds: u64, is_exact: bool, rows: Vec<TickRow>| Tick {
        at: Duration::from_secs(seconds),
        is_exact,
        rows,
        ..Tick::default()
    };
    // An estimate, then a count within its error, of an idle process; a type that the sample missed.
    let mut state = TopState::new(String::new());
    state.add(look(0, false, vec![row("app.Old", 10, 1000, 500)]));
    state.add(look(1, true, vec![row("app.Old", 12, 1200, 0), row("app.Rare", 1, 5000, 0)]));
    let changes: Vec<(f64, i64)> = state.rows().iter().map(|row| (row.rate, row.since_start)).collect();
    assert_eq!(changes, [(0.0, 0), (0.0, 0)]);
    // What was counted before and after is known, and so is what was not there.
    state.add(look(2, true, vec![row("app.Old", 30, 3000, 0), row("app.New", 4, 400, 0)]));
    let since = |name: &str| state.rows().iter().find(|row| row.name == name).map(|row| row.since_start);
    assert_eq!((since("app.Old"), since("app.New")), (Some(2000), Some(400)));
}

fn the_limit_is_reached_in_time() {
    let grown = state(12);
    // 501 MiB at 1 MiB per second.
    assert_eq!(grown.time_left(), Some(Duration::from_secs(501)));
    let mut still = TopState::new(String::new());
    (0..5).for_each(|n| still.add(Tick { at: Duration::from_secs(n), ..look(1) }));
    assert_eq!(still.time_left(), None);
}

fn lines_without_a_terminal() {
    let Some(interpreter) = interpreters::any() else { return skipped("top", "no interpreter found") };
    let target = Target::spawn_blocked(&interpreter, common::SMALL, &[], &[]).expect("a target starts");
    let pid = target.pid().to_string();
    let run = |words: &[&str]| tool::run(words).and_then(tool::Run::ok).expect("it ends well").text();
    let text = run(&["top", "--count", "2", "--interval", "200ms", &pid]);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.lines().all(|line| line.contains("RSS ") && line.contains(" objects, ")), "{text}");
    let lines = run(&["top", "--json", "--count", "2", "--interval", "200ms", &pid]);
    for line in lines.lines() {
        let document = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(schemas::objections("top", &document), [""; 0]);
    }
    assert_eq!(lines.lines().count(), 2);
}

fn it_ends_when_the_target_does() {
    let Some(interpreter) = interpreters::any() else { return skipped("top", "no interpreter found") };
    let mut target = Target::spawn_blocked(&interpreter, common::SMALL, &[], &[]).expect("a target starts");
    let mut command = heapsonde(&["top", "--json", "--interval", "200ms", &target.pid().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut top = command.spawn().expect("it starts");
    let mut lines = BufReader::new(top.stdout.take().expect("piped")).lines();
    lines.next().expect("a line").expect("text");
    target.write(b"x").expect("it reads, and ends");
    target.wait().expect("it ended");
    // The last line ends when top does.
    assert!(lines.all(|line| line.is_ok()));
    let output = top.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("exited"), "{}: {stderr}", output.status);
}

/// A terminal of its own, in tmux.
struct Tmux {
    socket: String,
}

impl Tmux {
    fn run(&self, words: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket, "-f", "/dev/null"]).args(words).output();
        let output = output.expect("tmux starts");
        assert!(output.status.success(), "tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the screen shows a text, and returns the screen.
    fn wait_for(&self, text: &str) -> String {
        let end = Instant::now() + common::DEADLINE;
        loop {
            let screen = self.run(&["capture-pane", "-p"]);
            if screen.contains(text) {
                return screen;
            }
            assert!(Instant::now() < end, "no {text:?}:\n{screen}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

fn it_runs_in_a_terminal() {
    if !Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success()) {
        return skipped("top in a terminal", "there is no tmux");
    }
    let Some(interpreter) = interpreters::any() else { return skipped("top", "no interpreter found") };
    let mut target = Target::spawn_blocked(&interpreter, common::SMALL, &[], &[]).expect("a target starts");
    let folder = tempfile::tempdir().expect("a folder");
    let tmux = Tmux { socket: format!("heapsonde-{}", std::process::id()) };
    let command = format!(
        "cd '{}' && '{}' top --interval 200ms {}; echo ended with $?; cat",
        folder.path().display(),
        tool::binary(),
        target.pid()
    );
    tmux.run(&["new-session", "-d", "-x", "120", "-y", "30", "sh", "-c", &command]);
    let keys = |keys: &[&str]| tmux.run(&[&["send-keys"], keys].concat());
    let screen = tmux.wait_for("builtins.");
    assert!(screen.contains("RSS ") && screen.contains("q quit"), "{screen}");
    keys(&["w"]);
    let screen = tmux.wait_for("process by process");
    assert!(screen.contains(&format!(" {} ", target.pid())), "{screen}");
    keys(&["Escape"]);
    tmux.wait_for("since start");
    keys(&["S"]);
    tmux.wait_for("Enter: do it");
    keys(&["Enter"]);
    tmux.wait_for(".heap.parquet: ");
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("one").path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let saved =
        tool::run(&["histo", "--json", file.to_str().expect("UTF-8")]).and_then(tool::Run::ok).expect("it reads");
    assert!(saved.json().expect("a document")["totals"]["objects"].as_u64() > Some(1000));
    keys(&["Enter"]);
    tmux.wait_for("Enter: do it");
    keys(&["Enter"]);
    tmux.wait_for("paused for ");
    // The screen is given back, with what was there before.
    target.write(b"x").expect("it reads, and ends");
    let screen = tmux.wait_for("ended with 0");
    assert!(screen.contains("exited while it was read") && !screen.contains("q quit"), "{screen}");
}

/// Processor time of a run of `top` with so many looks, and how long it took.
fn cost_of_looks(pid: u32, looks: u32) -> (f64, f64) {
    let script = format!("'{}' top --json --interval 1s --count {looks} {pid} >/dev/null; times", tool::binary());
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let start = Instant::now();
    let run = tool::finish(command).and_then(tool::Run::ok).expect("it ends well");
    let text = run.text();
    // The second line is of children: `0m1.23s 0m0.45s`.
    let children = text.lines().nth(1).unwrap_or_else(|| panic!("{text}"));
    let seconds = |word: &str| {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m').expect("minutes and seconds");
        minutes.parse::<f64>().expect("a number") * 60.0 + seconds.parse::<f64>().expect("a number")
    };
    (children.split_whitespace().map(seconds).sum(), start.elapsed().as_secs_f64())
}

fn ticks_of_a_second() {
    const HEAP: &str = "import os\nkept = [{'n': n, 's': str(n)} for n in range(700000)]\n\
                        os.write(1, b'ready %d\\n' % os.getpid()); os.read(0, 1)\n";
    let Some(interpreter) = interpreters::any() else { return skipped("top", "no interpreter found") };
    let target = Target::spawn_blocked(&interpreter, HEAP, &[], &[]).expect("a target starts");
    // Attaching is paid once.
    let (once, _) = cost_of_looks(target.pid(), 1);
    let (all, elapsed) = cost_of_looks(target.pid(), 20);
    let share = (all - once) / elapsed;
    assert!(share <= 0.05, "{:.1} % of a processor: {all} - {once} s in {elapsed} s", share * 100.0);
    println!("{:.1} % of a processor: {all} - {once} s in {elapsed} s", share * 100.0);
}
