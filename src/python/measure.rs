//! Measures an object from its own bytes, and checks that they are plausible for its type.
//!
//! Mirrors the `__sizeof__` methods of `Objects/*.c`, `Modules/_collectionsmodule.c`, `arraymodule.c`, `_io/*.c` (v3.8
//! to v3.15) and numpy's `array_sizeof`.

use crate::process::Address;
use crate::process::memory::{u32_at, u64_at};

use super::deferred::{Deferred, HEADER, LOCALS_MAX, NDARRAY_DIMENSIONS_MAX, OBJECT_SIZE_MAX, executable};
use super::layout::Layout;
use super::layout::fields::Bits;
use super::library_sizes::{self, OwnedMemory};
use super::sizes::{Basis, SizeRule};
use super::types::{TypeInfo, TypeTable};
use super::version::{StaticTypeHead, Version};
use crate::python::type_flags as flag;

/// Bits per digit of an int; the top two bits of a digit are 0 (`Include/cpython/longintrepr.h`, PyLong_SHIFT).
pub(crate) const DIGIT_BITS: u32 = 30;
/// numpy: the array owns its data (NPY_ARRAY_OWNDATA).
const NDARRAY_OWNS_DATA: u32 = 4;

/// What an object's own bytes say about its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Bytes from the object's start (without the GC head and pre-header) that its block must hold.
    pub extent: u64,
    /// Whether the block holds exactly `extent` bytes: the object is never shrunk in place.
    pub is_fixed: bool,
    /// The shallow size, or what must be read elsewhere to compute it.
    pub size: Size,
}

/// A shallow size, known or to be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Bytes, including the GC head and pre-header.
    Known(u64),
    /// More must be read.
    Deferred(Deferred),
}

/// The size of an object whose own bytes suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// As in [`Measured`]; the block may be larger.
    pub extent: u64,
    /// The shallow size.
    pub size: u64,
}

impl Whole {
    fn loose(self) -> Measured {
        Measured { extent: self.extent, is_fixed: false, size: Size::Known(self.size) }
    }
}

/// Measures objects from their own bytes. Create one per target.
pub struct Measure<'a> {
    layout: &'a Layout,
    version: Version,
    type_type: Address,
}

