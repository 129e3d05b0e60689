//! Writes what is watched as metrics: in the text format of Prometheus, and as OpenMetrics.
//!
//! Sources: prometheus.io, *Exposition formats*, version 0.0.4; OpenMetrics 1.0.0 (since then RFC draft
//! `draft-richih-opsawg-openmetrics`). They differ in the names of counters, units and the end.

use std::time::{Duration, UNIX_EPOCH};

use rustc_hash::FxHashMap;

use crate::analysis::histogram::Amount;
use crate::inspect::watch::{ListedRows, TypesLook, Watch, WatchedProcess};

use super::escape::printable;
use super::units;

/// The label of all rows that have none of their own.
pub const OTHERS: &str = "(others)";
/// Characters of a label. The program chooses its names.
const LABEL_MAX: usize = 250;

/// A text format for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricFormat {
    /// What every client reads.
    Prometheus,
    /// What a client asks for by `Accept: application/openmetrics-text`.
    OpenMetrics,
}

impl MetricFormat {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            MetricFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            MetricFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All that is known now. `cpu`: processor time that we have used.
pub fn page(watch: &Watch, cpu: Duration, format: MetricFormat) -> String {
    let mut page = MetricsPage { format, text: String::new() };
    let processes = watch.processes.len() as f64;
    page.gauge("heapsonde_processes", "", "Python processes that are watched.", |add| add(&[], processes));
    let about = "Python processes that match and cannot be read.";
    page.gauge("heapsonde_unread_processes", "", about, |add| add(&[], watch.unread() as f64));
    let about = "Processor time that heapsonde has used.";
    page.counter("heapsonde_cpu_seconds", "seconds", about, |add| add(&[], cpu.as_secs_f64()));

    let all: Vec<(String, &WatchedProcess)> = watch.processes.iter().map(|it| (it.about.pid.to_string(), it)).collect();
    page.gauge("heapsonde_process_info", "", "1; the labels tell which process it is.", |add| {
        for (pid, process) in &all {
            let command = label(&units::command(&process.about.command));
            add(&[("pid", pid), ("command", &command), ("python", &label(&process.about.version))], 1.0);
        }
    });
    memory(&mut page, &all);
    types(&mut page, &all);
    owners(&mut page, &all);
    looks(&mut page, &all);
    if format == MetricFormat::OpenMetrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

type Processes<'a> = [(String, &'a WatchedProcess)];

/// Those at whose types the last look succeeded.
fn looked<'a>(all: &'a Processes<'a>) -> impl Iterator<Item = (&'a str, &'a TypesLook)> {
    all.iter().filter_map(|(pid, process)| Some((pid.as_str(), process.types.as_ref()?)))
}

fn memory(page: &mut MetricsPage, all: &Processes<'_>) {
    let lines = || looked(all).filter_map(|(pid, look)| Some((pid, look.memory?)));
    page.gauge("heapsonde_resident_bytes", "bytes", "Resident memory: the sum of heapsonde_memory_bytes.", |add| {
        lines().for_each(|(pid, line)| add(&[("pid", pid)], line.rss as f64));
    });
    let about = "Resident memory by what it is. Where only a part of the heap was read, allocator_free is in native.";
    page.gauge("heapsonde_memory_bytes", "bytes", about, |add| {
        for (pid, line) in lines() {
            let parts = [
                ("objects", Some(line.objects)),
                ("allocator_free", line.allocator_free),
                ("native", Some(line.native)),
                ("files", Some(line.files)),
                ("shared", Some(line.shared)),
            ];
            for (part, bytes) in parts.into_iter().filter_map(|(part, bytes)| Some((part, bytes?))) {
                add(&[("pid", pid), ("part", part)], bytes as f64);
            }
        }
    });
    let about = "Bytes left to the tightest memory limit of the process's control groups.";
    page.gauge("heapsonde_limit_left_bytes", "bytes", about, |add| {
        let left = looked(all).filter_map(|(pid, look)| Some((pid, look.left?)));
        left.for_each(|(pid, left)| add(&[("pid", pid)], left as f64));
    });
    let about = "Runs of the cyclic garbage collector (not known of free-threaded builds).";
    page.counter("heapsonde_collections", "", about, |add| {
        for (pid, collections) in looked(all).filter_map(|(pid, look)| Some((pid, look.collections?))) {
            for (generation, count) in ["0", "1", "2"].into_iter().zip(collections) {
                add(&[("pid", pid), ("generation", generation)], count as f64);
            }
        }
    });
}

