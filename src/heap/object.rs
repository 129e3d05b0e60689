//! An object as a census reports it, and the trait that receives objects.

use std::iter::Sum;

use super::part::Part;
use crate::process::Address;
use crate::python::object_header::Refcount;
use crate::python::types::TypeId;

/// A live object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its address, which `id()` returns.
    pub address: Address,
    /// Its type.
    pub type_id: TypeId,
    /// Its shallow size in bytes, as `sys.getsizeof` returns, or a lower bound (see the type's basis).
    pub size: u64,
    /// Its reference count.
    pub refcount: Refcount,
    /// Whether it is in one of the collector's lists.
    pub tracked: bool,
}

/// A number of objects and their shallow bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    /// Number of objects.
    pub objects: u64,
    /// Sum of their shallow sizes, bytes.
    pub bytes: u64,
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Amount>>(amounts: I) -> Amount {
        amounts.fold(Amount::default(), |mut sum, amount| {
            sum.add(amount);
            sum
        })
    }
}

impl Amount {
    /// Adds another amount to this one.
    pub fn add(&mut self, other: Amount) {
        self.objects += other.objects;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// Receives the objects of one worker, in the order in which they are found.
pub trait Sink: Send {
    /// Whether it is told of the end of each part. Sizes are then completed part by part.
    const BY_PART: bool = false;
    /// Called for each live object.
    fn object(&mut self, object: &Object);
    /// Called once all objects that begin in a part were passed on.
    fn end_of_part(&mut self, _part: &Part) {}
}

impl Sink for Vec<Object> {
    fn object(&mut self, object: &Object) {
        self.push(*object);
    }
}
