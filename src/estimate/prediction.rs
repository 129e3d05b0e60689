//! How much is expected of a type before any pool is read whole; [`crate::estimate::predictor`] says by what.

/// What is expected of a type, in one list of pools or in several. Keys are in order within a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected<T> {
    /// By strip: the sum over all its units that were looked at.
    pub strips: Vec<(u32, T)>,
    /// By unit that was drawn.
    pub units: Vec<(u32, T)>,
    /// Where phase 1 was a sample, by the number of the pool among all that it looked at.
    pub heads: Vec<(u32, T)>,
}

/// What first blocks let expect of a type in one list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// The list: its index in the sample.
    pub list: usize,
    /// Bytes of a block.
    pub block: f64,
    /// Objects.
    pub expected: Expected<Views>,
}

/// Objects, by two views of what the first blocks of pools say. Which of them is right, and how far, is seen in the pools that
/// are read whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Views {
    /// If a pool is as its own first blocks are.
    pub own: f64,
    /// If they say no more of it than those of near pools do.
    pub near: f64,
}

/// Objects, and bytes of the blocks in which they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    /// Objects.
    pub objects: f64,
    /// Bytes.
    pub bytes: f64,
}

impl<T> Expected<T> {
    /// Adds what is expected elsewhere, or of another type, each made by `of`. [`Expected::settle`] is to follow.
    pub fn extend<U>(&mut self, other: &Expected<U>, of: impl Fn(&U) -> T) {
        let each = |(key, value): &(u32, U)| (*key, of(value));
        self.strips.extend(other.strips.iter().map(each));
        self.units.extend(other.units.iter().map(each));
        self.heads.extend(other.heads.iter().map(each));
    }
}

impl Expected<Mean> {
    /// Puts keys in order, and adds up what has the same one.
    pub fn settle(&mut self) {
        for means in [&mut self.strips, &mut self.units, &mut self.heads] {
            means.sort_by_key(|&(key, _)| key);
            means.dedup_by(|next, sum| {
                let is_same = next.0 == sum.0;
                if is_same {
                    sum.1.objects += next.1.objects;
                    sum.1.bytes += next.1.bytes;
                }
                is_same
            });
        }
    }
}

impl Views {
    /// Whether nothing is expected.
    pub fn is_nothing(&self) -> bool {
        self.own == 0.0 && self.near == 0.0
    }

    /// Adds what is expected elsewhere, view by view.
    pub fn add(&mut self, other: Views) {
        self.own += other.own;
        self.near += other.near;
    }

    /// So many times as much.
    pub fn times(self, factor: f64) -> Views {
        Views { own: self.own * factor, near: self.near * factor }
    }
}
