//! Containers that grow, with the objects that own them.

use rustc_hash::FxHashMap;

use crate::analysis::frames::FrameKind;
use crate::analysis::owners::Owners;
use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;

/// Owners below a container that say something of it: a cache keeps its entries in a dict of its own.
const OWNERS: usize = 3;

/// By its frame, each container and the owners below it, as far as each frame is of one object.
pub(super) struct OwnerLines {
    of_container: FxHashMap<u32, Vec<u32>>,
    object_of: FxHashMap<u32, Option<ObjectId>>,
}

impl OwnerLines {
    pub(super) fn new(graph: &ObjectGraph<'_>, owners: &Owners, containers: impl Iterator<Item = u32>) -> OwnerLines {
        let frames = owners.frames();
        let is_one = |frame: u32| owners.own().get(frame as usize).is_some_and(|own| (1..=2).contains(&own.objects));
        let mut lines = OwnerLines { of_container: FxHashMap::default(), object_of: FxHashMap::default() };
        for container in containers {
            // What parts of one object share is that object's.
            let line = frames.upwards(container).skip_while(|(_, it)| it.kind == FrameKind::Shared).take(OWNERS);
            // A module says nothing of what is in it, and many objects of one shape have a word each.
            let line = line.take_while(|(frame, it)| is_one(*frame) && it.type_name.is_some());
            let line: Vec<u32> = line.map(|(frame, _)| frame).collect();
            lines.object_of.extend(line.iter().map(|&frame| (frame, None)));
            lines.of_container.insert(container, line);
        }
        if lines.object_of.is_empty() {
            return lines;
        }
        for object in (0..graph.len() as u32).map(ObjectId) {
            let frame = frames.of(object).filter(|_| !frames.is_namespace(object));
            if let Some(slot) = frame.and_then(|frame| lines.object_of.get_mut(&frame)) {
                slot.get_or_insert(object);
            }
        }
        lines
    }

    /// The frames of the containers.
    pub(super) fn containers(&self) -> impl Iterator<Item = u32> + '_ {
        self.of_container.keys().copied()
    }

    /// The object of a frame.
    pub(super) fn object(&self, frame: u32) -> Option<ObjectId> {
        self.object_of.get(&frame).copied().flatten()
    }

    /// A container and its owners.
    pub(super) fn objects(&self, container: u32) -> impl Iterator<Item = ObjectId> + '_ {
        self.of_container.get(&container).into_iter().flatten().filter_map(|&frame| self.object(frame))
    }
}
