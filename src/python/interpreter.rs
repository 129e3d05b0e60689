//! The Python that was found in a target, and its interpreters.

use crate::process::Address;

use super::layout::{Build, Correction, Layout};
use super::runtime::Runtime;
use super::version::Version;

/// A Python in a target, with a proved layout.
#[derive(Debug)]
pub struct Python {
    /// The version, as the interpreter itself states it.
    pub version: Version,
    /// The build configuration.
    pub build: Build,
    /// The proved layout, corrected by the published offsets.
    pub layout: Layout,
    /// The runtime's address and how it was found.
    pub runtime: Runtime,
    /// All interpreters, the main one first.
    pub interpreters: Vec<Interpreter>,
    /// The type object `type`. All other types are found from it and `object`.
    pub type_type: Address,
    /// The type object `object`.
    pub object_type: Address,
    /// Published offsets that differ from the table.
    pub corrections: Vec<Correction>,
}

/// One interpreter of the process: the main one, or a sub-interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// `PyInterpreterState *`.
    pub address: Address,
    /// 0 for the main one.
    pub id: i64,
    /// Address of the GC state. Before 3.9 it belongs to the runtime and is shared by all.
    pub gc: Address,
    /// `sys.__dict__`.
    pub sysdict: Address,
    /// `sys.modules`.
    pub modules: Address,
    /// `builtins.__dict__`.
    pub builtins: Address,
}