impl<'a> Measure<'a> {
    /// Prepares measuring for a layout and its types.
    pub fn new(layout: &'a Layout, version: Version, types: &TypeTable) -> Measure<'a> {
        Measure { layout, version, type_type: types.type_type() }
    }

    /// The layout.
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// Measures the object of type `info` at `address`. `bytes` extends to the end of its block, or as far as a large
    /// block was read. `None` if the bytes cannot be an object of that type.
    #[inline(always)]
    pub fn measure(&self, info: &TypeInfo, address: Address, bytes: &[u8]) -> Option<Measured> {
        let layout = self.layout;
        let word = |offset: usize| u64_at(bytes, offset);
        let base = info.basicsize + self.front_counted(info, bytes);
        let extent = info.basicsize + self.inline_values(info, bytes)?;
        let is_fixed = !info.has_inline_values;
        let fixed = |size: u64| Measured { extent, is_fixed, size: Size::Known(size) };
        let deferred = |deferred| Measured { extent, is_fixed, size: Size::Deferred(deferred) };
        Some(match info.rule {
            SizeRule::Default => return self.measure_default(info, base, bytes),
            SizeRule::NumpyScalar(value) => fixed(base + u64::from(value)),
            SizeRule::Int => return self.int(base - info.basicsize, bytes).map(Whole::loose),
            SizeRule::Str => return self.measure_str(info, base, address, bytes),
            SizeRule::List => fixed(base + self.list_items(bytes)?),
            SizeRule::Dict | SizeRule::OrderedDict => {
                let (used, keys) = (word(layout.dict.ma_used)?, word(layout.dict.ma_keys)?);
                if used > OBJECT_SIZE_MAX / 8 || keys == 0 || keys % 8 != 0 {
                    return None;
                }
                let base =
                    base + if info.rule == SizeRule::OrderedDict { self.ordered_dict_nodes(bytes, used)? } else { 0 };
                let split = word(layout.dict.ma_values)? != 0;
                deferred(Deferred::DictKeys { keys: Address(keys), base, split })
            }
            SizeRule::Set => {
                let (fill, used, mask) = (word(layout.set.fill)?, word(layout.set.used)?, word(layout.set.mask)?);
                let slots = mask.checked_add(1)?;
                if !slots.is_power_of_two() || used > fill || fill > slots || slots > OBJECT_SIZE_MAX / 16 {
                    return None;
                }
                let own_table = word(layout.set.table)? != address.offset(layout.set.smalltable).0;
                fixed(base + if own_table { layout.set_entry.stride() as u64 * slots } else { 0 })
            }
            SizeRule::ByteArray => {
                let allocated = word(layout.byte_array.ob_alloc)?;
                if allocated > OBJECT_SIZE_MAX || word(layout.var_object.ob_size)? > allocated {
                    return None;
                }
                // `ob_start` lies within the allocation.
                let (start, first) = (word(layout.byte_array.ob_start)?, word(layout.byte_array.ob_bytes)?);
                if allocated > 0 && start.checked_sub(first).is_none_or(|gap| first == 0 || gap > allocated) {
                    return None;
                }
                // Since 3.15 the buffer is a bytes object, including its header.
                let header = match layout.byte_array.ob_bytes_object {
                    Some(_) if allocated > 0 => layout.bytes.ob_sval as u64 + 1,
                    _ => 0,
                };
                fixed(base + header + allocated)
            }
            SizeRule::Deque => {
                let (deque, block) = (&layout.deque, &layout.deque_block);
                let items = block.items()?.get();
                let (left, size) = (word(deque.leftindex)?, word(layout.var_object.ob_size)?);
                if left > items || size > OBJECT_SIZE_MAX / 8 {
                    return None;
                }
                fixed(base + block.bytes() as u64 * (left + size).div_ceil(items))
            }
            SizeRule::Type => return self.measure_type(info, base, bytes),
            SizeRule::CtypesType => {
                let measured = self.measure_type(info, base, bytes)?;
                let (version, base) = (self.version, base - info.basicsize + measured.extent);
                let owned = library_sizes::ctypes_type(layout, version, bytes).unwrap_or(OwnedMemory::Bytes(0));
                let size = match owned {
                    OwnedMemory::Bytes(own) => Size::Known(base + own),
                    owned => Size::Deferred(Deferred::Library { owned, base }),
                };
                Measured { size, ..measured }
            }
            SizeRule::Code => return self.measure_code(info, base, address, bytes),
            SizeRule::Generator => {
                let Some(frame) = layout.generator.gi_iframe else { return self.measure_default(info, base, bytes) };
                let base = base - info.basicsize + (frame + layout.iframe.as_ref()?.localsplus) as u64;
                deferred(Deferred::Locals { code: executable(bytes, frame, layout)?, base })
            }
            SizeRule::Frame => return self.measure_frame(info, base, address, bytes),
            SizeRule::Array => {
                let array = &layout.array;
                let (count, descr) = (word(array.allocated)?, word(array.ob_descr)?);
                if count > OBJECT_SIZE_MAX || descr == 0 || word(layout.var_object.ob_size)? > count {
                    return None;
                }
                deferred(Deferred::ArrayItems { descr: Address(descr), count, base })
            }
            SizeRule::NdArray => self.measure_ndarray(info, base, bytes)?,
            SizeRule::BytesIo => {
                let buffer = word(layout.bytes_io.buf)?;
                match buffer {
                    0 => fixed(base),
                    _ => deferred(Deferred::BytesIoBuffer { buffer: Address(buffer), base }),
                }
            }
            SizeRule::Buffered => {
                let buffered = &layout.buffered;
                let has_buffer = word(buffered.buffer)? != 0;
                let size = word(buffered.buffer_size)?;
                if has_buffer && size > OBJECT_SIZE_MAX {
                    return None;
                }
                fixed(base + if has_buffer { size } else { 0 })
            }
            SizeRule::Library(library) => {
                // What makes no sense adds nothing: these structs are not proved, and no object is lost for them.
                let size = match library.owned(layout, info.itemsize, bytes).unwrap_or(OwnedMemory::Bytes(0)) {
                    OwnedMemory::Bytes(own) => Size::Known(base + own),
                    owned => Size::Deferred(Deferred::Library { owned, base }),
                };
                Measured { extent, is_fixed: false, size }
            }
        })
    }

    /// Bytes of the inline values behind `tp_basicsize`, which `sys.getsizeof` leaves out: a head, a slot per
    /// attribute, and a byte each for the insertion order (`_PyInlineValuesSize`, `Include/internal/pycore_dict.h`).
    /// The block may have room for one more slot: each of a class's first instances uses one from the room reserved for
    /// the next (`_PyObject_InitInlineValues`, `Objects/dictobject.c`).
    #[inline(always)]
    fn inline_values(&self, info: &TypeInfo, bytes: &[u8]) -> Option<u64> {
        if !info.has_inline_values {
            return Some(0);
        }
        let values = self.layout.dict_values.as_ref()?;
        let capacity = *bytes.get(usize::try_from(info.basicsize).ok()?.checked_add(values.capacity?)?)?;
        Some((values.values + 8 * usize::from(capacity) + usize::from(capacity).next_multiple_of(8)) as u64)
    }

    /// Bytes that `sys.getsizeof` adds for the GC head and pre-header.
    #[inline(always)]
    fn front_counted(&self, info: &TypeInfo, bytes: &[u8]) -> u64 {
        if info.decides_on_head {
            return 0;
        }
        let is_uncounted = info.has(flag::TYPE_SUBCLASS)
            && !self.is_heap_type(bytes)
            && match self.version.getsizeof_of_static_types() {
                StaticTypeHead::NotCounted => true,
                StaticTypeHead::Counted => false,
                StaticTypeHead::CountedUnderMetatypes => info.address == self.type_type,
            };
        if is_uncounted { 0 } else { info.front as u64 }
    }

    fn is_heap_type(&self, bytes: &[u8]) -> bool {
        u64_at(bytes, self.layout.type_object.tp_flags).is_some_and(|flags| flags >> flag::HEAPTYPE & 1 == 1)
    }

    #[inline(always)]
    fn measure_default(&self, info: &TypeInfo, base: u64, bytes: &[u8]) -> Option<Measured> {
        if info.itemsize == 0 {
            let extent = info.basicsize + self.inline_values(info, bytes)?;
            return Some(Measured { extent, is_fixed: !info.has_inline_values, size: Size::Known(base) });
        }
        self.items(info.basicsize, info.itemsize, info.has(flag::BYTES_SUBCLASS), base, bytes).map(Whole::loose)
    }

    /// An object with `ob_size` inline items after `basicsize` bytes. A bytes object ends with a 0 byte.
    #[inline(always)]
    pub fn items(&self, basicsize: u64, itemsize: u64, is_bytes: bool, base: u64, bytes: &[u8]) -> Option<Whole> {
        let count = (u64_at(bytes, self.layout.var_object.ob_size)? as i64).unsigned_abs();
        let items = count.checked_mul(itemsize).filter(|&items| items < OBJECT_SIZE_MAX)?;
        if is_bytes {
            let end = self.layout.bytes.ob_sval.checked_add(usize::try_from(items).ok()?)?;
            if bytes.get(end).is_some_and(|&byte| byte != 0) {
                return None;
            }
        }
        Some(Whole { extent: basicsize + items, size: base + items })
    }

    /// An int, of a type whose objects have `front` bytes before them.
    #[inline(always)]
    pub fn int(&self, front: u64, bytes: &[u8]) -> Option<Whole> {
        let long = &self.layout.long;
        let digits = match (long.lv_tag, long.ob_size) {
            // Two sign bits (3 is invalid) and one that is reserved or marks a small constant.
            (Some(tag), _) => Some(u64_at(bytes, tag)?).filter(|tag| tag & 3 != 3)? >> 3,
            (None, Some(size)) => (u64_at(bytes, size)? as i64).unsigned_abs(),
            (None, None) => return None,
        };
        if digits > OBJECT_SIZE_MAX / 4 {
            return None;
        }
        let digit =
            |index: u64| u32_at(bytes, long.ob_digit.checked_add(usize::try_from(index).ok()?.checked_mul(4)?)?);
        if digits > 0
            && (digit(0)? >> DIGIT_BITS != 0 || digit(digits - 1).is_some_and(|top| top == 0 || top >> DIGIT_BITS != 0))
        {
            return None;
        }
        let counted = if self.version.int_sizeof_counts_a_digit_of_zero() { digits.max(1) } else { digits };
        let header = long.ob_digit as u64;
        // The fields of a subclass follow the digits; int.__sizeof__ does not count them.
        Some(Whole { extent: header + 4 * digits, size: front + header + 4 * counted })
    }

    /// Bytes of a list's items, which are in a separate block.
    #[inline(always)]
    pub fn list_items(&self, bytes: &[u8]) -> Option<u64> {
        let layout = self.layout;
        let (size, allocated) = (u64_at(bytes, layout.var_object.ob_size)?, u64_at(bytes, layout.list.allocated)?);
        let has_items = u64_at(bytes, layout.list.ob_item)? != 0;
        (size <= allocated && allocated <= OBJECT_SIZE_MAX / 8 && (allocated == 0 || has_items)).then(|| 8 * allocated)
    }

    /// A compact ASCII string, the most common form, of a type whose objects have `front` bytes before them. `None` for
    /// other or invalid ones.
    #[inline(always)]
    pub fn ascii(&self, front: u64, address: Address, bytes: &[u8]) -> Option<Whole> {
        let (unicode, header) = (&self.layout.unicode, self.layout.ascii_unicode.size);
        let state = |bits: Bits| Some(bits.of(u64::from(u32_at(bytes, bits.byte)?)));
        let length = u64_at(bytes, unicode.length)?;
        let is_ascii = state(unicode.kind)? == 1 && state(unicode.compact)? == 1 && state(unicode.ascii)? == 1;
        if !is_ascii || length > OBJECT_SIZE_MAX / 4 || state(unicode.interned)? > 3 {
            return None;
        }
        let end = header.checked_add(usize::try_from(length).ok()?)?;
        if bytes.get(end).is_some_and(|&end| end != 0) {
            return None;
        }
        let extent = header as u64 + length + 1;
        let wstr = self.wstr_bytes(bytes, address.offset(header), Some(length))?;
        Some(Whole { extent, size: front.checked_add(extent)?.checked_add(wstr)? })
    }

    #[inline(always)]
    fn measure_str(&self, info: &TypeInfo, base: u64, address: Address, bytes: &[u8]) -> Option<Measured> {
        let (layout, unicode) = (self.layout, &self.layout.unicode);
        let word = |offset: usize| u64_at(bytes, offset);
        let state = |bits: Bits| Some(bits.of(u64::from(u32_at(bytes, bits.byte)?)));
        let length = word(unicode.length)?;
        let (kind, compact, ascii) = (state(unicode.kind)?, state(unicode.compact)? == 1, state(unicode.ascii)? == 1);
        if length > OBJECT_SIZE_MAX / 4
            || !matches!(kind, 0 | 1 | 2 | 4)
            || (ascii && kind > 1)
            || state(unicode.interned)? > 3
        {
            return None;
        }
        // Text in a separate block: instances of subclasses (`unicode_subtype_new`, `Objects/unicodeobject.c`) and,
        // until 3.11, strings made by old C APIs. Only instances of `str` itself have their text behind the header.
        if compact != info.is_str_itself && (compact || unicode.wstr.is_none()) {
            return None;
        }
        let front = base - info.basicsize;
        if compact && ascii {
            return self.ascii(front, address, bytes).map(Whole::loose);
        }
        let (header, data) = if compact {
            (layout.compact_unicode.size as u64, address.offset(layout.compact_unicode.size))
        } else {
            (unicode.size as u64, Address(word(unicode.data)?))
        };
        // Whether the text has a block of its own.
        let is_block = data.is_null() || (data.0 < OBJECT_SIZE_MAX && data.0.is_multiple_of(8));
        if !compact && !is_block {
            return None;
        }
        let text = if compact || !data.is_null() { (length + 1) * kind } else { 0 };
        if compact {
            let end = usize::try_from(header + length * kind).ok()?;
            let terminator = bytes.get(end..end.checked_add(kind as usize)?);
            if kind == 0 || terminator.is_some_and(|bytes| bytes.iter().any(|&byte| byte != 0)) {
                return None;
            }
        }
        let utf8 = word(unicode.utf8)?;
        let utf8_bytes = match word(unicode.utf8_length)? {
            _ if utf8 == 0 || utf8 == data.0 => 0,
            bytes if bytes <= 4 * length => bytes + 1,
            _ => return None,
        };
        let wstr = self.wstr_bytes(bytes, data, None)?;
        let size = front.checked_add(header)?.checked_add(text)?.checked_add(utf8_bytes)?.checked_add(wstr)?;
        let extent = if compact { header + text } else { header.max(info.basicsize) };
        (size < OBJECT_SIZE_MAX).then_some(Measured { extent, is_fixed: false, size: Size::Known(size) })
    }

    /// Bytes of the text's `wchar_t` copy, until 3.11. For compact ASCII the copy has the length of the string.
    #[inline(always)]
    fn wstr_bytes(&self, bytes: &[u8], data: Address, length: Option<u64>) -> Option<u64> {
        let Some(offset) = self.layout.unicode.wstr else { return Some(0) };
        let wstr = u64_at(bytes, offset)?;
        if wstr == 0 || wstr == data.0 {
            return Some(0);
        }
        let length = match length {
            Some(length) => length,
            None => u64_at(bytes, self.layout.unicode.wstr_length?)?,
        };
        length.checked_add(1)?.checked_mul(4)
    }

    /// Bytes of an OrderedDict's linked list: an array of pointers and a node per item.
    fn ordered_dict_nodes(&self, bytes: &[u8], used: u64) -> Option<u64> {
        let (odict, node) = (&self.layout.odict, &self.layout.odict_node);
        let slots = u64_at(bytes, odict.od_fast_nodes_size)?;
        if slots > OBJECT_SIZE_MAX / 8 {
            return None;
        }
        Some(8 * slots + node.bytes() as u64 * used)
    }

    fn measure_type(&self, info: &TypeInfo, base: u64, bytes: &[u8]) -> Option<Measured> {
        let layout = self.layout;
        let front = base - info.basicsize;
        if !self.is_heap_type(bytes) {
            let size = layout.type_object.size as u64;
            return Some(Measured { extent: size, is_fixed: true, size: Size::Known(front + size) });
        }
        if u64_at(bytes, layout.type_object.tp_flags)? >> flag::READY & 1 == 0 {
            return None;
        }
        // `type.__sizeof__` counts `sizeof(PyHeapTypeObject)`, whatever the metatype adds. A metatype with its own
        // `__sizeof__` starts from its `tp_basicsize`, as in ctypes (`Modules/_ctypes/_ctypes.c`).
        let own = if info.basis == Basis::LowerBound { info.basicsize } else { layout.heap_type.size as u64 };
        let slots = u64_at(bytes, layout.var_object.ob_size)?;
        let extent = info.basicsize.checked_add(slots.checked_mul(info.itemsize)?)?;
        let keys = u64_at(bytes, layout.heap_type.ht_cached_keys)?;
        let size = match keys {
            // A metatype with its own `__sizeof__` need not count the keys.
            _ if keys == 0 || info.basis == Basis::LowerBound => Size::Known(front + own),
            _ => Size::Deferred(Deferred::CachedKeys { keys: Address(keys), base: front + own }),
        };
        Some(Measured { extent, is_fixed: false, size })
    }

    fn measure_code(&self, info: &TypeInfo, base: u64, address: Address, bytes: &[u8]) -> Option<Measured> {
        let layout = self.layout;
        let items = if info.itemsize == 0 { 0 } else { u64_at(bytes, layout.var_object.ob_size)? };
        let items = items.checked_mul(info.itemsize).filter(|&items| items < OBJECT_SIZE_MAX)?;
        let code = &layout.code;
        let is_pointer = |offset: usize| u64_at(bytes, offset).is_some_and(|word| word != 0 && word % 8 == 0);
        let pointers = [code.co_consts, code.co_names, code.co_filename, code.co_name];
        let stack = u64::from(u32_at(bytes, code.co_stacksize)?);
        if !pointers.into_iter().all(is_pointer) || stack >= LOCALS_MAX {
            return None;
        }
        let front = base - info.basicsize;
        let extent = info.basicsize + items;
        let size = front + extent.next_multiple_of(8);
        let hangs = |offset: Option<usize>| {
            offset.is_some_and(|offset| u64_at(bytes, offset).is_some_and(|pointer| pointer != 0))
        };
        let has_extras =
            hangs(Some(layout.code.co_extra)) || hangs(layout.code.co_opcache) || hangs(layout.code.co_cell2arg);
        let size = if has_extras {
            Size::Deferred(Deferred::CodeExtras { code: address, base: size })
        } else {
            Size::Known(size)
        };
        Some(Measured { extent, is_fixed: false, size })
    }

    fn measure_frame(&self, info: &TypeInfo, base: u64, address: Address, bytes: &[u8]) -> Option<Measured> {
        let layout = self.layout;
        let (Some(data), Some(pointer)) = (layout.frame._f_frame_data, layout.frame.f_frame) else {
            // Until 3.10 the size follows from the code object, while the block has room for ob_size items.
            let code = u64_at(bytes, layout.frame.f_code?)?;
            let room = u64_at(bytes, layout.var_object.ob_size)?.checked_mul(info.itemsize)?;
            if code == 0 || room > OBJECT_SIZE_MAX {
                return None;
            }
            let size = Size::Deferred(Deferred::Locals { code: Address(code), base });
            return Some(Measured { extent: info.basicsize + room, is_fixed: false, size });
        };
        let front = base - info.basicsize;
        let base = front + (data + layout.iframe.as_ref()?.localsplus) as u64;
        let frame = Address(u64_at(bytes, pointer)?);
        let deferred = if frame == address.offset(data) {
            Deferred::Locals { code: executable(bytes, data, layout)?, base }
        } else {
            Deferred::FrameCode { frame, base }
        };
        Some(Measured { extent: data as u64, is_fixed: false, size: Size::Deferred(deferred) })
    }

    /// numpy's `PyArrayObject_fields`: data 16, nd 24, dimensions 32, strides 40, base 48, descr 56, flags 64.
    fn measure_ndarray(&self, info: &TypeInfo, base: u64, bytes: &[u8]) -> Option<Measured> {
        let fields = bytes.get(self.layout.object.size.checked_sub(HEADER)?..)?;
        let nd = u64::from(u32_at(fields, 24)?);
        let (dimensions, descr, flags) = (u64_at(fields, 32)?, u64_at(fields, 56)?, u32_at(fields, 64)?);
        if nd > NDARRAY_DIMENSIONS_MAX || descr == 0 || (nd > 0 && dimensions == 0) {
            return None;
        }
        let base = base + 16 * nd;
        let size = if flags & NDARRAY_OWNS_DATA == 0 {
            Size::Known(base)
        } else {
            Size::Deferred(Deferred::NdArrayData {
                dimensions: Address(dimensions),
                count: nd,
                descr: Address(descr),
                base,
            })
        };
        Some(Measured {
            extent: info.basicsize + self.inline_values(info, bytes)?,
            is_fixed: !info.has_inline_values,
            size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::layout::Candidate;

    #[test]
    fn what_a_metatype_adds_is_not_counted_unless_it_counts_itself() {
        let candidate = Candidate::all().iter().find(|candidate| candidate.name == "3.12.1").expect("there is a table");
        let layout = Layout::load(candidate);
        let types = TypeTable::default();
        let measure = Measure::new(&layout, Version::release(3, 12, 1), &types);
        let whole = layout.heap_type.size + 16;
        let size = |basis: Basis| {
            let info = TypeInfo {
                address: Address(0x1000),
                module: "x".to_owned(),
                qualname: "Meta".to_owned(),
                basicsize: whole as u64,
                itemsize: 40,
                flags: 1 << flag::TYPE_SUBCLASS | 1 << flag::HAVE_GC,
                front: 16,
                gc_head: 16,
                has_inline_values: false,
                rule: SizeRule::Type,
                basis,
                decides_on_head: false,
                is_str_itself: false,
                is_python_class: false,
                has_own_allocator: false,
            };
            let mut bytes = vec![0; whole];
            let flags: u64 = 1 << flag::HEAPTYPE | 1 << flag::READY;
            bytes[layout.type_object.tp_flags..][..8].copy_from_slice(&flags.to_le_bytes());
            measure.measure(&info, Address(0x2000), &bytes).map(|measured| measured.size)
        };
        assert_eq!(size(Basis::Exact), Some(Size::Known(16 + layout.heap_type.size as u64)));
        assert_eq!(size(Basis::LowerBound), Some(Size::Known(16 + whole as u64)));
    }
}
