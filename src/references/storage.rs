//! Where instances of a type keep their references.

/// How instances of a type keep references outside their body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// No references at all: numbers, strings.
    Leaf,
    /// No references outside the body.
    Plain,
    List,
    Tuple,
    Dict,
    OrderedDict,
    Set,
    Deque,
    /// A C struct of which only the dict is known. Reference counts decide which other words own a reference; see
    /// [`super::settle`].
    Opaque,
    /// A node of a HAMT: keys and values follow the fixed part.
    Hamt,
    /// Generators, coroutines, asynchronous generators.
    Generator,
    Frame,
    Code,
    Type,
    Module,
    Element,
    SimpleQueue,
    LruCache,
    /// A time zone in the last word, if there is one.
    TimeOfDay,
    /// The items that an `itertools.tee` iterator has read so far.
    TeePiece,
    NdArray,
    /// The iterators of a `numpy.broadcast`, as many as it counts.
    NdBroadcast,
}
