//! Completes the sizes of objects whose `__sizeof__` follows pointers.
//!
//! Mirrors the parts of the `__sizeof__` methods that do so; see [`super::measure`].

use crate::process::Address;
use crate::process::memory::{Memory, MemoryExt, u32_at, u64_at};

use super::layout::Layout;
use super::library_sizes::OwnedMemory;
use super::reader::{KeysHeader, dict_size};

/// Upper bound on an object's size: user addresses have 47 bits.
pub(crate) const OBJECT_SIZE_MAX: u64 = 1 << 47;
/// Slots in the keys that a type caches for its instances (3.11+); they have room for 30 names (`SHARED_KEYS_MAX_SIZE`,
/// `Objects/dictobject.c`).
const SHARED_KEYS_SIZE_MAX: u64 = 64;

/// Upper bound on the locals and stack slots of a code object; the compiler's own limit is far lower.
pub(crate) const LOCALS_MAX: u64 = 1 << 24;
/// numpy arrays have at most 64 dimensions (NPY_MAXDIMS; 32 before 2.0).
pub(crate) const NDARRAY_DIMENSIONS_MAX: u64 = 64;
/// Bytes of an object header that the numpy offsets here assume. Free-threaded builds have a longer header.
pub(crate) const HEADER: usize = 16;

/// What must be read outside the object to know its size. Each variant holds the address to read and `base`, the bytes
/// known so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Deferred {
    /// A dict's keys table. Keys are counted unless another dict shares them; values are counted if `split`.
    DictKeys { keys: Address, base: u64, split: bool },
    /// The keys that a type caches for its instances.
    CachedKeys { keys: Address, base: u64 },
    /// A code object, which gives the number of locals of a generator or frame.
    Locals { code: Address, base: u64 },
    /// An interpreter frame, which points to the code.
    FrameCode { frame: Address, base: u64 },
    /// An `array.array`'s descriptor, which gives the item size.
    ArrayItems { descr: Address, count: u64, base: u64 },
    /// A numpy array's dimensions and type.
    NdArrayData { dimensions: Address, count: u64, descr: Address, base: u64 },
    /// The bytes object behind a `BytesIO`.
    BytesIoBuffer { buffer: Address, base: u64 },
    /// Memory attached to a code object: `co_extra`, and the opcode caches of 3.8 to 3.10.
    CodeExtras { code: Address, base: u64 },
    /// What a struct of a library owns.
    Library { owned: OwnedMemory, base: u64 },
}

impl Deferred {
    /// Address and length of the first read, for readers that batch reads.
    pub fn first_read(&self, layout: &Layout) -> (Address, usize) {
        match *self {
            Deferred::DictKeys { keys, .. } | Deferred::CachedKeys { keys, .. } => (keys, KeysHeader::BYTES),
            Deferred::Locals { code, .. } => (code, layout.code.size),
            Deferred::FrameCode { frame, .. } => (frame, layout.iframe.as_ref().map_or(8, |frame| frame.size)),
            Deferred::ArrayItems { descr, .. } => (descr, 8),
            Deferred::NdArrayData { dimensions, count, .. } => {
                (dimensions, 8 * count.min(NDARRAY_DIMENSIONS_MAX) as usize)
            }
            Deferred::BytesIoBuffer { buffer, .. } => (buffer, layout.bytes.size),
            Deferred::CodeExtras { code, .. } => (code, layout.code.size),
            Deferred::Library { owned, .. } => owned.first_read(layout).unwrap_or((Address::NULL, 0)),
        }
    }

    /// Completes the size from the bytes of [`Deferred::first_read`], with further reads from `memory` if needed.
    /// `None` if the bytes make no sense, as when the object changed while it was read.
    pub fn complete<M: Memory + ?Sized>(&self, bytes: &[u8], layout: &Layout, memory: &M) -> Option<u64> {
        match *self {
            Deferred::DictKeys { base, split, .. } => dict_size(bytes, layout, base, split),
            Deferred::CachedKeys { base, .. } => {
                let keys = KeysHeader::parse(bytes, layout)?;
                let is_shared = layout.dict_keys.dk_size.is_some() || keys.size <= SHARED_KEYS_SIZE_MAX;
                base.checked_add(keys.size_bytes(layout)).filter(|_| is_shared)
            }
            Deferred::Locals { base, .. } => {
                let stack = u64::from(u32_at(bytes, layout.code.co_stacksize)?);
                let (slots, counted_already) = match layout.code.co_nlocalsplus {
                    Some(offset) => (u64::from(u32_at(bytes, offset)?) + stack, 0),
                    // sizeof(PyFrameObject) always includes the first slot, even if there is none, as in Cython's
                    // frames.
                    None => (stack + locals_of_old_code(bytes, layout, memory)?, 1),
                };
                (slots < LOCALS_MAX).then(|| (base + 8 * slots).checked_sub(8 * counted_already))?
            }
            Deferred::FrameCode { base, .. } => {
                let code = executable(bytes, 0, layout)?;
                let mut object = vec![0; layout.code.size];
                memory.read_exact_at(code, &mut object).ok()?;
                Deferred::Locals { code, base }.complete(&object, layout, memory)
            }
            Deferred::ArrayItems { count, base, .. } => {
                let itemsize = u64::from(u32_at(bytes, layout.array_descr.itemsize)?);
                (1..=16).contains(&itemsize).then(|| base.checked_add(count.checked_mul(itemsize)?))?
            }
            Deferred::NdArrayData { descr, base, .. } => {
                let items =
                    bytes.chunks_exact(8).try_fold(1u64, |product, word| product.checked_mul(u64_at(word, 0)?))?;
                base.checked_add(items.checked_mul(ndarray_itemsize(memory, layout, descr)?)?)
                    .filter(|&size| size < OBJECT_SIZE_MAX)
            }
            Deferred::BytesIoBuffer { base, .. } => {
                let length = u64_at(bytes, layout.var_object.ob_size)?;
                let own = if is_shared(bytes, layout)? {
                    0
                } else {
                    (layout.bytes.ob_sval as u64 + 1).checked_add(length)?
                };
                base.checked_add(own).filter(|&size| size < OBJECT_SIZE_MAX)
            }
            Deferred::CodeExtras { base, .. } => Some(base + code_extras(bytes, layout, memory)?),
            Deferred::Library { owned, base } => {
                base.checked_add(owned.bytes(bytes, layout, memory).unwrap_or(0)).filter(|&size| size < OBJECT_SIZE_MAX)
            }
        }
    }
}

