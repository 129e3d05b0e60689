use super::*;
use crate::python::layout::Build;

/// The bytes that an interpreter with this layout would publish.
fn publish(candidate: &Candidate, layout: &Layout, change: impl Fn(&str, u64) -> u64) -> Option<Vec<u8>> {
    let shape = candidate.published_shape()?;
    let mut bytes = vec![0; shape.size];
    bytes[..8].copy_from_slice(&COOKIE);
    let hex = 0x0300_00f0 | u64::from(candidate.until.minor) << 16 | u64::from(candidate.until.micro) << 8;
    bytes[8..16].copy_from_slice(&hex.to_le_bytes());
    bytes[16] = u8::from(matches!(layout.build, Build::FreeThreaded | Build::DebugFreeThreaded));
    for (name, at) in &shape.fields {
        let Some((_, member, field, kind)) = MEANINGS.iter().find(|(published, ..)| published == name) else {
            continue;
        };
        let Some(offset) = layout.c_struct(member).unwrap().get(field) else { continue };
        let base = if matches!(kind, OffsetKind::InGil) { layout.interp._gil.unwrap() } else { 0 };
        let value = change(name, (base + offset) as u64);
        bytes[*at..*at + 8].copy_from_slice(&value.to_le_bytes());
    }
    Some(bytes)
}

fn published() -> impl Iterator<Item = (Candidate, Layout)> {
    Candidate::all().iter().filter(|c| c.from.minor >= 13).map(|c| (*c, Layout::load(c)))
}

fn newest_default() -> (Candidate, Layout) {
    published().filter(|(c, _)| c.build == Build::Default && c.from.minor == 14).last().unwrap()
}

#[test]
fn a_table_agrees_with_what_an_interpreter_of_that_layout_publishes() {
    for (candidate, mut layout) in published() {
        let bytes = publish(&candidate, &layout, |_, value| value).unwrap();
        let offsets = DebugOffsets::parse(&bytes).unwrap();
        let overlay = layout.overlay(&offsets);
        assert_eq!(overlay.corrected, [], "{}", candidate.name);
        assert!(overlay.agreed >= 60, "{}: only {}", candidate.name, overlay.agreed);
    }
}

#[test]
fn every_published_field_has_a_meaning_or_is_listed_here() {
    let without = [
        "cookie",
        "version",
        "free_threaded",
        "type_object.tp_repr",
        "gc.generation_stats_size",
        "debugger_support.remote_debugging_enabled",
        "debugger_support.debugger_pending_call",
        "debugger_support.debugger_script_path",
        "debugger_support.debugger_script_path_size",
    ];
    for (candidate, _) in published() {
        for name in candidate.published_shape().unwrap().fields.keys() {
            let known = MEANINGS.iter().any(|(published, ..)| published == name) || without.contains(&name.as_str());
            assert!(known, "{}: {name}", candidate.name);
        }
    }
}

#[test]
fn a_collector_of_another_size_moves_the_fields_behind_it() {
    let (candidate, layout) = newest_default();
    let moved = ["imports_modules", "sysdict", "builtins", "gil_runtime_state", "code_object_generation"];
    let bytes = publish(&candidate, &layout, |name, value| {
        let moves = name.strip_prefix("interpreter_state.").is_some_and(|n| moved.iter().any(|m| n.starts_with(m)));
        if moves || name == "interpreter_state.size" || name == "gc.size" { value - 24 } else { value }
    });
    let mut corrected = layout.clone();
    corrected.overlay(&DebugOffsets::parse(&bytes.unwrap()).unwrap());
    assert_eq!(corrected.interp.obmalloc.unwrap() + 24, layout.interp.obmalloc.unwrap());
    assert_eq!(corrected.interp.modules_by_index + 24, layout.interp.modules_by_index);
    assert_eq!(corrected.interp.modules + 24, layout.interp.modules);
    assert_eq!(corrected.interp.threads_head, layout.interp.threads_head);
    assert_eq!(corrected.gil, layout.gil);
}

#[test]
fn a_thread_state_of_another_size_moves_what_follows_it() {
    let (candidate, layout) = newest_default();
    let bytes = publish(&candidate, &layout, |name, value| if name == "thread_state.size" { value - 8 } else { value });
    let mut corrected = layout.clone();
    corrected.overlay(&DebugOffsets::parse(&bytes.unwrap()).unwrap());
    let (now, was) = (corrected.thread_impl.unwrap(), layout.thread_impl.unwrap());
    assert_eq!(now.asyncio_running_loop + 8, was.asyncio_running_loop);
    assert_eq!(now.base, was.base);
}

#[test]
fn damage_is_refused_with_its_cause() {
    let (candidate, layout) = newest_default();
    let good = publish(&candidate, &layout, |_, value| value).unwrap();
    let gc = candidate.published_shape().unwrap().fields["interpreter_state.gc"];
    let damaged = |at: usize, value: u64| {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        DebugOffsets::parse(&bytes).unwrap_err()
    };
    assert!(matches!(damaged(0, 1), LayoutError::PublishedCookie { found: 1 }));
    assert!(matches!(damaged(8, 7), LayoutError::PublishedVersion { found: 7 }));
    assert!(matches!(damaged(8, 0x0363_00f0), LayoutError::PublishedVersion { .. }));
    assert!(matches!(damaged(8, 0x0330_00f0), LayoutError::PublishedUnknown { .. }));
    assert!(matches!(damaged(8, 0x030c_00f0), LayoutError::PublishedUnknown { .. }));
    assert!(matches!(damaged(16, 2), LayoutError::PublishedFlag { found: 2, .. }));
    assert!(matches!(damaged(gc, 1 << 20), LayoutError::PublishedTooLarge { .. }));
    assert!(matches!(damaged(gc, u64::MAX), LayoutError::PublishedTooLarge { .. }));
    assert!(matches!(damaged(gc, 7401), LayoutError::PublishedMisaligned { found: 7401, .. }));
    for length in 0..good.len() {
        assert!(matches!(DebugOffsets::parse(&good[..length]), Err(LayoutError::PublishedTooShort { .. })));
    }
    assert!(good.len() <= DebugOffsets::MAX_SIZE);
}

#[test]
fn bit_flips_never_panic_nor_yield_an_offset_beyond_the_limits() {
    for (candidate, layout) in published().filter(|(c, _)| c.build == Build::Default) {
        let good = publish(&candidate, &layout, |_, value| value).unwrap();
        // Flips the lowest bits of each word, those around the limits, and the highest.
        let bits = (0..good.len() * 8).filter(|bit| matches!(bit % 64, 0 | 2 | 3 | 19 | 20 | 24 | 63));
        for bit in bits.step_by(3) {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(offsets) = DebugOffsets::parse(&bytes) {
                assert!(offsets.values.values().all(|value| *value < 1 << 24));
                layout.clone().overlay(&offsets);
            }
        }
    }
}
