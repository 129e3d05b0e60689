//! Tests `watch`: its figures against `histo` of the same process, its clients, and how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::case::{TestCase, cases};
use crate::common::target::Target;
use crate::common::tool::{self, heapsonde};
use crate::common::{self, DEADLINE, interpreters, skipped};

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        a_page_adds_up_and_agrees_with_histo,
        hostile_clients_are_cut_off_and_do_not_hold_up_the_reading,
        processes_that_match_come_and_go,
        profiles_are_pushed_for_agents,
        the_dashboard_asks_for_what_is_served,
        prometheus_scrapes_it,
        wrong_options_are_explained,
    ]
}

/// A small heap that stands still, with these words in its command line.
fn small(words: &[&str]) -> Option<Target> {
    let Some(interpreter) = interpreters::any() else {
        skipped("watch", "no interpreter found");
        return None;
    };
    Some(Target::spawn_blocked(&interpreter, common::SMALL, words, &[]).expect("a small target starts"))
}

fn watch(words: &[&str]) -> Target {
    Target::start(heapsonde(&[&["watch"], words].concat())).expect("it starts")
}

/// Where it serves.
fn address(watch: &mut Target) -> String {
    watch.wait_until_it_says("/metrics\n").expect("it serves");
    let said = watch.said();
    let url = said.lines().find_map(|line| line.strip_prefix("metrics at http://"));
    url.and_then(|url| url.strip_suffix("/metrics")).unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// A whole answer to a request, head and body.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time limit can be set");
    stream.write_all(request.as_bytes()).expect("it takes the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    (head.to_owned(), body.to_owned())
}

fn scrape(address: &str) -> String {
    let (head, body) = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("text/plain; version=0.0.4"), "{head}");
    body
}

/// The values of a page by name and labels.
fn values(page: &str) -> BTreeMap<(String, BTreeMap<String, String>), f64> {
    let mut values = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut of_series = BTreeMap::new();
        let mut rest = labels.strip_suffix('}').expect("labels end");
        while let Some((key, after)) = rest.split_once("=\"") {
            let end = after.match_indices('"').find(|(at, _)| !after[..*at].ends_with('\\')).expect("a label ends").0;
            let text = after[..end].replace("\\\"", "\"").replace("\\\\", "\\");
            of_series.insert(key.trim_start_matches(',').to_owned(), text);
            rest = &after[end + 1..];
        }
        let value = value.parse().expect("a number");
        assert!(values.insert((name.to_owned(), of_series), value).is_none(), "twice: {line}");
    }
    values
}

/// The values of a metric by one of its labels.
fn by(page: &str, name: &str, label: &str) -> BTreeMap<String, f64> {
    let of = values(page).into_iter().filter(|((metric, _), _)| metric == name);
    of.map(|((_, labels), value)| (labels.get(label).cloned().unwrap_or_default(), value)).collect()
}

/// The value of a metric with one value.
fn one(page: &str, name: &str) -> f64 {
    let found: Vec<f64> = by(page, name, "pid").into_values().collect();
    assert_eq!(found.len(), 1, "{name} in {page}");
    found[0]
}

/// Listed rows are those of a histogram, and with all others they are the whole.
fn agrees(page: &str, (metric, label): (&str, &str), total: &str, document: &Value, field: &str) {
    let mut rows = by(page, metric, label);
    let expected = document["totals"][field].as_f64().expect("a total");
    assert_eq!(one(page, total), expected, "{total}");
    assert_eq!(rows.values().sum::<f64>(), expected, "the rows of {metric} add up");
    rows.remove("(others)").expect("all others");
    assert_eq!(rows.len(), 20, "{rows:?}");
    let truth: BTreeMap<&str, f64> = document["types"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| (row["type"].as_str().expect("a name"), row[field].as_f64().expect("a number")))
        .collect();
    for (name, value) in &rows {
        assert_eq!(truth.get(name.as_str()), Some(value), "{metric} of {name}");
    }
}