fn types(page: &mut MetricsPage, all: &Processes<'_>) {
    let about = "1 if all objects were counted, 0 if a sample was.";
    page.gauge("heapsonde_heap_exact", "", about, |add| {
        looked(all).for_each(|(pid, look)| add(&[("pid", pid)], if look.is_exact { 1.0 } else { 0.0 }));
    });
    page.gauge("heapsonde_heap_objects", "", "Live objects: the sum of heapsonde_type_objects.", |add| {
        looked(all).for_each(|(pid, look)| add(&[("pid", pid)], look.types.total.objects as f64));
    });
    page.gauge("heapsonde_heap_bytes", "bytes", "Their bytes: the sum of heapsonde_type_bytes.", |add| {
        looked(all).for_each(|(pid, look)| add(&[("pid", pid)], look.types.total.bytes as f64));
    });
    let of = || looked(all).map(|(pid, look)| (pid, &look.types));
    page.rows("heapsonde_type_objects", "Live objects by type.", "type", of(), |amount| amount.objects);
    page.rows("heapsonde_type_bytes", "Their bytes, as sys.getsizeof counts them.", "type", of(), |amount| {
        amount.bytes
    });
    let about = "By how much heapsonde_type_bytes may be off where a sample was read (95 % confidence).";
    page.gauge("heapsonde_type_error_bytes", "bytes", about, |add| {
        for (pid, look) in looked(all).filter(|(_, look)| !look.is_exact) {
            for (name, error) in summed(look.types.rows.iter().map(|row| (row.name.as_str(), row.error))) {
                add(&[("pid", pid), ("type", &name)], error as f64);
            }
        }
    });
}

fn owners(page: &mut MetricsPage, all: &Processes<'_>) {
    let of = || all.iter().filter_map(|(pid, process)| Some((pid.as_str(), &process.owners.as_ref()?.owners)));
    let about = "Live objects at the last look at owners: the sum of heapsonde_owner_objects.";
    page.gauge("heapsonde_owned_objects", "", about, |add| {
        of().for_each(|(pid, rows)| add(&[("pid", pid)], rows.total.objects as f64));
    });
    page.gauge("heapsonde_owned_bytes", "bytes", "Their bytes: the sum of heapsonde_owner_bytes.", |add| {
        of().for_each(|(pid, rows)| add(&[("pid", pid)], rows.total.bytes as f64));
    });
    let about = "Objects by the name that alone holds them.";
    page.rows("heapsonde_owner_objects", about, "owner", of(), |amount| amount.objects);
    let about = "Bytes by the name that alone holds them.";
    page.rows("heapsonde_owner_bytes", about, "owner", of(), |amount| amount.bytes);
}

fn looks(page: &mut MetricsPage, all: &Processes<'_>) {
    let each = || {
        all.iter().flat_map(|(pid, process)| {
            let types = process.types.as_ref().map(|look| ("types", look.at, look.duration));
            let owners = process.owners.as_ref().map(|look| ("owners", look.at, look.duration));
            types.into_iter().chain(owners).map(move |(of, at, duration)| (pid, of, at, duration))
        })
    };
    page.gauge("heapsonde_look_timestamp_seconds", "seconds", "When the figures were read.", |add| {
        for (pid, of, at, _) in each() {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            add(&[("pid", pid), ("of", of)], at.as_secs_f64());
        }
    });
    page.gauge("heapsonde_look_seconds", "seconds", "How long reading them took.", |add| {
        each().for_each(|(pid, of, _, duration)| add(&[("pid", pid), ("of", of)], duration.as_secs_f64()));
    });
    page.counter("heapsonde_paused_seconds", "seconds", "For how long heapsonde has paused the process.", |add| {
        all.iter().for_each(|(pid, process)| add(&[("pid", pid)], process.paused.as_secs_f64()));
    });
    page.counter("heapsonde_failed_looks", "", "Looks that failed.", |add| {
        all.iter().for_each(|(pid, process)| add(&[("pid", pid)], process.failures as f64));
    });
}

