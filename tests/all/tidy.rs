//! Checks the structure of the sources: which folder may use which, no cycles, short files, short lines, one type per
//! name, and what is restricted to one folder.
//!
//! Reads the sources in `src` as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::case::{TestCase, cases};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        arrows_between_folders_run_one_way,
        no_files_use_each_other_in_a_circle,
        files_and_lines_are_short,
        no_type_name_is_defined_in_two_folders,
        only_python_compares_versions,
        only_the_command_line_prints,
        only_process_has_unsafe_code,
        each_rule_can_be_broken,
    ]
}

/// The folders of `src`, lowest first. Each may use those before it, unless [`NARROW`] says less.
const FOLDERS: &[&str] = &[
    "process",
    "python",
    "allocator",
    "heap",
    "references",
    "graph",
    "stats",
    "analysis",
    "estimate",
    "record",
    "snapshot",
    "inspect",
    "report",
    "cli",
    "tui",
];

/// Folders that may use only these of the folders before them.
const NARROW: &[(&str, &[&str])] = &[
    ("stats", &[]),
    // The result of an estimate is a histogram.
    ("estimate", &["process", "python", "allocator", "heap", "stats", "analysis"]),
    ("record", &["process", "python", "stats"]),
    ("snapshot", &["process", "python", "allocator", "heap", "references", "graph", "analysis"]),
];

/// The folder of a module that may use every folder: the command line starts the live screen, and the screen shares
/// the command line's arguments.
const ANY: &[&str] = &["cli", "tui"];

/// Lines of a file, and columns of a line.
const LINES_MAX: usize = 600;
const COLUMNS_MAX: usize = 120;
/// Where the program may print: the folders, and the file of the program itself.
const PRINTERS: &[&str] = &["cli", "tui", "main"];

/// A source file: its path as a module (`heap::worker::pools`), and its text without tests and comments.
struct Source {
    module: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let module = path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        Source { module, code: code_of(text) }
    }

    /// The folder of `src` that it is in; its own name for a file that is in none.
    fn folder(&self) -> &str {
        self.module.split("::").next().unwrap_or_default()
    }
}

/// A text up to its unit tests, without comments and the insides of string literals.
fn code_of(text: &str) -> String {
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    let mut code = String::new();
    for line in text[..end].lines() {
        let mut rest = line.trim_start();
        if rest.starts_with("//") {
            rest = "";
        }
        let mut is_string = false;
        let mut before = ' ';
        for char in rest.chars() {
            let is_quote = char == '"' && before != '\\' && before != '\'';
            if !is_string || is_quote {
                code.push(char);
            }
            is_string ^= is_quote;
            before = if before == '\\' && char == '\\' { ' ' } else { char };
        }
        code.push('\n');
    }
    code
}

/// All paths of this crate that the code names, in `use` lines and elsewhere: `crate::a::b`, and in `use` lines those
/// that begin with `super` or `self`.
fn paths(source: &Source) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let own: Vec<&str> = source.module.split("::").collect();
    for statement in uses(&source.code) {
        for leaf in leaves(&statement) {
            let mut at: Vec<&str> = own.clone();
            let mut parts = leaf.split("::").peekable();
            match parts.peek() {
                Some(&"crate") => {
                    parts.next();
                    at.clear();
                }
                Some(&"self") => {
                    parts.next();
                }
                Some(&"super") => {}
                _ => continue,
            }
            while parts.peek() == Some(&"super") {
                parts.next();
                at.pop();
            }
            at.extend(parts);
            found.insert(at.join("::"));
        }
    }
    for (start, _) in source.code.match_indices("crate::") {
        let path = &source.code[start + "crate::".len()..];
        let end = path.find(|char: char| !(char.is_alphanumeric() || char == '_' || char == ':')).unwrap_or(path.len());
        found.insert(path[..end].trim_end_matches(':').to_owned());
    }
    found
}

/// The `use` statements at the start of a line, without `use` and `;`, white space removed.
fn uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let line_start = rest[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let before = rest[line_start..at].trim();
        let is_statement = before.is_empty() || before == "pub" || before.starts_with("pub(");
        let Some(end) = rest[at..].find(';') else { break };
        if is_statement {
            let statement = rest[at + "use ".len()..at + end].replace(" as ", "@");
            found.push(statement.chars().filter(|char| !char.is_whitespace()).collect());
            rest = &rest[at + end..];
        } else {
            rest = &rest[at + "use ".len()..];
        }
    }
    found
}

/// The single paths of a `use` statement that may have braces in braces.
fn leaves(statement: &str) -> Vec<String> {
    let Some(open) = statement.find('{') else {
        return vec![statement.split('@').next().unwrap_or_default().to_owned()];
    };
    let (prefix, inside) = (&statement[..open], statement[open + 1..].strip_suffix('}').unwrap_or_default());
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, char) in inside.char_indices().chain([(inside.len(), ',')]) {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 && at > start => {
                found.extend(leaves(&format!("{prefix}{}", &inside[start..at])));
                start = at + 1;
            }
            ',' if depth == 0 => start = at + 1,
            _ => {}
        }
    }
    found
}

