//! Declares C structs as Rust structs of offsets, with access to fields by their C names.
//!
//! One macro declares each struct once. It generates the plain struct, its parser, the list of fields that
//! `fixtures/layouts/generate.rs` looks up in DWARF, and the access by name that published offsets need. So a field is
//! added in one place, and a table cannot silently lack it.

use serde::Deserialize;

/// Position of a bitfield in its struct.
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
    /// The C names that the field has had, newest first; nested ones are dotted. Empty if it equals the Rust name. A C
    /// field that is itself named `size` is written `self.size`, since `size` in a table is the size of the struct.
    pub paths: &'static [&'static str],
    /// Whether every supported version has it.
    pub required: bool,
    /// Whether it is a bitfield in any version.
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
    /// The struct's fields.
    pub fields: &'static [Wanted],
}

/// The type of a field in a struct of offsets.
pub trait Slot: Copy {
    /// Whether a table must have it.
    const REQUIRED: bool;
    /// Whether it can hold a bitfield.
    const BITS: bool;
    /// The offset, unless the field is missing or a bitfield.
    fn offset(self) -> Option<usize>;
    /// Sets the offset. Does nothing if this version lacks the field or it is a bitfield.
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

/// A struct of offsets, or an optional one.
pub trait CStruct {
    /// Whether a table must have it.
    const REQUIRED: bool;
    /// Its fields.
    const FIELDS: &'static [Wanted];
    /// The offset of the field with this Rust name.
    fn offset(&self, name: &str) -> Option<usize>;
    /// Sets the offset of the field with this Rust name, if this version has it.
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

/// Declares structs of offsets. `field: usize` exists in every supported version, `field: Option<usize>` in some; `=
/// "c.path" | "older_name"` gives C names that differ from the Rust name. Every struct has `size`, the `sizeof` of the
/// C struct.
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
