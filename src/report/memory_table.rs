//! Writes an account of memory as text: a line of sums, a table of rows that add up to RSS, and verdicts.

use std::io::{self, Write};

use crate::analysis::memory_account::{Account, Group, RowKind, SizeClass};
use crate::analysis::memory_verdicts::{self, Verdict};
use crate::analysis::native_memory::NativeMemory;
use crate::analysis::opaque_mappings;
use crate::analysis::pins::Pin;
use crate::process::mapping_kind::MappingKind;

use super::escape::printable;
use super::units;

/// Number of owners of native memory shown, and of groups of blocks without one.
const OWNERS_SHOWN: usize = 8;
const UNOWNED_SHOWN: usize = 4;

/// Number of holders shown that pin free memory.
const PINS_SHOWN: usize = 5;

/// Size classes shown of pymalloc, and the free bytes from which one is, and from which those are who pin.
const CLASSES_SHOWN: usize = 3;
const CLASS_FREE_MIN: u64 = 1 << 20;

/// Number of mappings listed, of users of each, and the share of RSS below which none is.
const MAPPINGS_SHOWN: usize = 5;
const USERS_SHOWN: usize = 2;
const MAPPING_SHARE: f64 = 0.02;

/// `RSS 307 MiB: objects 5.00 MiB, allocator free 291 MiB, ...`: all groups, which add up to RSS.
pub fn line(account: &Account) -> String {
    let shown = Group::ALL.iter().map(|&group| (group, account.group(group))).filter(|&(_, bytes)| bytes != 0);
    let parts: Vec<String> = shown.map(|(group, bytes)| format!("{} {}", group.name(), signed(bytes))).collect();
    format!("RSS {}: {}", units::bytes(account.rollup.rss), parts.join(", "))
}

/// Writes the account.
///
/// # Errors
/// Errors of the writer.
pub fn write(out: &mut dyn Write, account: &Account, verdicts: &[Verdict]) -> io::Result<()> {
    writeln!(out, "{}", line(account))?;
    let rollup = &account.rollup;
    let unknown = |bytes: u64| if bytes == 0 { "not known".to_owned() } else { units::bytes(bytes) };
    writeln!(
        out,
        "PSS {}, USS {}, swapped out {}",
        unknown(rollup.pss),
        unknown(rollup.uss),
        units::bytes(rollup.swap)
    )?;
    writeln!(out)?;
    writeln!(out, "{:>10} {:>6} {:>10} {:>11}  where", "resident", "%", "swapped", "objects")?;
    for row in &account.rows {
        if row.resident == 0 && row.swapped == 0 {
            continue;
        }
        let percent = row.resident as f64 * 100.0 / rollup.rss.max(1) as f64;
        let swapped = if row.swapped > 0 { units::bytes(row.swapped) } else { String::new() };
        let objects = if row.objects > 0 { units::count(row.objects) } else { String::new() };
        let sizes = match row.objects {
            0 => String::new(),
            _ => format!(" (getsizeof {})", units::bytes(row.shallow_bytes)),
        };
        let resident = signed(row.resident);
        writeln!(out, "{resident:>10} {percent:>6.1} {swapped:>10} {objects:>11}  {}{sizes}", row.kind.name())?;
    }
    let (sum, swapped) =
        account.rows.iter().fold((0, 0), |(sum, swapped), row| (sum + row.resident, swapped + row.swapped));
    let swapped = if swapped > 0 { units::bytes(swapped) } else { String::new() };
    writeln!(out, "{:>10} {:>6.1} {swapped:>10} {:>11}  total, as in smaps_rollup", signed(sum), 100.0, "")?;
    write_mappings(out, account)?;
    if let Some(native) = &account.native {
        write_native(out, native)?;
    }
    write_fills(out, account)?;
    if let Some(pins) = &account.pins {
        write_pins(out, "pymalloc pools less than 10 % full", &pins.pools)?;
        write_pins(out, "chunks of malloc that lie above holes of 32 KiB or more", &pins.islands)?;
    }
    if account.trimmable > 0 {
        writeln!(out, "malloc_trim(0) would give back {}", units::bytes(account.trimmable))?;
    }
    writeln!(out)?;
    if verdicts.is_empty() {
        return writeln!(out, "Nothing stands out.");
    }
    for verdict in verdicts {
        writeln!(out, "{}: {}.\n  {}", verdict.cause.name().replace('_', " "), verdict.finding, verdict.advice)?;
    }
    Ok(())
}

