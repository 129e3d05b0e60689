//! Tests the recipes for other tools that are files of their own: pytest.

use crate::case::{TestCase, cases};
use crate::common::tool::{self, finish};
use crate::common::{interpreters, skipped};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![a_test_fails_if_a_named_type_grows]
}

fn a_test_fails_if_a_named_type_grows() {
    let found = interpreters::find_and_say();
    let with_pytest = found.iter().find_map(|interpreter| Some((interpreter, interpreters::pytest(interpreter)?)));
    let Some((interpreter, packages)) = with_pytest else {
        return skipped("the recipe for pytest", "no interpreter from 3.11 on has a pytest");
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/pytest");
    let mut command = interpreter.command();
    command.args(["-m", "pytest", "-p", "no:cacheprovider", "-v", folder]);
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1").env("HEAPSONDE", tool::binary());
    let run = finish(command).expect("it ends");
    let text = run.text();
    assert_eq!(run.status.code(), Some(1), "{text}{}", run.stderr);
    assert!(text.contains("1 failed, 3 passed"), "{text}");
    assert!(text.contains("test_sessions_stay FAILED"), "{text}");
    assert!(text.contains("test_shop.Session: 0 objects before the test, 100 after it"), "{text}");
    assert!(text.contains("test_shop.SESSIONS["), "it names what holds them: {text}");
}