/// A name as a label: it cannot control a terminal, and has a bounded length.
fn label(name: &str) -> String {
    let name = printable(name);
    match name.char_indices().nth(LABEL_MAX) {
        Some((end, _)) => name[..end].to_owned() + "…",
        None => name,
    }
}

/// Values by label. Names that have become the same label are one, since a client refuses a page with two.
fn summed<'a>(values: impl Iterator<Item = (&'a str, u64)>) -> Vec<(String, u64)> {
    let (mut sums, mut positions): (Vec<(String, u64)>, FxHashMap<String, usize>) = Default::default();
    for (name, value) in values {
        let label = label(name);
        let position = *positions.entry(label.clone()).or_insert(sums.len());
        match sums.get_mut(position) {
            Some((_, sum)) => *sum = sum.saturating_add(value),
            None => sums.push((label, value)),
        }
    }
    sums
}

/// Adds a value with its labels.
type Add<'a> = dyn FnMut(&[(&str, &str)], f64) + 'a;

struct MetricsPage {
    format: MetricFormat,
    text: String,
}

impl MetricsPage {
    fn gauge(&mut self, name: &str, unit: &str, help: &str, values: impl FnOnce(&mut Add<'_>)) {
        self.family((name, name), "gauge", unit, help, values);
    }

    fn counter(&mut self, name: &str, unit: &str, help: &str, values: impl FnOnce(&mut Add<'_>)) {
        let total = format!("{name}_total");
        match self.format {
            MetricFormat::Prometheus => self.family((&total, &total), "counter", unit, help, values),
            MetricFormat::OpenMetrics => self.family((name, &total), "counter", unit, help, values),
        }
    }

    /// Amounts by type or owner, and the sum of all that are not listed.
    fn rows<'a>(
        &mut self,
        name: &str,
        help: &str,
        key: &str,
        of: impl Iterator<Item = (&'a str, &'a ListedRows)>,
        pick: impl Fn(Amount) -> u64,
    ) {
        let unit = if name.ends_with("_bytes") { "bytes" } else { "" };
        let help = format!("{help} The largest; {OTHERS} is the sum of all others.");
        self.gauge(name, unit, &help, |add| {
            for (pid, rows) in of {
                let listed = rows.rows.iter().map(|row| (row.name.as_str(), pick(row.amount)));
                for (name, value) in summed(listed.chain([(OTHERS, pick(rows.others))])) {
                    add(&[("pid", pid), (key, &name)], value as f64);
                }
            }
        });
    }

    /// A family without values is left out.
    fn family(
        &mut self,
        (family, sample): (&str, &str),
        kind: &str,
        unit: &str,
        help: &str,
        values: impl FnOnce(&mut Add<'_>),
    ) {
        let mut lines = String::new();
        values(&mut |labels, value| {
            let labels: Vec<String> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            lines.push_str(&format!("{sample}{labels} {value}\n"));
        });
        if lines.is_empty() {
            return;
        }
        self.text.push_str(&format!("# HELP {family} {}\n# TYPE {family} {kind}\n", escaped(help)));
        if !unit.is_empty() && self.format == MetricFormat::OpenMetrics {
            self.text.push_str(&format!("# UNIT {family} {unit}\n"));
        }
        self.text.push_str(&lines);
    }
}

/// The value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_bounded_and_merged() {
        let long = "x".repeat(10_000);
        let names = [("a\n\"\\", 1), (OTHERS, 2), (&long, 3), (&long[1..], 4), ("\u{1b}[31m", 5), (OTHERS, 6)];
        let sums = summed(names.into_iter());
        assert_eq!(sums.len(), 4, "{sums:?}");
        assert_eq!((sums[1].1, sums[2].1, sums[2].0.chars().count()), (8, 7, LABEL_MAX + 1));
        let mut page = MetricsPage { format: MetricFormat::OpenMetrics, text: String::new() };
        page.counter("n", "", "Help.", |add| add(&[("k", "a\n\"\\")], 2.0));
        assert_eq!(page.text, "# HELP n Help.\n# TYPE n counter\nn_total{k=\"a\\n\\\"\\\\\"} 2\n");
        page.text.clear();
        page.gauge("none", "", "Nothing.", |_| {});
        assert_eq!(page.text, "");
    }
}
