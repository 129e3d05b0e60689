//! Names the variables that closures keep: a chain says `handler.<closure>.cache`, where in C a function has a tuple of
//! cells.

use crate::graph::ObjectId;
use crate::graph::objects::ObjectGraph;
use crate::process::memory::Memory;
use crate::python::identifier;
use crate::references::Label;
use crate::references::notation::{CELL_CONTENTS, Spelled};

use super::names::Names;

/// Upper bound on the referrers of a cell that are looked at. Each function that uses the variable has the cell in a
/// tuple of its own, and one of them tells its name.
const REFERRERS_MAX: usize = 16;

/// A label as text, of what a cell has with the variable's name.
pub fn spell<M: Memory + ?Sized>(
    graph: &ObjectGraph<'_>,
    names: &Names<'_, M>,
    from: ObjectId,
    label: Label,
) -> Spelled {
    match names.spell(from, label) {
        Spelled::Attribute(name) if name == CELL_CONTENTS => {
            variable(graph, names, from).map_or(Spelled::Attribute(name), Spelled::Cell)
        }
        step => step,
    }
}

/// The name of the variable whose cell this is.
fn variable<M: Memory + ?Sized>(graph: &ObjectGraph<'_>, names: &Names<'_, M>, cell: ObjectId) -> Option<String> {
    let speller = names.speller()?;
    let referrers = |to: ObjectId, type_name: &'static str| {
        let referrers = graph.reverse.targets(to).take(REFERRERS_MAX);
        referrers.filter(move |&from| names.type_name(from) == type_name)
    };
    referrers(cell, "builtins.tuple").find_map(|closure| {
        let function = referrers(closure, "builtins.function").next()?;
        let code = graph.forward.targets(function).find(|&part| names.type_name(part) == "builtins.code")?;
        let Label::Index(index) = names.label(closure, cell)? else { return None };
        speller.free_variable(names.address(code), names.address(closure), index)
    })
}

/// Whether a chain ends with a local variable, which is not written again where it is in a cell.
pub fn ends_with_local(chain: &str) -> bool {
    let last = chain.rsplit(", ").next().and_then(|last| last.strip_prefix("local "));
    last.is_some_and(identifier::is_identifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_ends_with_a_local_variable_or_goes_on() {
        for chain in [", local cache", "thread MainThread, main() at app.py:4, local cache"] {
            assert!(ends_with_local(chain), "{chain}");
        }
        for chain in ["", "app.cache", ", local cache[…]", ", local cache.items", "main() at app.py:4, value stack"] {
            assert!(!ends_with_local(chain), "{chain}");
        }
    }
}
