//! One object as a census sees it, and where it goes.

use crate::process::Address;
use crate::python::object_header::Refcount;
use crate::python::types::TypeId;

/// A live object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where it is: what `id()` says.
    pub address: Address,
    /// Its type.
    pub type_id: TypeId,
    /// Its shallow size, bytes: what `sys.getsizeof` says, or the least it can say (see the type's basis).
    pub size: u64,
    /// Its reference count.
    pub refcount: Refcount,
    /// Whether it is in one of the collector's lists.
    pub tracked: bool,
}

/// Objects and their shallow bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Sum of shallow sizes.
    pub bytes: u64,
}

impl Amount {
    /// Adds another amount.
    pub fn add(&mut self, other: Amount) {
        self.objects += other.objects;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// Takes the objects of one worker, in the order in which it finds them.
pub trait Sink: Send {
    /// One live object.
    fn object(&mut self, object: &Object);
}

impl Sink for Vec<Object> {
    fn object(&mut self, object: &Object) {
        self.push(*object);
    }
}
