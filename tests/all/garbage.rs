//! Tests what reports say of garbage: its types and rings, and the state of the collector, as the target itself has it.

use serde_json::Value;

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;

/// Pairs that refer to each other, objects that refer to themselves, and what hangs on them.
const PROGRAM: &str = r"
import gc, json, os, sys
gc.collect()
gc.disable()
gc.set_threshold(900, 7, 5)
class Request: pass
class Reply: pass
def pair():
    one, other = Request(), Reply()
    one.reply, other.request = other, one
    one.body = [b'.' * 100]
def single():
    one = Request()
    one.me = one
for _ in range(1500): pair()
for _ in range(700): single()
kept = Request()
kept.me = kept
gc.garbage.append('not freed')
if 'freeze' in sys.argv[1:]: gc.freeze()
os.write(1, b'ready %d\n' % os.getpid())
print(json.dumps([gc.get_threshold(), gc.get_freeze_count()]), flush=True)
os.read(0, 1)
";

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let chosen = interpreters::one_of_each_kind();
    chosen
        .into_iter()
        .map(|interpreter| {
            TestCase::new(format!("{}/rings", interpreter.name.clone()), move || rings_are_named(&interpreter))
        })
        .collect()
}

fn rings_are_named(interpreter: &Interpreter) -> Result<(), String> {
    let mut target = Target::spawn(interpreter, PROGRAM, &[], &[])?;
    let truth: Value = serde_json::from_str(&target.read_line()?).map_err(|error| error.to_string())?;
    let thresholds = &truth[0];
    target.wait_until_blocked()?;
    let pid = target.pid().to_string();
    let run = tool::run(&["histo", "--by", "holder", "--json", &pid])?.ok()?.json()?;
    let (graph, collector) = (&run["graph"], &run["graph"]["collectors"][0]);
    let garbage = &graph["garbage_details"];
    let objects_of = |name: &str| {
        let types = garbage["types"].as_array().into_iter().flatten();
        types.filter(|row| row["type"] == name).filter_map(|row| row["objects"].as_u64()).sum::<u64>()
    };
    for (name, expected) in
        [("__main__.Request", 2200), ("__main__.Reply", 1500), ("builtins.list", 1500), ("builtins.bytes", 0)]
    {
        // One bytes object is a constant of the code, and no garbage.
        if objects_of(name) != expected {
            return Err(format!("{} of {name} are garbage, not {expected}: {garbage}", objects_of(name)));
        }
    }
    let rings = garbage["rings"].as_array().ok_or("no rings")?;
    let count = |is_asked: &dyn Fn(&[&str]) -> bool| -> u64 {
        let of = |ring: &Value| {
            let steps: Vec<&str> = ring["path"].as_str().unwrap_or_default().split(" -> ").collect();
            // Values are in the instance, or in a dict.
            let classes: Vec<&str> = steps.into_iter().filter(|&step| step != "dict").collect();
            if is_asked(&classes) { ring["count"].as_u64().unwrap_or(0) } else { 0 }
        };
        rings.iter().map(of).sum()
    };
    let pairs = count(&|steps| matches!(steps, ["Request", "Reply", "Request"] | ["Reply", "Request", "Reply"]));
    let singles = count(&|steps| steps == ["Request", "Request"]);
    if (pairs, singles) != (1500, 700) || garbage["ring_count"] != 2200 {
        return Err(format!("{pairs} pairs and {singles} single ones: {garbage}"));
    }
    let has_lists = interpreter.has_gil();
    for (name, expected) in [
        ("automatic", Value::Bool(false)),
        ("uncollectable", 1.into()),
        ("frozen", if has_lists { (truth[1] != 0).into() } else { Value::Null }),
    ] {
        if collector[name] != expected {
            return Err(format!("{name} should be {expected}: {collector}"));
        }
    }
    // Where collections go by steps (3.14), the third threshold is of no use, and the interpreter says 0.
    if (0..2).any(|index| collector["thresholds"][index] != thresholds[index]) {
        return Err(format!("the target has {thresholds}: {collector}"));
    }
    let text = tool::run(&["histo", "--by", "holder", &pid])?.ok()?;
    let all = format!("{}{}", text.text(), text.stderr);
    for line in ["1,500 rings: ", "The collector does not run by itself", "gc.garbage has 1 object"] {
        if !all.contains(line) {
            return Err(format!("{line:?} is missing: {all}"));
        }
    }
    if has_lists {
        let mut frozen = Target::spawn(interpreter, PROGRAM, &["freeze"], &[])?;
        frozen.read_line()?;
        frozen.wait_until_blocked()?;
        let run = tool::run(&["histo", "--by", "holder", "--json", &frozen.pid().to_string()])?.ok()?.json()?;
        if run["graph"]["collectors"][0]["frozen"] != true {
            return Err(format!("objects are frozen: {}", run["graph"]["collectors"]));
        }
    }
    Ok(())
}