/// Writes the largest mappings that no allocator explains, those that are alike in one line.
fn write_mappings(out: &mut dyn Write, account: &Account) -> io::Result<()> {
    let least = (account.rollup.rss as f64 * MAPPING_SHARE) as u64;
    let groups = opaque_mappings::groups(&account.mappings);
    for (index, group) in groups.iter().take(MAPPINGS_SHOWN).filter(|group| group.resident >= least).enumerate() {
        if index == 0 {
            writeln!(out, "\nLargest mappings without blocks of an allocator:")?;
        }
        let (resident, mapped) = (units::bytes(group.resident), units::bytes(group.mapped));
        let place = match group.count {
            1 => format!("at {}", group.first.range.start),
            count => format!("in {} mappings", units::count(count)),
        };
        let kind = match group.first.kind {
            MappingKind::Shared => "shared",
            MappingKind::File => "file",
            _ => "anonymous",
        };
        let name = match (group.first.file_name(), group.first.library.as_str()) {
            ("", "") => String::new(),
            ("", library) => format!(" of {}", printable(library)),
            (name, _) => format!(" {}", units::command(name)),
        };
        let users: Vec<String> =
            group.users.iter().take(USERS_SHOWN).map(|user| printable(&user.text()).to_string()).collect();
        let users = if users.is_empty() { String::new() } else { format!(", used by {}", users.join(", ")) };
        writeln!(out, "{resident:>10} of {mapped:>10} {place}: {kind}{name}{users}")?;
    }
    Ok(())
}

/// Writes the owners of native memory.
fn write_native(out: &mut dyn Write, native: &NativeMemory) -> io::Result<()> {
    let (owned, unowned) = native.resident;
    writeln!(
        out,
        "\nBlocks without a Python object or its buffer, those in pymalloc as well ({}), by the holder of a pointer to \
         them:",
        units::bytes(owned.saturating_add(unowned)).trim()
    )?;
    writeln!(out, "{:>10} {:>11} {:>11}  owner", "resident", "blocks", "objects")?;
    for owned in native.owned.iter().take(OWNERS_SHOWN) {
        let holders = if owned.is_type { units::count(owned.holders) } else { String::new() };
        let (resident, blocks) = (units::bytes(owned.resident), units::count(owned.blocks));
        let name = if owned.is_type { printable(&owned.owner) } else { format!("data of {}", printable(&owned.owner)) };
        writeln!(out, "{resident:>10} {blocks:>11} {holders:>11}  {name}")?;
    }
    let rest = native.owned.get(OWNERS_SHOWN..).unwrap_or_default();
    if !rest.is_empty() {
        let (resident, blocks) = rest.iter().fold((0, 0), |(r, b), owned| (r + owned.resident, b + owned.blocks));
        let (resident, blocks) = (units::bytes(resident), units::count(blocks));
        writeln!(out, "{resident:>10} {blocks:>11} {:>11}  ({} more)", "", rest.len())?;
    }
    let unowned = native.resident.1;
    writeln!(out, "{:>10} {:>11} {:>11}  no pointer to it was found", units::bytes(unowned), "", "")?;
    for group in native.unowned.iter().take(UNOWNED_SHOWN).filter(|group| group.resident * 50 >= unowned.max(1)) {
        let (resident, roots) = (units::bytes(group.resident), units::count(group.roots));
        let name = if group.first_word.is_empty() {
            String::new()
        } else {
            format!(" beginning with {}", printable(&group.first_word))
        };
        let below = match group.blocks - group.roots {
            0 => String::new(),
            below => format!(", and {} blocks below them", units::count(below)),
        };
        writeln!(out, "{resident:>21}  of that: {roots} blocks of {} bytes{name}{below}", group.size)?;
    }
    if native.left_out > 0 {
        writeln!(out, "{} blocks were not examined: there are too many", units::count(native.left_out))?;
    }
    Ok(())
}

