//! Names of one shape in one namespace are one frame: numbered ones (`__main__._*`), and many for values of one type.
//! So are numbered modules (`plugin_*`), and what owners share whose names differ in numbers.
//!
//! A name by which most of the rest is held stays: it is the one that a person looks for.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::references::roots::RootKind;

use super::frames::{Frame, FrameKind, Frames, NAMED_MAX, NONE, list};

/// Names for values of one type that are one from so many on.
const OF_ONE_TYPE_MIN: usize = 20;
/// Numbered names that are one from so many on: what has no more than a report names is named.
const NUMBERED_MIN: usize = NAMED_MAX + 1;

/// Makes frames of one shape one. `weights` is what each frame holds with all above it. Returns, of each frame, which
/// one it is now.
pub(super) fn merge(frames: &mut Frames, weights: &[u64]) -> Vec<u32> {
    let groups = groups(&frames.frames, weights);
    if groups.is_empty() {
        return (0..frames.frames.len() as u32).collect();
    }
    let mut name_of: FxHashMap<u32, &str> = FxHashMap::default();
    for (name, members) in &groups {
        members.iter().for_each(|&member| _ = name_of.insert(member, name));
    }
    let old = std::mem::take(&mut frames.frames);
    let mut now: Vec<u32> = Vec::with_capacity(old.len());
    let mut merged: Vec<Frame> = Vec::with_capacity(old.len());
    // What stands on a frame that several became may be several of one name.
    let mut is_joined: Vec<bool> = Vec::with_capacity(old.len());
    let mut known: FxHashMap<(u32, String, Option<String>), u32> = FxHashMap::default();
    for (index, mut frame) in old.into_iter().enumerate() {
        frame.parent = frame.parent.map(|parent| now.get(parent as usize).copied().unwrap_or(NONE));
        let name = name_of.get(&(index as u32)).copied();
        let step = std::mem::take(&mut frame.step);
        let joins = name.is_some() || frame.parent.is_some_and(|parent| is_joined.get(parent as usize) == Some(&true));
        frame.step = name.map_or_else(|| step.clone(), str::to_owned);
        let count = merged.len() as u32;
        let key = (frame.parent.unwrap_or(NONE), frame.step.clone(), frame.type_name.clone());
        let at = if joins { *known.entry(key).or_insert(count) } else { count };
        if name.is_some() {
            match frame.kind {
                FrameKind::Shared => frame.names = names_without_numbers(&frame.names),
                _ => frame.kind = FrameKind::Siblings,
            }
            frames.siblings.entry(at).or_default().insert(step);
        }
        match merged.get_mut(at as usize) {
            Some(first) => {
                first.objects = first.objects.saturating_add(frame.objects);
                first.things = first.things.saturating_add(frame.things);
            }
            None => {
                merged.push(frame);
                is_joined.push(joins);
            }
        }
        now.push(at);
    }
    frames.frames = merged;
    for frame in frames.of.iter_mut().filter(|frame| **frame != NONE) {
        *frame = now.get(*frame as usize).copied().unwrap_or(NONE);
    }
    now
}

/// Frames that become one, and the name of that.
fn groups(frames: &[Frame], weights: &[u64]) -> Vec<(String, Vec<u32>)> {
    let mut by_parent: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
    for (index, frame) in frames.iter().enumerate() {
        let is_name = frame.is_named && frame.step.starts_with('.') && frame.value_type.is_some();
        let Some(parent) = frame.parent.filter(|_| is_name && frame.kind == FrameKind::Step && frame.names.is_empty())
        else {
            continue;
        };
        // The attributes of many objects are the fields of their class.
        if frames.get(parent as usize).is_some_and(|parent| parent.objects <= 1) {
            by_parent.entry(parent).or_default().push(index as u32);
        }
    }
    let mut groups = modules_and_shared(frames, weights);
    for children in by_parent.into_values().filter(|children| children.len() >= NUMBERED_MIN) {
        let step = |child: u32| frames.get(child as usize).map_or("", |frame| frame.step.as_str());
        let mut numbered: FxHashMap<String, Vec<u32>> = FxHashMap::default();
        let mut by_type: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
        for &child in &children {
            if let Some(shape) = numbers_left_out(step(child)) {
                numbered.entry(shape).or_default().push(child);
            }
        }
        let mut done: FxHashSet<u32> = FxHashSet::default();
        for (name, members) in numbered {
            let members = without_the_largest(members, weights, NUMBERED_MIN);
            done.extend(&members);
            groups.extend((!members.is_empty()).then_some((name, members)));
        }
        for &child in children.iter().filter(|child| !done.contains(child)) {
            let value_type = frames.get(child as usize).and_then(|frame| frame.value_type);
            value_type.into_iter().for_each(|value_type| by_type.entry(value_type).or_default().push(child));
        }
        for members in by_type.into_values() {
            let members = without_the_largest(members, weights, OF_ONE_TYPE_MIN);
            let Some((&first, rest)) = members.split_first() else { continue };
            let common = rest.iter().fold(step(first), |common, &member| common_prefix(common, step(member)));
            groups.push((format!("{common}*"), members));
        }
    }
    groups
}

