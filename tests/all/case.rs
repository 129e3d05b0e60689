//! A named test. Tests that depend on the interpreters present are made at run time, so `#[test]` is not used here.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;

use libtest_mimic::{Failed, Trial};

/// A test: its name within its module, and what it does.
pub struct TestCase {
    name: String,
    is_ignored: bool,
    body: Box<dyn FnOnce() -> Result<(), Failed> + Send>,
}

impl TestCase {
    /// A test that runs at every landing.
    pub fn new<E: Into<Failed>>(
        name: impl Into<String>,
        body: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> TestCase {
        TestCase { name: name.into(), is_ignored: false, body: Box::new(move || body().map_err(Into::into)) }
    }

    /// A function that panics on failure.
    pub fn of(name: &str, test: fn()) -> TestCase {
        TestCase::new(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    }

    /// Under this condition it runs only with `--ignored`.
    pub fn ignored_if(self, condition: bool) -> TestCase {
        TestCase { is_ignored: condition, ..self }
    }

    /// The test for the harness, as `MODULE::NAME`.
    pub fn into_trial(self, module: &str) -> Trial {
        let (name, body) = (format!("{module}::{}", self.name), self.body);
        let timed = name.clone();
        Trial::test(name, move || {
            let _timer = Timer { name: timed, start: Instant::now() };
            body()
        })
        .with_ignored_flag(self.is_ignored)
    }
}

/// Writes how long a test took to the file that `HEAPSONDE_TEST_TIMES` names: seconds, a tab, the test's name.
struct Timer {
    name: String,
    start: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        static LINES: Mutex<()> = Mutex::new(());
        let Some(path) = std::env::var_os("HEAPSONDE_TEST_TIMES") else { return };
        let _lock = LINES.lock();
        let file = File::options().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{:.1}\t{}", self.start.elapsed().as_secs_f64(), self.name));
    }
}

/// The named functions as tests.
macro_rules! cases {
    ($($test:ident),+ $(,)?) => {
        vec![$($crate::case::TestCase::of(stringify!($test), $test)),+]
    };
}
pub(crate) use cases;
