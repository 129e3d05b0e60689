//! Where the instances of a type keep their references.

/// How the instances of a type keep references outside their body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// They keep none anywhere: numbers, strings.
    Leaf,
    /// They keep none outside.
    Plain,
    List,
    Tuple,
    Dict,
    OrderedDict,
    Set,
    Deque,
    /// A C struct of which nothing is known but its dict. Which other words own a reference is settled by
    /// reference counts; see [`super::settle`].
    Opaque,
    /// Objects follow the fixed part.
    Items,
    /// Generators, coroutines, asynchronous generators.
    Generator,
    Frame,
    Code,
    Type,
    Module,
    Element,
    SimpleQueue,
    LruCache,
    /// A time zone is its last word, where it has one.
    TimeOfDay,
    /// What an iterator that was doubled read so far.
    TeePiece,
    NdArray,
}
