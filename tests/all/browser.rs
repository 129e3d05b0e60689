//! Opens the SVG and the report in a browser: a click on a frame zooms, and a search highlights what it finds.
//!
//! Headless Chromium runs a script inserted into a copy of the picture, and prints the document at the end. Without
//! Chromium the test is skipped with a message.

use crate::case::{TestCase, cases};
use crate::common::chromium;
use crate::common::interpreters;
use crate::common::skipped;
use crate::common::target::Target;
use crate::common::tool;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![a_picture_opens_zooms_and_is_searched, a_report_opens_zooms_and_is_searched]
}

/// Some frames: sessions that a module keeps, in two kinds.
const PROGRAM: &str = r"
import os
class Session:
    def __init__(self, n):
        self.user, self.rows = 'user %d' % n, [n * 1000 + i for i in range(20)]
SESSIONS = {i: Session(i) for i in range(2000)}
OTHERS = [Session(i) for i in range(1000)]
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

/// Clicks on a frame, goes back, searches; leaves what came of it in an attribute.
const SCRIPT: &str = r"
window.addEventListener('load', () => setTimeout(() => {
    const frames = () => [...document.getElementById('frames').querySelectorAll('g')];
    const find = name => frames().find(g => g.querySelector('title').textContent.startsWith(name));
    const width = g => g.querySelector('rect').getBoundingClientRect().width;
    const shown = g => getComputedStyle(g).display !== 'none' && !g.classList.contains('hide');
    const answer = {frames: frames().length, title: document.getElementById('title').textContent};
    const sessions = find('SESSIONS dict');
    answer.before = width(sessions);
    sessions.querySelector('rect').dispatchEvent(new MouseEvent('click', {bubbles: true}));
    answer.zoomed = width(sessions);
    answer.others = shown(find('OTHERS list'));
    document.getElementById('unzoom').dispatchEvent(new MouseEvent('click', {bubbles: true}));
    answer.after = width(sessions);
    search('Session');
    answer.matched = document.getElementById('matched').textContent;
    document.documentElement.setAttribute('data-answer', JSON.stringify(answer));
}, 100));
";

fn a_picture_opens_zooms_and_is_searched() {
    let Some(browser) = chromium::find() else {
        return skipped("the SVG in a browser", "no Chromium here");
    };
    let gil = interpreters::find().interpreters.into_iter().filter(|i| i.kind == "default").max_by_key(|i| i.version);
    let Some(interpreter) = gil else { return skipped("the SVG in a browser", "no default build found") };
    let target = Target::spawn(&interpreter, PROGRAM, &[], &[]).expect("a target starts");
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let path = folder.path().join("owners.svg");
    let drawn = tool::run(&["flamegraph", &target.pid().to_string(), "-o", path.to_str().expect("UTF-8")]);
    drawn.and_then(tool::Run::ok).expect("a picture");
    let svg = std::fs::read_to_string(&path).expect("it was written");
    let (body, _) = svg.rsplit_once("</svg>").expect("it ends");
    std::fs::write(&path, format!("{body}<script><![CDATA[{SCRIPT}]]></script></svg>")).expect("ours");

    let url = format!("file://{}", path.display());
    let (document, stderr) = chromium::document(browser, folder.path(), "1280,800", &url).expect("the browser ends");
    let answer = chromium::answer(&document).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let number = |key: &str| answer[key].as_f64().expect("a width");
    assert!(answer["frames"].as_u64() > Some(20), "{answer}");
    assert!(answer["title"].as_str().is_some_and(|title| title.starts_with("Live heap by owner")), "{answer}");
    assert!(number("zoomed") > 1.2 * number("before") && number("zoomed") > 1000.0, "{answer}");
    assert_eq!(answer["others"], false, "what is beside it goes: {answer}");
    assert!((number("after") - number("before")).abs() < 1.0, "{answer}");
    let matched = answer["matched"].as_str().and_then(|text| text.strip_prefix("Matched: ")?.strip_suffix('%'));
    let matched: f64 = matched.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{answer}"));
    assert!(matched > 20.0 && matched < 100.0, "{answer}");
}

