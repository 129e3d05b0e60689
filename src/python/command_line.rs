//! Derives the program's name from a command line, without its arguments: these may hold passwords and personal data.

/// Options of `python` whose value is the next word (`Modules/main.c`, `Python/initconfig.c`).
const WITH_VALUE: [&str; 3] = ["-X", "-W", "--check-hash-based-pycs"];

/// The program that a Python runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProgramWords<'a> {
    /// A file or a directory.
    Script(&'a str),
    /// `-m`.
    Module(&'a str),
    /// `-c`. The text itself is data and is not shown.
    Text,
    /// None: it reads from a terminal or a pipe, or the command is not a `python`.
    Nothing,
}

fn program(words: &[String]) -> ProgramWords<'_> {
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-" | "" => return ProgramWords::Nothing,
            "--" => return rest.next().map_or(ProgramWords::Nothing, |word| ProgramWords::Script(word)),
            word if WITH_VALUE.contains(&word) => _ = rest.next(),
            word if word.starts_with("--") => {}
            word if word.starts_with('-') => {
                // Short options may be combined, and a value may follow without a space: `-um app`, `-mapp`.
                let Some((at, option)) = word.char_indices().find(|(_, char)| matches!(char, 'm' | 'c' | 'X' | 'W'))
                else {
                    continue;
                };
                let value = Some(&word[at + 1..]).filter(|value| !value.is_empty());
                let value = value.or_else(|| rest.next().map(String::as_str)).unwrap_or_default();
                match option {
                    'm' => return ProgramWords::Module(value),
                    'c' => return ProgramWords::Text,
                    _ => {}
                }
            }
            word => return ProgramWords::Script(word),
        }
    }
    ProgramWords::Nothing
}

/// The first word. A program that overwrites its command line (`gunicorn: worker [shop]`) leaves everything in one
/// word.
fn first(words: &[String]) -> &str {
    match words {
        [] => "",
        [title] => title.split_whitespace().next().unwrap_or_default(),
        [first, ..] => first,
    }
}

/// Interpreter and program: `python3 app.py`, `python3 -m app`, `python3 -c …`.
pub fn short(words: &[String]) -> String {
    let first = first(words);
    match program(words) {
        ProgramWords::Script(script) => format!("{first} {script}"),
        ProgramWords::Module(module) => format!("{first} -m {module}"),
        ProgramWords::Text => format!("{first} -c …"),
        ProgramWords::Nothing => first.to_owned(),
    }
}

/// A short name for the program: the script's or module's name without directory and extension. `None` if there is no
/// name.
pub fn name(words: &[String]) -> Option<&str> {
    let name = match program(words) {
        ProgramWords::Script(name) | ProgramWords::Module(name) => name,
        ProgramWords::Text | ProgramWords::Nothing => first(words),
    };
    let name = std::path::Path::new(name).file_stem()?.to_str()?;
    Some(name.trim_end_matches(':')).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn arguments_are_left_out() {
        for (line, says, is_called) in [
            ("python3 app.py --token abc", "python3 app.py", "app"),
            ("python3 -u -X dev -W ignore /srv/app.py s3cret", "python3 /srv/app.py", "app"),
            ("python3 -Xdev app.py", "python3 app.py", "app"),
            ("python3 -m http.server 8000", "python3 -m http.server", "http"),
            ("python3 -um celery worker", "python3 -m celery", "celery"),
            ("python3 -c secret='x'", "python3 -c …", "python3"),
            ("python3 -Ic secret", "python3 -c …", "python3"),
            ("/usr/bin/python3", "/usr/bin/python3", "python3"),
            ("python3 - token", "python3", "python3"),
            ("python3 -- app.py token", "python3 app.py", "app"),
            ("/usr/bin/python3 /usr/bin/gunicorn shop:app --bind x", "/usr/bin/python3 /usr/bin/gunicorn", "gunicorn"),
        ] {
            let words = words(line);
            assert_eq!((short(&words).as_str(), name(&words)), (says, Some(is_called)), "{line}");
        }
        let title = ["gunicorn: worker [alice]".to_owned()];
        assert_eq!((short(&title).as_str(), name(&title)), ("gunicorn:", Some("gunicorn")));
        assert_eq!((short(&[]).as_str(), name(&[])), ("", None));
    }
}
