//! Compares stacks read from outside with those that the interpreter reports: functions, lines, order, every thread.
//!
//!     cargo test --test all -- stacks [NAME]    HEAPSONDE_ONLY=3.12,sid-3.14 selects interpreters

use crate::case::TestCase;
use crate::common;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use heapsonde::inspect;
use heapsonde::process::Address;
use heapsonde::process::cache::CachedMemory;
use heapsonde::process::memory::Memory;
use heapsonde::python::code::Code;
use heapsonde::python::reader::Reader;
use heapsonde::python::stack;
use libtest_mimic::Failed;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let case = |interpreter: Interpreter| {
        TestCase::new(interpreter.name.clone(), move || stacks_are_true(&interpreter).map_err(Failed::from))
    };
    interpreters::find_and_say().into_iter().map(case).collect()
}

fn stacks_are_true(interpreter: &Interpreter) -> Result<(), String> {
    let mut target = Target::spawn(interpreter, &common::program("stacks.py"), &[], &[])?;
    let mut told = Vec::new();
    loop {
        match target.read_line()?.as_str() {
            "end" => break,
            line => told.push(line.to_owned()),
        }
    }
    let pid = i32::try_from(target.pid()).map_err(|error| error.to_string())?;
    let opened = inspect::Target::process(pid).map_err(|error| error.to_string())?;
    let (cached, python) = (CachedMemory::new(&opened.source), opened.python());
    let reader = Reader { memory: &cached, layout: &python.layout };
    let main = python.interpreters.first().ok_or("no interpreter")?;
    let mut found = Vec::new();
    // Newest first; the last one is the main thread, which waits for us.
    for thread in stack::threads(&reader, main).iter().rev().skip(1) {
        let top = stack::top(&reader, thread.address).expect("it can be read");
        let frames = stack::frames_from(&reader, top, stack::FRAMES_MAX).0;
        if in_pieces(&reader, thread.address) != Some(frames.clone()) {
            return Err(format!("read in pieces the {} frames of thread {} are others", frames.len(), thread.id));
        }
        for frame in frames {
            let code = Code::read(&reader, frame.code).ok_or_else(|| format!("no code at {}", frame.code))?;
            found.push(format!("{} {} {}", thread.id, code.line_or_first(frame.instruction), code.name));
        }
    }
    if told.len() < 200 {
        return Err(format!("the target told of {} frames", told.len()));
    }
    match told.iter().zip(&found).find(|(told, found)| told != found) {
        _ if told.len() != found.len() => {
            Err(format!("{} frames, the target says {}: {found:?} {told:?}", found.len(), told.len()))
        }
        Some((told, found)) => Err(format!("{found:?}, the target says {told:?}")),
        None => Ok(()),
    }
}

/// As [`stack::frames`], seven at once; `None` where a piece is empty before the end.
fn in_pieces<M: Memory>(reader: &Reader<'_, M>, thread: Address) -> Option<Vec<stack::StackFrame>> {
    let (mut all, mut next) = (Vec::new(), stack::top(reader, thread).ok()?);
    while !next.is_null() {
        let (piece, then) = stack::frames_from(reader, next, 7);
        if piece.is_empty() && !then.is_null() || piece.len() > 7 {
            return None;
        }
        all.extend(piece);
        next = then;
    }
    Some(all)
}
