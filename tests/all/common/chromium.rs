//! Opens a page in headless Chromium.

use std::path::Path;
use std::process::Command;

use super::tool::finish;

const BROWSERS: &[&str] = &["chromium", "chromium-browser", "google-chrome", "chrome"];

/// The browser's command, if one is installed.
pub fn find() -> Option<&'static str> {
    let exists = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    BROWSERS.iter().copied().find(exists)
}

/// The document of a page once its scripts have run, as text, and what the browser wrote to standard error. `folder`
/// takes the browser's profile.
pub fn document(browser: &str, folder: &Path, size: &str, url: &str) -> Result<(String, String), String> {
    let mut command = Command::new(browser);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--allow-file-access-from-files",
        "--virtual-time-budget=10000",
        "--enable-logging=stderr",
    ]);
    command.arg(format!("--window-size={size}"));
    command.arg(format!("--user-data-dir={}", folder.join("profile").display()));
    command.arg("--dump-dom").arg(url);
    let run = finish(command)?;
    Ok((run.text(), run.stderr))
}

/// What a script of a page left in the attribute `data-answer`.
pub fn answer(document: &str) -> Result<serde_json::Value, String> {
    let answer = document.split("data-answer=\"").nth(1).and_then(|rest| rest.split('"').next());
    let answer = answer.ok_or("the script of the page did not end")?.replace("&quot;", "\"").replace("&amp;", "&");
    serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))
}
