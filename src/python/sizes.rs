//! By which rule is an object sized, as `sys.getsizeof` counts?
//!
//! `sys.getsizeof` calls the first `__sizeof__` of the type's MRO and adds what lies in front of the object. So the
//! rule of a type is named by which type defines that method, and a type whose `__sizeof__` we cannot follow (other
//! C code, or Python code) is sized by the next one we can and marked as a lower bound. What each rule does is in
//! [`super::measure`] and [`super::deferred`].

/// What a size is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// What `sys.getsizeof` says.
    Exact,
    /// `sys.getsizeof` says at least this: the type's own `__sizeof__` is code that we cannot follow.
    LowerBound,
}

/// How the instances of a type are sized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SizeRule {
    /// `object.__sizeof__`: `tp_basicsize`, plus items where the type has them.
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
    /// numpy scalars: the value's bytes are counted beside the struct that holds them.
    NumpyScalar(u8),
    BytesIo,
    /// Readers and writers with a buffer of their own.
    Buffered,
}

impl SizeRule {
    /// The rule for a type, given which types of its MRO define `__sizeof__` (their `tp_name`, and whether Python
    /// code made them), in order, and the type's own `tp_name`.
    pub fn choose<'a>(mut definers: impl Iterator<Item = (&'a str, bool)>, tp_name: &str) -> (SizeRule, Basis) {
        let mut basis = Basis::Exact;
        definers
            .find_map(|(name, is_python)| {
                let rule = if is_python { None } else { SizeRule::of_definer(name, tp_name) };
                if rule.is_none() {
                    basis = Basis::LowerBound;
                }
                rule
            })
            .map_or((SizeRule::Default, Basis::LowerBound), |rule| (rule, basis))
    }

    fn of_definer(name: &str, tp_name: &str) -> Option<SizeRule> {
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
            "numpy.generic" => SizeRule::NumpyScalar(numpy_scalar_bytes(tp_name)?),
            "_io.BytesIO" => SizeRule::BytesIo,
            "_io.BufferedReader" | "_io.BufferedWriter" | "_io.BufferedRandom" => SizeRule::Buffered,
            _ => return None,
        })
    }
}

/// Bytes of a numpy scalar's value, by the scalar type's name; `None` for those of no fixed size.
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
