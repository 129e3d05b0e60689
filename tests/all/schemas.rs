//! Validates JSON documents with the schemas in `fixtures/schemas`.
//!
//! The schemas use a small part of JSON Schema, and a keyword that is not known here is an error. A schema describes
//! every member that a document has, so that nothing appears in one without being described.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::case::{TestCase, cases};
use crate::common::target::Target;
use crate::common::tool::{self, Run};
use crate::common::{self, interpreters, skipped};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        documents_of_a_process_keep_to_their_schemas,
        a_recording_keeps_to_its_schema,
        the_validator_finds_what_is_wrong,
        schemas_are_themselves_in_order,
        quiet_is_quiet_and_errors_are_not,
        each_verb_has_a_manual_page,
    ]
}

/// The schema of this name.
fn schema(name: &str) -> Value {
    let path = folder().join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/schemas")
}

/// What a document does not keep of the schema of this name.
pub fn objections(name: &str, document: &Value) -> Vec<String> {
    let root = schema(name);
    let mut found = Vec::new();
    check(&root, &root, document, name, &mut found);
    found
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    const KNOWN: &[&str] = &[
        "$schema",
        "$comment",
        "$defs",
        "$ref",
        "title",
        "type",
        "required",
        "properties",
        "items",
        "enum",
        "const",
        "minimum",
    ];
    let Some(keywords) = schema.as_object() else { return found.push(format!("{at}: the schema is no object")) };
    found.extend(keywords.keys().filter(|it| !KNOWN.contains(&it.as_str())).map(|it| format!("{at}: unknown {it}")));
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        let Some(target) = pointer else { return found.push(format!("{at}: {reference} leads nowhere")) };
        return check(root, target, value, at, found);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_of(value, name)) {
        return found.push(format!("{at}: {value} is not {types:?}"));
    }
    if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
        found.push(format!("{at}: {value} is none of {}", schema["enum"]));
    }
    if keywords.get("const").is_some_and(|only| only != value) {
        found.push(format!("{at}: {value} is not {}", schema["const"]));
    }
    if schema["minimum"].as_f64().zip(value.as_f64()).is_some_and(|(least, value)| value < least) {
        found.push(format!("{at}: {value} is less than {}", schema["minimum"]));
    }
    if let Some(members) = value.as_object() {
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        found.extend(required.filter(|name| !members.contains_key(*name)).map(|name| format!("{at}: no {name}")));
        for (name, member) in members {
            match schema["properties"].get(name) {
                Some(schema) => check(root, schema, member, &format!("{at}.{name}"), found),
                None => found.push(format!("{at}: {name} is not described")),
            }
        }
    }
    if let (Some(items), Some(elements)) = (keywords.get("items"), value.as_array()) {
        elements.iter().enumerate().for_each(|(index, it)| check(root, items, it, &format!("{at}[{index}]"), found));
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[track_caller]
fn keeps(name: &str, document: &Value) {
    let found = objections(name, document);
    assert!(found.is_empty(), "{}", found[..found.len().min(10)].join("\n"));
}

fn run(args: &[&str]) -> Run {
    tool::run(args).and_then(Run::ok).expect("the tool ends well")
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_slice(&run(args).stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn documents_of_a_process_keep_to_their_schemas() {
    let Some(interpreter) = interpreters::any() else { return skipped("schemas", "no interpreter found") };
    let target = Target::spawn_blocked(&interpreter, common::SMALL, &[], &[]).expect("a target starts");
    let pid = target.pid().to_string();
    let documents: &[(&str, &[&str])] = &[
        ("histo", &["histo", "--json"]),
        ("histo", &["histo", "--json", "--retained", "-n", "5"]),
        ("histo", &["histo", "--json", "--by", "module"]),
        ("histo", &["histo", "--json", "--by", "holder"]),
        ("histo", &["histo", "--json", "--sample", "--seed", "1"]),
        ("histo-subprocesses", &["histo", "--json", "--subprocesses"]),
        ("flamegraph", &["flamegraph", "-f", "json"]),
        ("flamegraph", &["flamegraph", "-f", "json", "--view", "types"]),
        ("why-owners", &["why", "--json"]),
        ("memory", &["memory", "--json"]),
        ("memory", &["memory", "--json", "--native"]),
        ("memory-subprocesses", &["memory", "--json", "--subprocesses"]),
        ("doctor", &["doctor", "--json"]),
        ("leaks", &["leaks", "--json", "--for", "1s", "--looks", "3", "--no-record"]),
    ];
    for (schema, words) in documents {
        let words: Vec<&str> = words.iter().copied().chain([pid.as_str()]).collect();
        keeps(schema, &json_of(&words));
    }
    keeps("why", &json_of(&["why", "--json", &pid, "__main__.Node"]));
    keeps("ps", &json_of(&["ps", "--json"]));
    let dumps: [&[&str]; 3] = [&["dump"], &["dump", "--references"], &["dump", "--references", "--labels"]];
    for words in dumps {
        let words: Vec<&str> = words.iter().copied().chain([pid.as_str()]).collect();
        let dump = run(&words).text();
        let lines: Vec<&str> = dump.lines().step_by(101).collect();
        assert!(lines.len() > 100, "{} lines", lines.len());
        for line in lines {
            keeps("dump", &serde_json::from_str(line).expect("a line of JSON"));
        }
    }
    // What cannot be read has a document as well.
    let gone = tool::run(&["doctor", "--json", "2147483647"]).expect("it ends");
    keeps("doctor", &serde_json::from_slice(&gone.stdout).expect("JSON"));
}

fn a_recording_keeps_to_its_schema() {
    let Some(interpreter) = interpreters::find_and_say().into_iter().find(interpreters::Interpreter::has_gil) else {
        return skipped("the schema of recordings", "no interpreter with a GIL");
    };
    let target = Target::spawn(&interpreter, &common::program("leaking.py"), &["dict"], &[]).expect("a target");
    keeps("record", &json_of(&["record", "-f", "json", "-d", "1500ms", &target.pid().to_string()]));
}

fn the_validator_finds_what_is_wrong() {
    let right = json!({"schema_version": 1, "pid": 1, "command": "", "readable": true, "checks": [],
                       "problem": null, "remedy": null});
    keeps("doctor", &right);
    let wrong: [(&str, Value); 6] = [
        ("schema_version", json!(2)),
        ("pid", json!("1")),
        ("pid", json!(1.5)),
        ("readable", json!(null)),
        ("checks", json!([{"name": "x", "result": "perhaps", "detail": ""}])),
        ("surprise", json!(1)),
    ];
    for (name, value) in wrong {
        let mut document = right.clone();
        document[name] = value;
        let found = objections("doctor", &document);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert!(found[0].contains(name) || found[0].contains("checks"), "{found:?}");
    }
    let mut document = right;
    document.as_object_mut().expect("an object").remove("problem");
    assert_eq!(objections("doctor", &document), ["doctor: no problem"]);
}

fn schemas_are_themselves_in_order() {
    let mut names = 0;
    for entry in std::fs::read_dir(folder()).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let schema = schema(path.file_stem().and_then(|stem| stem.to_str()).expect("a name"));
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{}", path.display());
        assert!(schema["title"].is_string(), "{}", path.display());
        names += 1;
    }
    assert!(names >= 12, "{names} schemas");
}

fn quiet_is_quiet_and_errors_are_not() {
    let Some(interpreter) = interpreters::any() else { return skipped("--quiet", "no interpreter found") };
    let target = Target::spawn_blocked(&interpreter, common::SMALL, &[], &[]).expect("a target starts");
    let pid = target.pid().to_string();
    let words = ["flamegraph", "-f", "folded", &pid];
    let (loud, quiet) = (run(&words), run(&["--quiet", "flamegraph", "-f", "folded", &pid]));
    assert!(loud.stderr.contains("paused") && quiet.stderr.is_empty(), "{} and {}", loud.stderr, quiet.stderr);
    assert_eq!(loud.text(), quiet.text());
    let refused = tool::run(&["histo", "--quiet", "2147483647"]).expect("it ends");
    assert!(refused.status.code() == Some(2) && refused.stderr.contains("2147483647"), "{}", refused.stderr);
}

fn each_verb_has_a_manual_page() {
    let help = run(&["--help"]).text();
    assert!(help.contains("Exit codes: 0 done"), "{help}");
    let page = run(&["man"]).text();
    assert!(page.contains(".TH heapsonde") && page.contains("Exit codes"), "{page}");
    let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What continues a line stands farther to the right.
    let verbs = verbs.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let verbs: Vec<&str> = verbs.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.contains(&"histo") && verbs.contains(&"report"), "{verbs:?}");
    for verb in verbs.into_iter().filter(|verb| *verb != "help") {
        let page = run(&["man", verb]).text();
        assert!(page.contains(&format!(".TH heapsonde-{verb}")), "{page}");
    }
    assert_eq!(tool::run(&["man", "frobnicate"]).expect("it ends").status.code(), Some(2));
}
