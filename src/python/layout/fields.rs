//! How a C struct becomes a Rust struct of offsets, and how its fields are found by their C names.
//!
//! One macro declares each struct once. From that single list come the plain struct, its reading from a table, the
//! list of fields that `fixtures/layouts/generate.rs` looks for in DWARF, and the access by name that the overlay of
//! published offsets needs. So a field is added in one place, and a table cannot silently lack it.

use serde::Deserialize;

/// Where a bitfield lies inside its struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bits {
    /// Offset in bytes of the byte that holds the lowest bit.
    pub byte: usize,
    /// Number of that bit within the byte, 0 for the least significant.
    pub bit: u32,
    /// How many bits there are.
    pub width: u32,
}

impl Bits {
    /// The field's value in the little-endian word that starts at [`Bits::byte`].
    pub fn of(self, word: u64) -> u64 {
        let mask = u64::MAX.checked_shr(64u32.saturating_sub(self.width)).unwrap_or(0);
        word.checked_shr(self.bit).unwrap_or(0) & mask
    }
}

/// One field that this crate reads.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The field's name in Rust.
    pub name: &'static str,
    /// The C names that it has had, newest first; nested ones are dotted. Empty where it is the Rust name. A C field
    /// that is itself called `size` is written `self.size`, since `size` in a table is the struct's own.
    pub paths: &'static [&'static str],
    /// Whether every supported version has it.
    pub required: bool,
    /// Whether it is a bitfield in some version.
    pub bits: bool,
}

/// One C struct that this crate reads.
#[derive(Clone, Copy, Debug)]
pub struct WantedStruct {
    /// The name of its member in [`super::Layout`].
    pub name: &'static str,
    /// The C names that the struct has had, newest first.
    pub names: &'static [&'static str],
    /// Whether every supported version has it.
    pub required: bool,
    /// Its fields.
    pub fields: &'static [Wanted],
}

/// The type of a field of a struct of offsets.
pub trait Slot: Copy {
    /// Whether a table must have it.
    const REQUIRED: bool;
    /// Whether it is a bitfield.
    const BITS: bool;
    /// Its offset, where there is one and it is not a bitfield.
    fn offset(self) -> Option<usize>;
    /// Writes the offset. Nothing happens to a field that this version does not have, and to a bitfield.
    fn set_offset(&mut self, offset: usize);
}

impl Slot for usize {
    const REQUIRED: bool = true;
    const BITS: bool = false;
    fn offset(self) -> Option<usize> {
        Some(self)
    }
    fn set_offset(&mut self, offset: usize) {
        *self = offset;
    }
}

impl Slot for Bits {
    const REQUIRED: bool = true;
    const BITS: bool = true;
    fn offset(self) -> Option<usize> {
        None
    }
    fn set_offset(&mut self, _: usize) {}
}

impl<T: Slot> Slot for Option<T> {
    const REQUIRED: bool = false;
    const BITS: bool = T::BITS;
    fn offset(self) -> Option<usize> {
        self.and_then(T::offset)
    }
    fn set_offset(&mut self, offset: usize) {
        if let Some(slot) = self {
            slot.set_offset(offset);
        }
    }
}

/// A struct of offsets, or the absence of one.
pub trait CStruct {
    /// Whether a table must have it.
    const REQUIRED: bool;
    /// Its fields.
    const FIELDS: &'static [Wanted];
    /// The offset of the field with this Rust name.
    fn offset(&self, name: &str) -> Option<usize>;
    /// Writes the offset of the field with this Rust name, where this version has it.
    fn set_offset(&mut self, name: &str, offset: usize);
}

impl<T: CStruct> CStruct for Option<T> {
    const REQUIRED: bool = false;
    const FIELDS: &'static [Wanted] = T::FIELDS;
    fn offset(&self, name: &str) -> Option<usize> {
        self.as_ref().and_then(|c| c.offset(name))
    }
    fn set_offset(&mut self, name: &str, offset: usize) {
        if let Some(c) = self {
            c.set_offset(name, offset);
        }
    }
}

/// Declares structs of offsets. `field: usize` is in every supported version, `field: Option<usize>` in some;
/// `= "c.path" | "older_name"` says where the C name differs from the Rust one. Every struct has `size`, the
/// `sizeof` of the C struct.
macro_rules! c_structs {
    ($(
        $(#[$meta:meta])*
        $name:ident { $( $field:ident : $ty:ty $(= $path:tt $(| $old:tt)*)? ),* $(,)? }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(non_snake_case)]
        pub struct $name {
            /// `sizeof` of the C struct, in bytes.
            pub size: usize,
            $(
                #[doc = concat!("The C field `" $(, $path, "`, read as `")?, stringify!($field), "`.")]
                $(#[serde(rename = $path $(, alias = $old)*)])?
                pub $field: $ty,
            )*
        }

        impl $crate::python::layout::fields::CStruct for $name {
            const REQUIRED: bool = true;
            const FIELDS: &'static [$crate::python::layout::fields::Wanted] = &[$(
                $crate::python::layout::fields::Wanted {
                    name: stringify!($field),
                    paths: &[$($path $(, $old)*)?],
                    required: <$ty as $crate::python::layout::fields::Slot>::REQUIRED,
                    bits: <$ty as $crate::python::layout::fields::Slot>::BITS,
                },
            )*];
            fn offset(&self, name: &str) -> Option<usize> {
                match name {
                    "size" => Some(self.size),
                    $(stringify!($field) => $crate::python::layout::fields::Slot::offset(self.$field),)*
                    _ => None,
                }
            }
            fn set_offset(&mut self, name: &str, offset: usize) {
                match name {
                    "size" => self.size = offset,
                    $(stringify!($field) => {
                        $crate::python::layout::fields::Slot::set_offset(&mut self.$field, offset);
                    })*
                    _ => {}
                }
            }
        }
    )*};
}
pub(crate) use c_structs;