/// Which modules each module uses: the longest part of each path that is one.
fn graph(sources: &[Source]) -> BTreeMap<&str, BTreeSet<&str>> {
    let modules: BTreeSet<&str> = sources.iter().map(|source| source.module.as_str()).collect();
    let mut graph = BTreeMap::new();
    for source in sources {
        let mut used = BTreeSet::new();
        for path in paths(source) {
            let mut path = path.as_str();
            loop {
                if let Some(&module) = modules.get(path) {
                    if module != source.module {
                        used.insert(module);
                    }
                    break;
                }
                let Some((shorter, _)) = path.rsplit_once("::") else { break };
                path = shorter;
            }
        }
        graph.insert(source.module.as_str(), used);
    }
    graph
}

/// Uses of a folder that [`FOLDERS`] and [`NARROW`] do not allow.
fn wrong_arrows(sources: &[Source]) -> Vec<String> {
    let folder = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut wrong = Vec::new();
    for (module, used) in graph(sources) {
        let own = folder(module);
        if own == "lib" || own == "main" {
            continue;
        }
        let Some(place) = FOLDERS.iter().position(|&name| name == own) else {
            wrong.push(format!("{module} is in a folder that is not in the list"));
            continue;
        };
        let may_use = NARROW.iter().find(|(name, _)| *name == own).map_or(&FOLDERS[..place], |(_, narrow)| *narrow);
        for other in used {
            let to = folder(other);
            if to != own && !ANY.contains(&own.as_str()) && !may_use.contains(&to.as_str()) {
                wrong.push(format!("{module} uses {other}"));
            }
        }
    }
    wrong
}

/// Circles of modules, each as its members.
fn circles(sources: &[Source]) -> Vec<String> {
    let graph = graph(sources);
    let reached = |from: &str| {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            for &next in graph.get(module).into_iter().flatten() {
                if reached.insert(next) {
                    open.push(next);
                }
            }
        }
        reached
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = graph.keys().map(|&module| (module, reached(module))).collect();
    let mut found = BTreeSet::new();
    for (&module, reached) in &all {
        if reached.contains(module) {
            let members = reached.iter().filter(|&&other| all.get(other).is_some_and(|back| back.contains(module)));
            found.insert(members.copied().collect::<Vec<&str>>().join(", "));
        }
    }
    found.into_iter().collect()
}

/// Files that are too long, and lines.
fn too_long(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{name} has {lines} lines"));
    }
    // rustfmt wraps code, but no text in quotes; a command in a comment stays on its line.
    let is_text = |line: &str| match line.trim_start().strip_prefix("//") {
        Some(comment) => comment.trim_start_matches(['/', '!']).starts_with("     "),
        None => line.contains('"'),
    };
    let is_long = |line: &str| line.chars().count() > COLUMNS_MAX && !is_text(line);
    for (index, line) in text.lines().enumerate().filter(|(_, line)| is_long(line)) {
        found.push(format!("{name}:{} has {} columns", index + 1, line.chars().count()));
    }
    found
}

/// Names of types that more than one folder defines.
fn shared_type_names(sources: &[Source]) -> Vec<String> {
    let mut folders: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for source in sources {
        for line in source.code.lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
            let line = line.strip_prefix("pub(super) ").unwrap_or(line);
            let keywords = ["struct ", "enum ", "trait ", "type ", "union "];
            let Some(rest) = keywords.iter().find_map(|keyword| line.strip_prefix(keyword)) else { continue };
            let end = rest.find(|char: char| !(char.is_alphanumeric() || char == '_')).unwrap_or(rest.len());
            if rest.starts_with(char::is_uppercase)
                && !(rest[end..].trim_start().starts_with('=') && line.starts_with(' '))
            {
                folders.entry(rest[..end].to_owned()).or_default().insert(source.folder());
            }
        }
    }
    let shared = folders.into_iter().filter(|(_, folders)| folders.len() > 1);
    shared.map(|(name, folders)| format!("{name} is defined in {folders:?}")).collect()
}

/// Comparisons of Python's version: of its parts, or with a release.
fn version_comparisons(source: &Source) -> Vec<String> {
    let is_comparison = |line: &str| {
        let is_part = |part: &str| {
            line.match_indices(part).any(|(at, _)| {
                let behind = line[at + part.len()..].trim_start();
                ["<", ">", "==", "!="].iter().any(|operator| behind.starts_with(operator)) && !behind.starts_with("=>")
            })
        };
        is_part(".minor") || is_part(".major") || line.contains("Version::release(")
    };
    lines_that(source, is_comparison)
}

/// Lines that print.
fn prints(source: &Source) -> Vec<String> {
    let is_print = |line: &str| {
        ["println!", "print!", "eprintln!", "eprint!", "dbg!", "stdout()"].iter().any(|print| {
            line.match_indices(print)
                .any(|(at, _)| !line[..at].ends_with(|char: char| char.is_alphanumeric() || char == '_'))
        })
    };
    lines_that(source, is_print)
}