/// The same in a report, whose owners open.
const REPORT_SCRIPT: &str = r"
addEventListener('load', () => setTimeout(() => {
    const frames = () => [...document.querySelectorAll('.frame')];
    const find = name => frames().find(frame => frame.title.startsWith(name));
    const width = name => find(name)?.getBoundingClientRect().width;
    const answer = {frames: frames().length, wide: document.documentElement.scrollWidth, screen: innerWidth};
    answer.before = width('SESSIONS dict');
    find('SESSIONS dict').click();
    answer.zoomed = width('SESSIONS dict');
    answer.others = find('OTHERS list') !== undefined;
    answer.inside = document.getElementById('inside').textContent;
    dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}));
    answer.after = width('SESSIONS dict');
    const search = document.getElementById('search');
    search.value = 'SESSIONS';
    search.dispatchEvent(new Event('input'));
    answer.matched = document.getElementById('matched').textContent;
    answer.found = document.querySelectorAll('.frame.found').length;
    const owner = [...document.querySelectorAll('tr.owner')].find(row => row.textContent.includes('SESSIONS'));
    answer.hidden = owner.nextElementSibling.hidden;
    owner.click();
    answer.held = owner.nextElementSibling.hidden ? '' : owner.nextElementSibling.textContent;
    answer.hostile = window.hostile === undefined && document.querySelectorAll('img').length === 0;
    document.documentElement.setAttribute('data-answer', JSON.stringify(answer));
}, 100));
";

/// Names that would end a script or start an element.
const HOSTILE: &str = r"
odd = type('</script><img src=x onerror=hostile=1>', (), {'__module__': '<b>\u2028&'})
KEPT = [odd() for _ in range(20000)]
os.write(1, b'ready %d\n' % os.getpid())
os.read(0, 1)
";

fn a_report_opens_zooms_and_is_searched() {
    let gil = interpreters::find().interpreters.into_iter().filter(|i| i.kind == "default").max_by_key(|i| i.version);
    let Some(interpreter) = gil else { return skipped("the report", "no default build found") };
    let (program, _) = PROGRAM.split_once("os.write").expect("it says that it is ready");
    let target = Target::spawn(&interpreter, &format!("{program}{HOSTILE}"), &[], &[]).expect("a target starts");
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let path = folder.path().join("report.html");
    let written = tool::run(&["report", &target.pid().to_string(), "-o", path.to_str().expect("UTF-8")]);
    written.and_then(tool::Run::ok).expect("a report");
    let html = std::fs::read_to_string(&path).expect("it was written");
    assert!(html.len() < 5 << 20, "{} bytes", html.len());
    assert!(!html.contains("<img"), "names are escaped");
    for section in ["<h2>Memory</h2>", "<h2>Owners</h2>", "<h2>Types</h2>", "default-src 'none'"] {
        assert!(html.contains(section), "{section}");
    }
    for outside in ["http:", "https:", "url(", "@import", " src="] {
        let outside_of_names = html.replace("img src=x", "");
        assert!(!outside_of_names.contains(outside), "nothing comes from elsewhere: {outside}");
    }

    let Some(browser) = chromium::find() else { return skipped("the report in a browser", "no Chromium here") };
    let (body, _) = html.rsplit_once("</body>").expect("it ends");
    std::fs::write(&path, format!("{body}<script>{REPORT_SCRIPT}</script></body></html>")).expect("ours");
    let url = format!("file://{}", path.display());
    // A telephone's width: Chromium's windows are at least 500 wide.
    let (document, stderr) = chromium::document(browser, folder.path(), "500,900", &url).expect("the browser ends");
    assert!(!stderr.contains("CONSOLE"), "the console says nothing: {stderr}");
    let answer = chromium::answer(&document).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let number = |key: &str| answer[key].as_f64().unwrap_or_else(|| panic!("{key}: {answer}"));
    assert!(number("frames") > 20.0 && number("wide") <= number("screen"), "{answer}");
    assert!(number("zoomed") > 1.2 * number("before") && number("zoomed") > 400.0, "{answer}");
    assert!(answer["others"] == false && (number("after") - number("before")).abs() < 1.0, "{answer}");
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    assert!(text("inside").contains("Session"), "{answer}");
    assert!(text("matched").contains('%') && number("found") >= 1.0, "{answer}");
    assert!(answer["hidden"] == true && text("held").contains("Session"), "a click opens an owner: {answer}");
    assert_eq!(answer["hostile"], true, "names of the program are text: {answer}");
}
