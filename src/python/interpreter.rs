//! The Python that was found in a target, and its interpreters.

use crate::process::Address;

use super::layout::{Build, Correction, Layout};
use super::runtime::Runtime;
use super::version::Version;

/// A Python in a target, its layout proved.
#[derive(Debug)]
pub struct Python {
    /// The version, as the interpreter itself states it.
    pub version: Version,
    /// Which build it is.
    pub build: Build,
    /// The proved layout, corrected by what the interpreter publishes.
    pub layout: Layout,
    /// Where its runtime is and how that was found.
    pub runtime: Runtime,
    /// All interpreters, the main one first.
    pub interpreters: Vec<Interpreter>,
    /// `type`, `object`: the two types that every other is found from.
    pub type_type: Address,
    /// See [`Python::type_type`].
    pub object_type: Address,
    /// Offsets that the target publishes and that the table has otherwise.
    pub corrections: Vec<Correction>,
}

/// One interpreter of the process: the main one, or a sub-interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// `PyInterpreterState *`.
    pub address: Address,
    /// 0 for the main one.
    pub id: i64,
    /// Where its collector's state is; the runtime's own before 3.9, shared by all.
    pub gc: Address,
    /// `sys.__dict__`.
    pub sysdict: Address,
    /// `sys.modules`.
    pub modules: Address,
    /// `builtins.__dict__`.
    pub builtins: Address,
}
