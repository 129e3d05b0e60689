//! Selects the rule by which instances of a type are sized, as `sys.getsizeof` does.
//!
//! `sys.getsizeof` calls the first `__sizeof__` in the type's MRO and adds the GC head and pre-header. So a rule is
//! chosen by the type that defines this method. If the method is other C code or Python code, the next known one is
//! used and the size is marked as a lower bound. The rules are in [`super::measure`] and [`super::deferred`].

use super::library_sizes::LibraryType;

/// How exact a size is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Equal to `sys.getsizeof`.
    Exact,
    /// At most `sys.getsizeof`: the type's own `__sizeof__` is unknown code.
    LowerBound,
}

/// How the instances of a type are sized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SizeRule {
    /// `object.__sizeof__`: `tp_basicsize` plus items, if the type has any.
    Default,
    Int,
    Str,
    List,
    Dict,
    OrderedDict,
    Set,
    ByteArray,
    Deque,
    Type,
    Code,
    /// Generators, coroutines and asynchronous generators.
    Generator,
    Frame,
    Array,
    NdArray,
    /// numpy scalars: the value's bytes are counted in addition to the struct that holds them.
    NumpyScalar(u8),
    BytesIo,
    /// Buffered readers and writers.
    Buffered,
    /// A struct of the standard library or of numpy.
    Library(LibraryType),
    /// A type of `ctypes` (3.13+).
    CtypesType,
}

impl SizeRule {
    /// The rule for a type. `definers` are the types in its MRO that define `__sizeof__`, in order, with their
    /// `tp_name` and whether Python code made them; `names` are the `tp_name`s in its MRO.
    pub fn choose<'a>(
        mut definers: impl Iterator<Item = (&'a str, bool)>,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> (SizeRule, Basis) {
        let mut basis = Basis::Exact;
        definers
            .find_map(|(name, is_python)| {
                let rule = if is_python { None } else { SizeRule::of_definer(name, names.clone()) };
                if rule.is_none() {
                    basis = Basis::LowerBound;
                }
                rule
            })
            .map_or((SizeRule::Default, Basis::LowerBound), |rule| (rule, basis))
    }

    fn of_definer<'a>(name: &str, mut names: impl Iterator<Item = &'a str>) -> Option<SizeRule> {
        Some(match name {
            "object" => SizeRule::Default,
            "int" => SizeRule::Int,
            "str" => SizeRule::Str,
            "list" => SizeRule::List,
            "dict" | "frozendict" => SizeRule::Dict,
            "set" | "frozenset" => SizeRule::Set,
            "bytearray" => SizeRule::ByteArray,
            "type" => SizeRule::Type,
            "code" => SizeRule::Code,
            "generator" | "coroutine" | "async_generator" => SizeRule::Generator,
            "frame" => SizeRule::Frame,
            "collections.deque" => SizeRule::Deque,
            "collections.OrderedDict" => SizeRule::OrderedDict,
            "array.array" => SizeRule::Array,
            "numpy.ndarray" => SizeRule::NdArray,
            "numpy.generic" => names.find_map(|name| match name {
                "numpy.bytes_" | "numpy.void" => Some(SizeRule::Library(LibraryType::NumpyBytes)),
                name => numpy_scalar_bytes(name).map(SizeRule::NumpyScalar),
            })?,
            "_ctypes.CType_Type" => SizeRule::CtypesType,
            "_io.BytesIO" => SizeRule::BytesIo,
            "_io.BufferedReader" | "_io.BufferedWriter" | "_io.BufferedRandom" => SizeRule::Buffered,
            _ => SizeRule::Library(LibraryType::of_definer(name)?),
        })
    }
}

/// Bytes of a numpy scalar's value by type name; `None` for types without a fixed size.
fn numpy_scalar_bytes(tp_name: &str) -> Option<u8> {
    Some(match tp_name.strip_prefix("numpy.")? {
        "bool" | "bool_" | "int8" | "uint8" => 1,
        "int16" | "uint16" | "float16" => 2,
        "int32" | "uint32" | "float32" | "intc" | "uintc" => 4,
        "int64" | "uint64" | "float64" | "longlong" | "ulonglong" | "datetime64" | "timedelta64" | "complex64" => 8,
        "complex128" | "longdouble" | "float128" => 16,
        "clongdouble" | "complex256" => 32,
        _ => return None,
    })
}
