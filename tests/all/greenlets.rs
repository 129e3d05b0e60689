//! Tests that what suspended greenlets hold is named by function, line and local variable.
//!
//! `HEAPSONDE_GREENLET` gives the package's directory, with `{}` for the minor version: `/packages/3.{}`.

use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::skipped;
use crate::common::target::Target;
use crate::common::tool;

/// Fifty greenlets wait in a function that another one has called; five more have ended, one is running, one has not
/// begun.
const PROGRAM: &str = r"
import greenlet, os
class Outer: pass
class Inner: pass
class Ended: pass
class Running: pass
main = greenlet.getcurrent()
def wait(i):
    inner = Inner()
    main.switch()
    return inner
def handle(i):
    outer = [Outer()]
    return wait(i)
def end(i):
    ended = Ended()
waiting = [greenlet.greenlet(handle) for _ in range(50)]
for i, one in enumerate(waiting): one.switch(i)
ended = [greenlet.greenlet(end) for _ in range(5)]
for i, one in enumerate(ended): one.switch(i)
never = greenlet.greenlet(handle)
def run():
    mine = Running()
    os.write(1, b'ready %d\n' % os.getpid())
    os.read(0, 1)
greenlet.greenlet(run).switch()
";

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let test = |interpreter: Interpreter| {
        TestCase::new(interpreter.name.clone(), move || locals_of_greenlets_are_named(&interpreter))
    };
    interpreters::find_and_say().into_iter().map(test).collect()
}

fn locals_of_greenlets_are_named(interpreter: &Interpreter) -> Result<(), String> {
    let Ok(packages) = std::env::var("HEAPSONDE_GREENLET") else {
        skipped(&interpreter.name, "HEAPSONDE_GREENLET does not say where greenlet is");
        return Ok(());
    };
    let packages = packages.replace("{}", &interpreter.version.1.to_string());
    if let Err(why) =
        interpreter.starts_with(&[("PYTHONPATH", &packages)]).and_then(|()| imports(interpreter, &packages))
    {
        skipped(&interpreter.name, &why);
        return Ok(());
    }
    let target = Target::spawn(interpreter, PROGRAM, &[], &[("PYTHONPATH", &packages)])?;
    let pid = target.pid().to_string();
    let expected = [
        ("Outer", 50, "greenlet ", "handle() at <string>:14, local outer[0]"),
        ("Inner", 50, "greenlet ", "wait() at <string>:10, local inner"),
        ("Running", 1, "thread ", "run() at <string>:25, local mine"),
    ];
    for (class, objects, starts, ends) in expected {
        let answer = tool::run(&["why", "--json", &pid, class])?.ok()?.json()?;
        let chains = answer["chains"].as_array().ok_or("no chains")?;
        let [chain] = chains.as_slice() else { return Err(format!("{class}: {chains:#?}")) };
        let text = chain["chain"].as_str().unwrap_or_default();
        if chain["objects"] != objects || !text.starts_with(starts) || !text.ends_with(ends) {
            return Err(format!("{class}: {chain:#}"));
        }
    }
    // What has ended holds nothing.
    let gone = tool::run(&["why", "--json", &pid, "Ended"])?;
    let none = Value::Array(Vec::new());
    match gone.status.success() && gone.json()?["chains"] != none {
        true => Err(format!("an ended greenlet holds something: {}", gone.text())),
        false => Ok(()),
    }
}

fn imports(interpreter: &Interpreter, packages: &str) -> Result<(), String> {
    let mut command = interpreter.command();
    let output =
        command.env("PYTHONPATH", packages).args(["-c", "import greenlet"]).output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(format!("no greenlet in {packages}")) }
}
