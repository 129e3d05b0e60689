//! Names of classes: their own, or for a class made in a function, the name in the module that keeps it.

use crate::graph::ObjectId;
use crate::graph::objects::{GraphRoot, ObjectGraph};
use crate::process::memory::Memory;
use crate::references::notation::Spelled;
use crate::references::roots::RootKind;

use super::names::Names;

/// The module and name of a class object. `None` for other objects.
pub fn name<M: Memory + ?Sized>(
    graph: &ObjectGraph<'_>,
    names: &Names<'_, M>,
    class: ObjectId,
) -> Option<(String, String)> {
    let (module, name) = names.own_class(class)?;
    let kept = || {
        let namespace = graph.namespace_of_local(class)?;
        let is_its = |root: &&GraphRoot| root.object == namespace && root.kind == RootKind::Module;
        let module = graph.roots.iter().find(is_its)?.full_name();
        match names.spell(namespace, names.label(namespace, class)?) {
            step @ (Spelled::Text(_) | Spelled::CodeText(_)) if step.is_named(true) => {
                Some((module.to_owned(), step.write(true, false).1.trim_start_matches('.').to_owned()))
            }
            _ => None,
        }
    };
    Some(kept().unwrap_or_else(|| (module.to_owned(), name.to_owned())))
}