/// Lines with `unsafe`.
fn unsafe_lines(source: &Source) -> Vec<String> {
    lines_that(source, |line| {
        line.split(|char: char| !(char.is_alphanumeric() || char == '_')).any(|word| word == "unsafe")
    })
}

fn lines_that(source: &Source, is_it: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = source.code.lines().enumerate().filter(|(_, line)| is_it(line));
    lines.map(|(index, line)| format!("{}:{}: {}", source.module, index + 1, line.trim())).collect()
}

/// All files with this ending under a folder, with their paths from it.
fn files(folder: &Path, ending: &str) -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).expect("the folder can be read") {
            let path = entry.expect("the entry can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == ending) {
                let name = path.strip_prefix(folder).expect("it is in the folder").display().to_string();
                found.push((name, fs::read_to_string(&path).expect("the file can be read")));
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    files(&root, "rs").iter().map(|(path, text)| Source::new(path, text)).collect()
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

fn arrows_between_folders_run_one_way() {
    none("arrows that the house does not have", wrong_arrows(&sources()));
}

fn no_files_use_each_other_in_a_circle() {
    none("circles", circles(&sources()));
}

fn files_and_lines_are_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "tests", "fixtures"] {
        for (path, text) in files(&root.join(folder), "rs") {
            found.extend(too_long(&format!("{folder}/{path}"), &text));
        }
    }
    none("too long", found);
}

fn no_type_name_is_defined_in_two_folders() {
    none("names of several types", shared_type_names(&sources()));
}

fn only_python_compares_versions() {
    let sources = sources();
    let others = sources.iter().filter(|source| source.folder() != "python");
    none("comparisons of versions", others.flat_map(version_comparisons).collect());
}

fn only_the_command_line_prints() {
    let sources = sources();
    let others = sources.iter().filter(|source| !PRINTERS.contains(&source.folder()));
    none("prints", others.flat_map(prints).collect());
}

fn only_process_has_unsafe_code() {
    let sources = sources();
    let others = sources.iter().filter(|source| source.folder() != "process" && source.module != "lib");
    none("unsafe code", others.flat_map(unsafe_lines).collect());
}

fn each_rule_can_be_broken() {
    let source = |path: &str, text: &str| Source::new(path, text);
    let upward = [source("python/a.rs", "use crate::heap::b::{C, D};\n"), source("heap/b.rs", "")];
    assert_eq!(wrong_arrows(&upward), ["python::a uses heap::b"]);
    let downward = [source("heap/b.rs", "use crate::python::a;\n"), source("python/a.rs", "")];
    assert_eq!(wrong_arrows(&downward), Vec::<String>::new());
    assert_eq!(wrong_arrows(&[source("attic/a.rs", "")]).len(), 1);
    let narrow = [source("estimate/a.rs", "use crate::graph::b;\n"), source("graph/b.rs", "")];
    assert_eq!(wrong_arrows(&narrow), ["estimate::a uses graph::b"]);
    // Not only in `use` lines.
    let inline = [source("python/a.rs", "fn f() { crate::heap::b::c() }\n"), source("heap/b.rs", "")];
    assert_eq!(wrong_arrows(&inline).len(), 1);

    let circle = [
        source("heap/a.rs", "use super::b::X;\n"),
        source("heap/b.rs", "pub(crate) use super::{c::{self, Y}, d as e};\n"),
        source("heap/c/mod.rs", "use crate::heap::a;\n"),
        source("heap/d.rs", "// use super::a;\n"),
    ];
    assert_eq!(circles(&circle), ["heap::a, heap::b, heap::c"]);
    assert_eq!(circles(&circle[..2]), Vec::<String>::new());

    assert_eq!(too_long("a", &"x\n".repeat(600)), Vec::<String>::new());
    assert_eq!(too_long("a", &"x\n".repeat(601)), ["a has 601 lines"]);
    assert_eq!(too_long("a", &format!("// {}\n", "é".repeat(118))), ["a:1 has 121 columns"]);

    let twice = [source("heap/a.rs", "pub struct Found {\n"), source("graph/b.rs", "enum Found {\n")];
    assert_eq!(shared_type_names(&twice).len(), 1);
    let once = [source("heap/a.rs", "pub struct Found {\n"), source("heap/b.rs", "enum Found {\n")];
    assert_eq!(shared_type_names(&once), Vec::<String>::new());

    let code = "fn f() {\n    if version.minor >= 12 {}\n    // .minor > 1\n    \"a.minor > 1\";\n}\n";
    assert_eq!(version_comparisons(&source("heap/a.rs", code)).len(), 1);
    assert_eq!(version_comparisons(&source("heap/a.rs", "let a = b < Version::release(3, 12, 0);")).len(), 1);
    let code = "fn f() {\n    println!(\"x\");\n    // print!\n}\n#[cfg(test)]\nmod tests {\n    println!()\n}\n";
    assert_eq!(prints(&source("heap/a.rs", code)), ["heap::a:2: println!(\"\");"]);
    assert_eq!(unsafe_lines(&source("heap/a.rs", "unsafe {}\n// unsafe\nlet unsafely = 1;\n")).len(), 1);
}