/// Numbered modules, and shared frames in one place whose owners differ in numbers.
fn modules_and_shared(frames: &[Frame], weights: &[u64]) -> Vec<(String, Vec<u32>)> {
    let mut of_shape: FxHashMap<(u32, String), Vec<u32>> = FxHashMap::default();
    for (index, frame) in frames.iter().enumerate() {
        let shape = match (frame.kind, frame.root) {
            (FrameKind::Scope, Some(RootKind::Module)) if frame.names.is_empty() => numbers_left_out(&frame.step),
            (FrameKind::Shared, _) => {
                let names = names_without_numbers(&frame.names);
                (names != frame.names).then(|| format!("shared by {}", list(&names)))
            }
            _ => None,
        };
        let members = shape.map(|shape| of_shape.entry((frame.parent.unwrap_or(NONE), shape)).or_default());
        members.into_iter().for_each(|members| members.push(index as u32));
    }
    let groups =
        of_shape.into_iter().map(|((_, shape), members)| (shape, without_the_largest(members, weights, NUMBERED_MIN)));
    groups.filter(|(_, members)| !members.is_empty()).collect()
}

/// Names with `*` for each number, each once.
fn names_without_numbers(names: &[String]) -> Vec<String> {
    let mut without: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        let name = numbers_left_out(name).unwrap_or_else(|| name.clone());
        if !without.contains(&name) {
            without.push(name);
        }
    }
    without
}

/// The members but for one that holds more than all others together; none where fewer are left than `min`.
fn without_the_largest(mut members: Vec<u32>, weights: &[u64], min: usize) -> Vec<u32> {
    let weight = |member: u32| weights.get(member as usize).copied().unwrap_or(0);
    let sum = members.iter().fold(0u64, |sum, &member| sum.saturating_add(weight(member)));
    members.retain(|&member| weight(member) <= sum - weight(member).min(sum));
    if members.len() < min { Vec::new() } else { members }
}

/// A name with `*` for each number in it; `None` of one without numbers.
fn numbers_left_out(step: &str) -> Option<String> {
    let mut shape = String::with_capacity(step.len());
    let mut has_number = false;
    for char in step.chars() {
        match char.is_ascii_digit() {
            true if shape.ends_with('*') => {}
            true => {
                has_number = true;
                shape.push('*');
            }
            false => shape.push(char),
        }
    }
    has_number.then_some(shape)
}

/// What two names start with alike.
fn common_prefix<'n>(one: &'n str, other: &str) -> &'n str {
    let end = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b).map(|((index, _), _)| index);
    &one[..end.unwrap_or(one.len().min(other.len()))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(steps: &[String]) -> Frames {
        let mut frames = vec![Frame::for_tests(None, "__main__".to_owned())];
        frames
            .extend(steps.iter().map(|step| Frame { value_type: Some(7), ..Frame::for_tests(Some(0), step.clone()) }));
        Frames::for_tests(frames)
    }

    fn steps(frames: &Frames) -> Vec<&str> {
        frames.frames.iter().skip(1).map(|frame| frame.step.as_str()).collect()
    }

    #[test]
    fn numbered_names_are_one_and_the_largest_stays() {
        let names: Vec<String> = (0..9).map(|n| format!("._{n}")).chain([".rest".to_owned()]).collect();
        let mut frames = namespace(&names);
        assert_eq!(merge(&mut frames, &[0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]), [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
        assert_eq!(steps(&frames), ["._*", ".rest"]);
        let mut frames = namespace(&names);
        merge(&mut frames, &[0, 5, 5, 500, 5, 5, 5, 5, 5, 5, 5]);
        assert_eq!(steps(&frames), ["._*", "._2", ".rest"]);
        let mut few = namespace(&names[..3]);
        merge(&mut few, &[0, 1, 1, 1]);
        assert_eq!(steps(&few), ["._0", "._1", "._2"]);
    }

    #[test]
    fn numbered_modules_and_what_they_share_are_one() {
        let module = |number: u32| Frame {
            kind: FrameKind::Scope,
            root: Some(RootKind::Module),
            ..Frame::for_tests(None, format!("plugin_{number}"))
        };
        let shared = |number: u32| Frame {
            kind: FrameKind::Shared,
            names: vec![format!("plugin_{number}"), "sys.modules".to_owned()],
            ..Frame::for_tests(None, format!("shared by plugin_{number} and sys.modules"))
        };
        let mut frames: Vec<Frame> = (0..4).map(module).chain((0..4).map(shared)).collect();
        frames.extend((0..4).map(|number| Frame::for_tests(Some(number), ".run".to_owned())));
        let mut frames = Frames::for_tests(frames);
        assert_eq!(merge(&mut frames, &[5; 12]), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
        let steps: Vec<&str> = frames.frames.iter().map(|frame| frame.step.as_str()).collect();
        assert_eq!(steps, ["plugin_*", "shared by plugin_* and sys.modules", ".run"]);
        assert_eq!(frames.frames[1].names, ["plugin_*", "sys.modules"]);
        assert_eq!((frames.frames[0].kind, frames.frames[1].kind), (FrameKind::Siblings, FrameKind::Shared));
    }

    #[test]
    fn many_of_one_type_are_one_with_what_is_above_them() {
        let names: Vec<String> = ('a'..='z').map(|letter| format!(".key_{letter}")).collect();
        let mut frames = namespace(&names);
        frames.frames.push(Frame::for_tests(Some(3), "[…]".to_owned()));
        frames.frames.push(Frame::for_tests(Some(9), "[…]".to_owned()));
        merge(&mut frames, &[1; 29]);
        assert_eq!(steps(&frames), [".key_*", "[…]"]);
        let mut few = namespace(&names[..19]);
        merge(&mut few, &[1; 20]);
        assert_eq!(few.frames.len(), 20);
    }
}
