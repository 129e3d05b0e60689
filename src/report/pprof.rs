//! Writes stacks as a pprof profile, which `go tool pprof`, Pyroscope, Parca and Grafana read.
//!
//! A profile is a protocol buffer (google/pprof, `proto/profile.proto`), compressed with gzip. Each stack has two
//! values, `objects/count` and `space/bytes`. They are not scaled: the period is 1.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use rustc_hash::FxHashMap;

use super::escape::printable;
use super::folded::Weight;
use super::stack_set::{ProfileFrame, StackSet};
use super::string_table::StringTable;

/// How names of such files end.
pub const EXTENSION: &str = "pb.gz";

/// What a profile states besides its stacks.
#[derive(Clone, Debug)]
pub struct About {
    /// When the process was read.
    pub time: SystemTime,
    /// For how long it was observed; zero for a single look.
    pub duration: Duration,
    /// The value that clients show first.
    pub weight: Weight,
    /// What was profiled, as a sentence.
    pub comment: String,
}

/// Field numbers of `profile.proto`.
mod field {
    pub const SAMPLE_TYPE: u32 = 1;
    pub const SAMPLE: u32 = 2;
    pub const LOCATION: u32 = 4;
    pub const FUNCTION: u32 = 5;
    pub const STRING_TABLE: u32 = 6;
    pub const TIME_NANOS: u32 = 9;
    pub const DURATION_NANOS: u32 = 10;
    pub const PERIOD_TYPE: u32 = 11;
    pub const PERIOD: u32 = 12;
    pub const COMMENT: u32 = 13;
    pub const DEFAULT_SAMPLE_TYPE: u32 = 14;
}

/// Writes the profile.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, set: &StackSet, about: &About) -> io::Result<()> {
    let mut zipped = GzEncoder::new(out, Compression::default());
    zipped.write_all(&encode(set, about))?;
    zipped.finish()?;
    Ok(())
}

fn encode(set: &StackSet, about: &About) -> Vec<u8> {
    let mut strings = StringTable::default();
    // The first one is empty.
    strings.index("");
    let mut profile = Message::default();
    for (name, unit) in [("objects", "count"), ("space", "bytes")] {
        profile.message(field::SAMPLE_TYPE, &value_type(&mut strings, name, unit));
    }
    let thread_key = u64::from(strings.index("thread"));
    for stack in &set.stacks {
        let mut sample = Message::default();
        // The innermost frame comes first. Numbers start at 1.
        sample.packed(1, stack.frames.iter().rev().map(|&frame| u64::from(frame) + 1));
        sample.packed(2, [stack.amount.objects, stack.amount.bytes].into_iter());
        if !stack.thread.is_empty() {
            let mut label = Message::default();
            label.number(1, thread_key);
            label.number(2, strings.index(&stack.thread).into());
            sample.message(3, &label);
        }
        profile.message(field::SAMPLE, &sample);
    }
    // The lines of a function share it.
    let mut functions: FxHashMap<(u64, u64), u64> = FxHashMap::default();
    for (location, ProfileFrame { name, file, line }) in (1u64..).zip(&set.frames) {
        let key = (u64::from(strings.index(name)), u64::from(strings.index(file)));
        let next = functions.len() as u64 + 1;
        let function = *functions.entry(key).or_insert_with(|| {
            let mut function = Message::default();
            function.number(1, next);
            function.number(2, key.0);
            // Without a system name the client takes the name as it is. From an equal one it would cut what it believes
            // to be arguments of C++, such as `<module>`.
            function.number(4, key.1);
            profile.message(field::FUNCTION, &function);
            next
        });
        let mut at = Message::default();
        at.number(1, function);
        at.number(2, u64::from(*line));
        let mut entry = Message::default();
        entry.number(1, location);
        entry.message(4, &at);
        profile.message(field::LOCATION, &entry);
    }
    let since = about.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    profile.number(field::TIME_NANOS, nanoseconds(since));
    profile.number(field::DURATION_NANOS, nanoseconds(about.duration));
    profile.message(field::PERIOD_TYPE, &value_type(&mut strings, "space", "bytes"));
    profile.number(field::PERIOD, 1);
    profile.packed(field::COMMENT, std::iter::once(strings.index(&printable(&about.comment)).into()));
    let first = match about.weight {
        Weight::Bytes => "space",
        Weight::Objects => "objects",
    };
    profile.number(field::DEFAULT_SAMPLE_TYPE, strings.index(first).into());
    strings.list().iter().for_each(|string| profile.bytes(field::STRING_TABLE, string.as_bytes()));
    profile.bytes
}

fn value_type(strings: &mut StringTable, name: &str, unit: &str) -> Message {
    let mut message = Message::default();
    message.number(1, strings.index(name).into());
    message.number(2, strings.index(unit).into());
    message
}

fn nanoseconds(duration: Duration) -> u64 {
    // The field is signed.
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX) as u64
}

/// A message of a protocol buffer.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A number; 0 is what a missing field means.
    fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, message: &Message) {
        self.bytes(field, &message.bytes);
    }

    fn packed(&mut self, field: u32, values: impl Iterator<Item = u64>) {
        let mut packed = Message::default();
        values.for_each(|value| packed.varint(value));
        self.message(field, &packed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_as_the_specification_shows() {
        // protobuf.dev, Encoding: field 1 with 150 is 08 96 01, field 2 with "testing" is 12 07 ..., field 6 packed
        // with 3, 270 and 86942 is 32 06 03 8E 02 9E A7 05.
        let mut message = Message::default();
        message.number(1, 150);
        message.bytes(2, b"testing");
        message.packed(6, [3, 270, 86942].into_iter());
        let expected = b"\x08\x96\x01\x12\x07testing\x32\x06\x03\x8e\x02\x9e\xa7\x05";
        assert_eq!(message.bytes, expected);
    }
}