/// Number of locals, cells and free variables of a code object until 3.10.
fn locals_of_old_code<M: Memory + ?Sized>(code: &[u8], layout: &Layout, memory: &M) -> Option<u64> {
    let length = |offset: Option<usize>| {
        let tuple = Address(u64_at(code, offset?)?);
        memory.read_u64(tuple.offset(layout.var_object.ob_size)).ok().filter(|&length| length < LOCALS_MAX)
    };
    let locals = u64::from(u32_at(code, layout.code.co_nlocals)?);
    Some(locals + length(layout.code.co_cellvars)? + length(layout.code.co_freevars)?)
}

/// Whether an object has more than one reference.
fn is_shared(object: &[u8], layout: &Layout) -> Option<bool> {
    match (layout.object.ob_ref_local, layout.object.ob_ref_shared) {
        (Some(local), Some(shared)) => {
            let others = u64_at(object, shared)? as i64 >> 2;
            Some(i64::from(u32_at(object, local)?).saturating_add(others) > 1)
        }
        _ => Some(u32_at(object, layout.object.ob_refcnt?)? > 1),
    }
}

/// `elsize` of a numpy dtype: an int at offset 32 before numpy 2, at 40 since. A longer object header shifts both.
fn ndarray_itemsize<M: Memory + ?Sized>(memory: &M, layout: &Layout, descr: Address) -> Option<u64> {
    let descr = descr.offset(layout.object.size.checked_sub(HEADER)?);
    let mut bytes = [0; 48];
    memory.read_exact_at(descr, &mut bytes).ok()?;
    let alignment_of_numpy_1 = u32_at(&bytes, 36)?;
    let size = if alignment_of_numpy_1 == 0 { u64_at(&bytes, 40)? } else { u64::from(u32_at(&bytes, 32)?) };
    (size < OBJECT_SIZE_MAX).then_some(size)
}

/// Bytes that `code.__sizeof__` adds for attached memory.
fn code_extras<M: Memory + ?Sized>(code: &[u8], layout: &Layout, memory: &M) -> Option<u64> {
    let pointer = |offset: Option<usize>| Some(Address(u64_at(code, offset?)?)).filter(|address| !address.is_null());
    let length =
        |object: Address| memory.read_u64(object.offset(layout.var_object.ob_size)).ok().filter(|&n| n < 1 << 32);
    let mut size = 0;
    if let Some(extra) = pointer(Some(layout.code.co_extra)) {
        // _PyCodeObjectExtra is a count and that many pointers; the struct's size includes one of them.
        let count = memory.read_u64(extra).ok().filter(|&count| count <= 255)?;
        size += 16 + 8 * count.saturating_sub(1);
    }
    if pointer(layout.code.co_opcache).is_some() {
        /// `sizeof(_PyOpcache)` in 3.8 to 3.10 (`Include/internal/pycore_code.h`).
        const OPCACHE_SIZE: u64 = 32;
        let instructions = length(pointer(layout.code.co_code)?)? / 2;
        size += instructions + OPCACHE_SIZE * u64::from(*code.get(layout.code.co_opcache_size?)?);
    }
    if pointer(layout.code.co_cell2arg).is_some() {
        size += 8 * length(pointer(layout.code.co_cellvars)?)?;
    }
    Some(size)
}

/// The code object of the interpreter frame at `offset` of `bytes`.
pub(crate) fn executable(bytes: &[u8], offset: usize, layout: &Layout) -> Option<Address> {
    let word = u64_at(bytes, offset.checked_add(layout.iframe.as_ref()?.executable)?)?;
    Some(Address(word & !layout.constants.stackref_tag_mask)).filter(|code| !code.is_null() && code.0 % 8 == 0)
}
