//! Keys of dicts that have names though they are no strings.

use crate::process::Address;
use crate::python::types::TypeTable;

/// Types of keys that have names though they are no strings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NamedKeys {
    pub(super) context_var: Option<Address>,
    pub(super) weakref: Option<Address>,
    /// What stands for a thread in a `threading.local`, by itself or behind a weak reference.
    pub(super) local_dummy: Option<Address>,
}

impl NamedKeys {
    /// Looks for them among the target's types.
    pub(super) fn find(types: &TypeTable) -> NamedKeys {
        let mut found = NamedKeys::default();
        for (_, info) in types.iter() {
            let slot = match info.full_name().as_str() {
                "builtins.ContextVar" | "_contextvars.ContextVar" => &mut found.context_var,
                "builtins.weakref" | "weakref.ReferenceType" => &mut found.weakref,
                "_thread._localdummy" => &mut found.local_dummy,
                _ => continue,
            };
            *slot = Some(info.address);
        }
        found
    }

    /// Whether keys of a type may be such.
    pub(super) fn has(&self, type_: Address) -> bool {
        [self.context_var, self.weakref, self.local_dummy].contains(&Some(type_))
    }
}