/// Writes how full pools are, in one line.
fn write_fills(out: &mut dyn Write, account: &Account) -> io::Result<()> {
    let fills = &account.fills;
    if fills.pools == 0 {
        return Ok(());
    }
    let full: u64 = fills.by_tenth[9];
    let middle: u64 = fills.by_tenth[1..9].iter().sum();
    writeln!(
        out,
        "\npymalloc pools: {} in use, {} at most 10 % full, {} more than 90 %, {} between",
        units::count(fills.pools),
        units::count(fills.by_tenth[0]),
        units::count(full),
        units::count(middle)
    )?;
    let free = |class: &&SizeClass| class.held_bytes.saturating_sub(class.used_bytes) >= CLASS_FREE_MIN;
    for class in account.size_classes.iter().take(CLASSES_SHOWN).filter(free) {
        writeln!(
            out,
            "  blocks of {} bytes: {} pools hold {}, of which {:.0} % is in use",
            class.block_size,
            units::count(class.pools),
            units::bytes(class.held_bytes),
            class.used_bytes as f64 * 100.0 / class.held_bytes.max(1) as f64
        )?;
    }
    Ok(())
}

/// Writes who pins free memory in such places.
fn write_pins(out: &mut dyn Write, places: &str, pins: &[Pin]) -> io::Result<()> {
    let all: u64 = pins.iter().map(|pin| pin.pinned).sum();
    if all < CLASS_FREE_MIN {
        return Ok(());
    }
    writeln!(out, "\nFree memory pinned by {places}:")?;
    writeln!(out, "{:>10} {:>11} {:>10}  by", "pinned", "blocks", "bytes")?;
    for pin in pins.iter().take(PINS_SHOWN).filter(|pin| pin.pinned * 50 >= all) {
        let (pinned, count, bytes) =
            (units::bytes(pin.pinned), units::count(pin.objects + pin.buffers), units::bytes(pin.bytes));
        let type_name = match pin.type_name.as_str() {
            "" => " without a Python object".to_owned(),
            name => format!("  ({})", printable(name)),
        };
        writeln!(out, "{pinned:>10} {count:>11} {bytes:>10}  {}{type_name}", printable(&pin.holder))?;
    }
    Ok(())
}

/// Formats bytes with a sign.
fn signed(bytes: i64) -> String {
    let text = units::bytes(bytes.unsigned_abs());
    if bytes < 0 { format!("-{text}") } else { text }
}

/// The verdicts on an account, with amounts formatted as in this report.
pub fn verdicts(account: &Account) -> Vec<Verdict> {
    memory_verdicts::of(account, units::bytes)
}

/// Writes the header line of [`csv_row`].
///
/// # Errors
/// Errors of the writer.
pub fn csv_head(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "seconds,rss,pss,uss,swap,objects,allocator_free,native,stacks,files,shared,not_accounted,trimmable")
}

/// Writes one line of figures, in bytes.
///
/// # Errors
/// Errors of the writer.
pub fn csv_row(out: &mut dyn Write, seconds: f64, account: &Account) -> io::Result<()> {
    let Account { rollup, .. } = account;
    let group = |group: Group| account.group(group);
    writeln!(
        out,
        "{seconds:.3},{},{},{},{},{},{},{},{},{},{},{},{}",
        rollup.rss,
        rollup.pss,
        rollup.uss,
        rollup.swap,
        group(Group::Objects),
        group(Group::AllocatorFree),
        group(Group::Native),
        group(Group::Stacks),
        group(Group::Files),
        group(Group::Shared),
        account.resident(RowKind::NotAccounted),
        account.trimmable
    )
}