fn a_page_adds_up_and_agrees_with_histo() {
    let Some(target) = small(&[]) else { return };
    let pid = target.pid().to_string();
    // With so long an interval the budget is large enough for a census.
    let mut watch = watch(&["--metrics", "127.0.0.1:0", "--interval", "1h", "--owners", "1h", &pid]);
    let address = address(&mut watch);
    watch.wait_until_it_says("owners found in").expect("owners are found");
    let page = scrape(&address);
    let histo = |words: &[&str]| {
        tool::run(&[&["histo", "--json", &pid], words].concat()).and_then(tool::Run::ok).and_then(|run| run.json())
    };
    let types = histo(&[]).expect("a histogram");
    assert_eq!(one(&page, "heapsonde_heap_exact"), 1.0);
    agrees(&page, ("heapsonde_type_objects", "type"), "heapsonde_heap_objects", &types, "objects");
    agrees(&page, ("heapsonde_type_bytes", "type"), "heapsonde_heap_bytes", &types, "shallow_bytes");
    let owners = histo(&["--by", "holder"]).expect("a histogram");
    agrees(&page, ("heapsonde_owner_objects", "owner"), "heapsonde_owned_objects", &owners, "objects");
    agrees(&page, ("heapsonde_owner_bytes", "owner"), "heapsonde_owned_bytes", &owners, "shallow_bytes");
    let parts = by(&page, "heapsonde_memory_bytes", "part");
    assert_eq!(parts.len(), 5, "{parts:?}");
    assert_eq!(parts.values().sum::<f64>(), one(&page, "heapsonde_resident_bytes"));
    let generations = by(&page, "heapsonde_collections_total", "generation");
    assert!(generations.is_empty() || generations.len() == 3, "{generations:?}");
    assert!(one(&page, "heapsonde_paused_seconds_total") > 0.0);

    let accept = "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n";
    let (head, open) = ask(&address, accept);
    assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(open.ends_with("\n# EOF\n") && open.contains("# TYPE heapsonde_cpu_seconds counter"), "{open}");
    let figures = |page: &str| {
        let mut figures = values(page);
        figures.retain(|(name, _), _| name != "heapsonde_cpu_seconds_total");
        figures
    };
    assert_eq!(figures(&open), figures(&page), "two formats, the same figures");
    assert!(scrape(&address) == page, "a scrape reads nothing");
    watch.signal(Signal::SIGTERM);
    assert_eq!(watch.wait().expect("it ends").0, Some(0));
}

