//! How much is expected of a type before any pool is read whole; [`super::beginnings`] says by what.

/// What is expected of a type, in one list of pools or in several. Keys are in order within a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// By strip: the sum over all its units that were looked at.
    pub strips: Vec<(u32, Mean)>,
    /// By unit that was drawn.
    pub units: Vec<(u32, Mean)>,
    /// Where phase 1 was a sample, by the number of the pool among all that it looked at.
    pub heads: Vec<(u32, Mean)>,
}

/// Objects, and bytes of the blocks in which they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    /// Objects.
    pub objects: f64,
    /// Bytes.
    pub bytes: f64,
}

impl Expected {
    /// Adds so many times what is expected elsewhere, or of another type. [`Expected::settle`] is to follow.
    pub fn extend(&mut self, other: &Expected, times: f64) {
        let each = |&(key, mean): &(u32, Mean)| (key, mean.times(times));
        self.strips.extend(other.strips.iter().map(each));
        self.units.extend(other.units.iter().map(each));
        self.heads.extend(other.heads.iter().map(each));
    }

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

impl Mean {
    fn times(self, factor: f64) -> Mean {
        Mean { objects: self.objects * factor, bytes: self.bytes * factor }
    }
}
