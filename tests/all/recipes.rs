//! Tests the recipes for other tools: pytest, and what `kubectl debug` asks a cluster for.

use std::process::Command;

use serde_json::{Value, json};

use crate::case::{TestCase, cases};
use crate::common::tool::{self, finish};
use crate::common::{interpreters, skipped};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![a_test_fails_if_a_named_type_grows, kubectl_asks_for_what_the_recipe_says]
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

fn kubectl_asks_for_what_the_recipe_says() {
    let mut version = Command::new("kubectl");
    version.args(["version", "--client"]);
    if !finish(version).is_ok_and(|run| run.status.success()) {
        return skipped("the recipe for Kubernetes", "there is no kubectl");
    }
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/packaging/kubectl.py"));
    let run = finish(command).expect("it ends");
    let text = run.text();
    assert!(run.status.success(), "{text}{}", run.stderr);
    let asked: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for container in &asked {
        assert_eq!(container["path"], "/api/v1/namespaces/default/pods/web/ephemeralcontainers");
        assert_eq!(container["targetContainerName"], "app", "it is in the PID namespace of this one");
        assert_eq!(container["image"], "registry.example/heapsonde");
        assert_eq!(container["command"], json!(["/heapsonde", "histo", "--by", "holder", "1"]));
    }
    let rights: Vec<&Value> = asked.iter().map(|container| &container["securityContext"]).collect();
    let as_the_recipe_says = [json!({"privileged": true}), json!({"capabilities": {"add": ["SYS_PTRACE"]}})];
    assert_eq!(rights, as_the_recipe_says.iter().collect::<Vec<_>>());
}