fn hostile_clients_are_cut_off_and_do_not_hold_up_the_reading() {
    let Some(mut target) = small(&[]) else { return };
    let pid = target.pid().to_string();
    let mut watch = watch(&["--metrics", "0", "--owners", "0", &pid]);
    let address = address(&mut watch);
    let connect = || TcpStream::connect(&address).expect("it listens");
    // Some say nothing, some begin a request and never end it.
    let idle: Vec<TcpStream> = (0..10).map(|_| connect()).collect();
    let slow: Vec<TcpStream> = (0..10).map(|_| connect()).collect();
    slow.iter().for_each(|mut stream| stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").expect("it is taken"));
    for garbage in
        ["\0\0\0\0\r\n\r\n", "\u{16}\u{3}\u{1}", "GET\r\n\r\n", &format!("GET /{} HTTP/1.1\r\n", "x".repeat(16 << 10))]
    {
        let (head, _) = ask(&address, garbage);
        assert!(head.starts_with("HTTP/1.1 400 "), "{garbage:?}: {head}");
    }
    assert!(ask(&address, "GET /etc/passwd HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 404 "));
    assert!(ask(&address, "DELETE /metrics HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 405 "));
    assert!(scrape(&address).contains("heapsonde_heap_objects{"), "others are answered meanwhile");
    // Of many at once those beyond the limit are closed, and that is all.
    let many: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    target.write(b"x").expect("it reads, and ends");
    let (code, said) = watch.wait().expect("it ends");
    assert!(code == Some(0) && said.contains("exited"), "{said}");
    drop((idle, slow, many));
}

fn processes_that_match_come_and_go() {
    let word = format!("watched-by-a-test-{}", std::process::id());
    let Some(first) = small(&[&word]) else { return };
    let mut watch = watch(&["--match", &word, "--metrics", "0", "--interval", "1s", "--owners", "0"]);
    let address = address(&mut watch);
    let says_of = |pid: u32| format!("process {pid}: ");
    watch.wait_until_it_says(&says_of(first.pid())).expect("it finds the first one");
    let Some(mut second) = small(&[&word]) else { return };
    watch.wait_until_it_says(&says_of(second.pid())).expect("it finds the second one");
    let pids = |page: &str| by(page, "heapsonde_heap_objects", "pid").into_keys().collect::<BTreeSet<String>>();
    let both = [first.pid(), second.pid()].map(|pid| pid.to_string());
    let page = scrape(&address);
    assert_eq!(pids(&page), both.clone().into_iter().collect());
    assert_eq!(one(&page, "heapsonde_processes"), 2.0);
    second.write(b"x").expect("it reads, and ends");
    second.wait().expect("it ends");
    watch.wait_until_it_says(&format!("process {} exited", second.pid())).expect("it notices");
    assert_eq!(pids(&scrape(&address)), [both[0].clone()].into_iter().collect());
    watch.signal(Signal::SIGINT);
    let (code, said) = watch.wait().expect("it ends");
    assert!(code == Some(0) && !said.contains(" bug "), "{said}");
}

fn profiles_are_pushed_for_agents() {
    let Some(target) = small(&[]) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    for (words, says) in
        [(&["--owners", "1h"][..], "owners found in"), (&["--owners", "0", "--metrics", "0"], "metrics at")]
    {
        let pid = target.pid().to_string();
        let mut watch = watch(&[words, &["--push-pprof", path, "--interval", "1h", &pid]].concat());
        watch.wait_until_it_says(says).expect("it looks");
        watch.signal(Signal::SIGTERM);
        assert_eq!(watch.wait().expect("it ends").0, Some(0));
        let files: Vec<_> =
            std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("one")).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let name = files[0].file_name().to_string_lossy().into_owned();
        assert!(name.contains(&format!("-{pid}-")) && name.ends_with(".pb.gz"), "{name}");
        assert_eq!(files[0].metadata().expect("metadata").permissions().mode() & 0o7777, 0o600);
        let zipped = std::fs::read(files[0].path()).expect("readable");
        let mut profile = Vec::new();
        flate2::read::GzDecoder::new(&*zipped).read_to_end(&mut profile).expect("gzip");
        assert!(profile.windows(5).any(|bytes| bytes == b"space"), "a profile names its values");
        std::fs::remove_file(files[0].path()).expect("it can be removed");
    }
}

fn the_dashboard_asks_for_what_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/grafana/heapsonde.json");
    let text = std::fs::read_to_string(path).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let source = include_str!("../../src/report/open_metrics.rs");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("queries"));
    let mut asked = BTreeSet::new();
    for query in queries {
        let query = query["expr"].as_str().expect("a query");
        let words = query.split(|char: char| !char.is_alphanumeric() && char != '_');
        asked.extend(words.filter(|word| word.starts_with("heapsonde_")).map(str::to_owned));
    }
    assert!(asked.len() >= 10, "{asked:?}");
    let Some(target) = small(&[]) else { return };
    let mut watch = watch(&["--metrics", "0", "--owners", "1h", &target.pid().to_string()]);
    let address = address(&mut watch);
    watch.wait_until_it_says("owners found in").expect("owners are found");
    let page = scrape(&address);
    let served: BTreeSet<String> = values(&page).into_keys().map(|(name, _)| name).collect();
    for name in asked.difference(&served) {
        // Not every machine has a limit, and not every build collections.
        let is_optional = ["heapsonde_limit_left_bytes", "heapsonde_collections_total"].contains(&name.as_str());
        let bare = name.strip_suffix("_total").unwrap_or(name);
        assert!(is_optional && source.contains(&format!("\"{bare}\"")), "{name} is not served");
    }
}

