//! Finds the processors that a target runs on, and keeps the calling thread off them.
//!
//! A running thread can be observed only from another processor, because on its own it is preempted while we look. The
//! scheduler tends to wake a sleeper where the target runs, so we move away. If all processors are busy, or there is
//! only one, we stay.
//!
//! Mirrors `do_task_stat` (`fs/proc/array.c`) and `sched_setaffinity(2)` of Linux.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Upper bound on the threads whose processor is read.
const THREADS_MAX: usize = 64;
/// How long a list of threads stays valid.
const LIST_AGE_MAX: Duration = Duration::from_millis(500);
/// Bytes of a `stat` file: some fifty numbers.
const STAT_MAX: usize = 1024;

/// The processors of this machine with respect to a target.
#[derive(Debug)]
pub struct Processors {
    pid: i32,
    /// Processors that we may use.
    ours: Vec<usize>,
    stats: Vec<File>,
    listed: Option<Instant>,
    /// Processors that we avoid now.
    kept_off: Vec<usize>,
}

impl Processors {
    /// For the calling thread and a target.
    pub fn of(pid: i32) -> Processors {
        let allowed = sched_getaffinity(Pid::from_raw(0));
        let is_ours = |&cpu: &usize| allowed.as_ref().is_ok_and(|allowed| allowed.is_set(cpu).unwrap_or(false));
        let ours = (0..CpuSet::count()).filter(is_ours).collect();
        Processors { pid, ours, stats: Vec::new(), listed: None, kept_off: Vec::new() }
    }

    /// Moves the calling thread to a processor on which no thread of the target runs; if possible, on which none has
    /// run last, since it wakes up there when all are busy. Returns whether there is one. Takes some 10 µs per thread.
    pub fn keep_off(&mut self) -> bool {
        if self.listed.is_none_or(|listed| listed.elapsed() > LIST_AGE_MAX) {
            self.list();
        }
        let threads: Vec<(bool, usize)> = self.stats.iter().filter_map(last_run_on).collect();
        let of = |also_sleeping: bool| {
            let threads = threads.iter().filter(|&&(is_running, _)| is_running || also_sleeping);
            let mut taken: Vec<usize> = threads.map(|&(_, cpu)| cpu).collect();
            taken.sort_unstable();
            taken.dedup();
            taken
        };
        let leaves_one = |taken: &Vec<usize>| self.ours.iter().any(|cpu| !taken.contains(cpu));
        let mut taken = Some(of(true)).filter(leaves_one).unwrap_or_else(|| of(false));
        let is_apart = leaves_one(&taken);
        if !is_apart {
            taken.clear();
        }
        // If nothing runs on our processor, we may stay.
        if taken != self.kept_off && (!taken.is_empty() || !is_apart) {
            self.move_off(&taken);
        }
        is_apart
    }

    fn move_off(&mut self, taken: &[usize]) {
        let mut left = CpuSet::new();
        self.ours.iter().filter(|cpu| !taken.contains(cpu)).for_each(|&cpu| {
            let _ = left.set(cpu);
        });
        match sched_setaffinity(Pid::from_raw(0), &left) {
            Ok(()) => self.kept_off = taken.to_vec(),
            Err(error) => log::debug!("the processor affinity is unchanged: {error}"),
        }
    }

    fn list(&mut self) {
        self.listed = Some(Instant::now());
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else { return };
        let files = threads.flatten().take(THREADS_MAX).map(|thread| File::open(thread.path().join("stat")));
        self.stats = files.flatten().collect();
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        self.move_off(&[]);
    }
}

/// Whether a thread is runnable, and the processor on which it runs or ran last.
fn last_run_on(stat: &File) -> Option<(bool, usize)> {
    let mut bytes = [0; STAT_MAX];
    let length = stat.read_at(&mut bytes, 0).ok()?;
    parse(bytes.get(..length)?)
}

/// Parses a `stat` file. The name in it is the program's choice and may contain any bytes.
fn parse(text: &[u8]) -> Option<(bool, usize)> {
    /// Number of fields between the name and the processor.
    const BETWEEN: usize = 36;
    let end = text.iter().rposition(|&byte| byte == b')')?;
    let mut fields = text.get(end + 1..)?.split(|byte| byte.is_ascii_whitespace()).filter(|field| !field.is_empty());
    let is_running = fields.next()? == b"R";
    Some((is_running, std::str::from_utf8(fields.nth(BETWEEN - 1)?).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_file_says_where_its_thread_runs() {
        let numbers: String =
            (4..=52).map(|field| format!(" {}", if field == 39 { 5 } else { 1000 + field })).collect();
        assert_eq!(parse(format!("77 (a) R (b) R{numbers}\n").as_bytes()), Some((true, 5)));
        assert_eq!(parse(format!("77 (a) S{numbers}\n").as_bytes()), Some((false, 5)));
        for text in ["", "77", "77 (a)", "77 (a) R", "77 (a) R 1 2 3"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn we_run_ourselves_and_keep_off_that() {
        let all = |set: CpuSet| (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap()).collect::<Vec<_>>();
        // On a thread of its own, so that other tests are not moved.
        std::thread::spawn(move || {
            let before = all(sched_getaffinity(Pid::from_raw(0)).unwrap());
            let mut processors = Processors::of(std::process::id() as i32);
            let is_apart = processors.keep_off();
            let during = all(sched_getaffinity(Pid::from_raw(0)).unwrap());
            assert!(!during.is_empty() && (is_apart || during == before), "{before:?} {during:?}");
            drop(processors);
            assert_eq!(all(sched_getaffinity(Pid::from_raw(0)).unwrap()), before);
        })
        .join()
        .unwrap();
    }
}
