//! Progress bars on terminals, for what takes longer than a second.

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::heap::census::Progress;
use crate::inspect::open::Observer;

use super::notes;

/// How long to wait before a bar appears.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the bar moves.
const STEP: Duration = Duration::from_millis(100);

/// A bar of bytes read.
#[derive(Default)]
pub struct Bar {
    running: Mutex<Option<Running>>,
}

/// No bar: the screen is used for something else.
pub struct NoBar;

impl Observer for NoBar {
    fn begin(&self, _: &Arc<Progress>, _: u64) {}
    fn end(&self) {}
}

/// The thread that draws a bar until its channel closes.
struct Running {
    done: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Observer for Bar {
    fn begin(&self, progress: &Arc<Progress>, total_bytes: u64) {
        if notes::are_silent() || !std::io::stderr().is_terminal() {
            return;
        }
        let progress = Arc::clone(progress);
        let (done, is_done) = mpsc::channel();
        let thread = thread::spawn(move || draw(&progress, total_bytes, &is_done));
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running { done, thread });
    }

    fn end(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { done, thread }) = running {
            drop(done);
            // If the thread panicked, there is no bar to clear.
            let _ = thread.join();
        }
    }
}

fn draw(progress: &Progress, total_bytes: u64, is_done: &mpsc::Receiver<()>) {
    if is_done.recv_timeout(PATIENCE) != Err(mpsc::RecvTimeoutError::Timeout) {
        return;
    }
    let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} read, {eta} left") {
        bar.set_style(style);
    }
    while is_done.recv_timeout(STEP) == Err(mpsc::RecvTimeoutError::Timeout) {
        bar.set_position(progress.bytes.load(Ordering::Relaxed));
    }
    bar.finish_and_clear();
}

/// A bar of seconds.
pub struct Seconds(Option<ProgressBar>);

impl Seconds {
    /// Shows a bar if standard error is a terminal.
    pub fn start(total: Duration) -> Seconds {
        if notes::are_silent() || !std::io::stderr().is_terminal() {
            return Seconds(None);
        }
        let bar = ProgressBar::with_draw_target(Some(total.as_secs()), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} s, Ctrl-C ends it") {
            bar.set_style(style);
        }
        Seconds(Some(bar))
    }

    /// Moves the bar.
    pub fn set(&self, elapsed: Duration) {
        if let Some(bar) = &self.0 {
            bar.set_position(elapsed.as_secs());
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