fn prometheus_scrapes_it() {
    let (Some(promtool), Some(prometheus)) =
        (interpreters::prometheus("promtool"), interpreters::prometheus("prometheus"))
    else {
        return skipped("watch in Prometheus", "tests/interpreters.sh has not fetched prometheus");
    };
    let Some(target) = small(&[]) else { return };
    let mut watch = watch(&["--metrics", "0", "--interval", "1h", "--owners", "1h", &target.pid().to_string()]);
    let address = address(&mut watch);
    watch.wait_until_it_says("owners found in").expect("owners are found");
    let page = scrape(&address);
    let mut command = Command::new(&promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    child.stdin.take().expect("piped").write_all(page.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "promtool: {}: {said}", output.status);

    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let config = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: heapsonde\n    static_configs:\n      \
         - targets: ['{address}']\n"
    );
    std::fs::write(at("prometheus.yml"), config).expect("a configuration");
    // It does not say which port it was given. At an address of ours nobody else takes it meanwhile.
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let free = TcpListener::bind((Ipv4Addr::new(127, 77, high, low), 0)).and_then(|listener| listener.local_addr());
    let free = free.expect("a free port");
    let mut command = Command::new(&prometheus);
    command.args([
        format!("--config.file={}", at("prometheus.yml")),
        format!("--storage.tsdb.path={}", at("data")),
        format!("--web.listen-address={free}"),
    ]);
    let mut server = Target::start(command).expect("Prometheus starts");
    server.wait_until_it_says("Server is ready to receive web requests").expect("it is ready");
    let stored = |query: &str| -> Vec<Value> {
        let request = format!("GET /api/v1/query?query={query} HTTP/1.0\r\nHost: x\r\n\r\n");
        let (_, body) = ask(&free.to_string(), &request);
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        answer["data"]["result"].as_array().expect("a result").clone()
    };
    let end = Instant::now() + DEADLINE;
    // It scrapes once a second.
    while stored("up").iter().all(|up| up["value"][1] != "1") {
        assert!(Instant::now() < end, "it does not scrape: {}", server.said());
        std::thread::yield_now();
    }
    let types = stored("heapsonde_type_objects");
    let expected = by(&page, "heapsonde_type_objects", "type");
    assert_eq!(types.len(), expected.len());
    for row in types {
        let (name, value) =
            (row["metric"]["type"].as_str().expect("a label"), row["value"][1].as_str().expect("a value"));
        assert_eq!(value.parse::<f64>().ok(), expected.get(name).copied(), "{name}");
    }
    assert_eq!(stored("sum(heapsonde_memory_bytes)==sum(heapsonde_resident_bytes)").len(), 1, "the parts add up there");
}

fn wrong_options_are_explained() {
    let pid = std::process::id().to_string();
    for (words, says) in [
        (&["watch", &pid][..], "--metrics"),
        (&["watch", "--metrics", "0"], "--match TEXT"),
        (&["watch", &pid, "--metrics", "example.com:80"], "is no address such as"),
        (&["watch", &pid, "--metrics", "0", "--interval", "10ms"], "--interval is at least"),
        (&["watch", &pid, "--match", "x", "--metrics", "0"], "cannot be used with"),
        (&["watch", &pid, "--push-pprof", "/nowhere"], "/nowhere is no directory"),
        (&["watch", &pid, "--metrics", "192.0.2.1:80"], "cannot serve at 192.0.2.1:80"),
        (&["watch", &pid, "--metrics", "0"], "no CPython"),
    ] {
        let run = tool::run(words).expect("it ends");
        assert_eq!(run.status.code(), Some(2), "{words:?}: {}", run.stderr);
        assert!(run.stderr.contains(says), "{words:?}: {}", run.stderr);
    }
}
