//! A progress bar for what takes longer than a second, on a terminal only.

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::heap::census::Progress;
use crate::inspect::open::Observer;

/// How long nothing is shown.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the bar moves.
const STEP: Duration = Duration::from_millis(100);

/// A bar of bytes that have been read.
#[derive(Default)]
pub struct Bar {
    running: Mutex<Option<Running>>,
}

/// The thread that draws a bar until the channel ends.
struct Running {
    done: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Observer for Bar {
    fn begin(&self, progress: &Arc<Progress>, total_bytes: u64) {
        if !std::io::stderr().is_terminal() {
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
            // A bar that failed has nothing to take away.
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

/// A bar of seconds, on a terminal only.
pub struct Seconds(Option<ProgressBar>);

impl Seconds {
    /// Shows how long it will take.
    pub fn start(total: Duration) -> Seconds {
        if !std::io::stderr().is_terminal() {
            return Seconds(None);
        }
        let bar = ProgressBar::with_draw_target(Some(total.as_secs()), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} s, Ctrl-C ends it") {
            bar.set_style(style);
        }
        Seconds(Some(bar))
    }

    /// Moves it.
    pub fn set(&self, elapsed: Duration) {
        if let Some(bar) = &self.0 {
            bar.set_position(elapsed.as_secs());
        }
    }

    /// Takes it away.
    pub fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
