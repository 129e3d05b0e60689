//! What the heads of pools let expect: how many objects of each type a pool holds, by the types of its first blocks.
//!
//! Heads are read of all pools, or of many more than are read whole, and the few blocks that come with them tell much of what
//! follows. So they are an auxiliary variable for each type, known before any pool is drawn. [`crate::estimate::estimator`] adds
//! it up over all heads, and has the pools that are read whole say only what that leaves out.
//!
//! How much is to be given on first blocks heads say themselves, strip by strip. Pairs of blocks that are both of a type, of
//! one pool, of near pools and of any two of the strip, give the variance of its part from pool to pool, what near
//! pools share of that, and the variance within a pool. From these follows the best linear prediction of a pool's part
//! (C. R. Henderson, *Best linear unbiased estimation and prediction under a selection model*, Biometrics 31, 1975): so much of
//! what its own blocks say, and so much of what those of near pools say. Where pools are of one type each that is all; where each
//! is like the next one it is nothing, since then they say nothing that the strip as a whole does not.
//!
//! First blocks were allocated one after another, and may be more like each other than like the rest of their pool. How much
//! more heads do not tell; it lies between what blocks of one head and what near pools have in common. So there are two
//! predictions, one for each ([`Views`]), between which the pools that are read whole decide. Of a pool of large blocks only one
//! is read; there near pools stand for a pair of one pool, and both say the same.

use std::ops::Range;

use super::pool_headers::Beginning;
use super::prediction::{Expected, Views};

/// Pools that are near: so many on either side.
const NEAR: usize = 4;
/// What pools of other strips say counts as much as so many pools of the strip itself.
const USUAL: f64 = 16.0;

/// A pool whose head was read.
pub(crate) struct Begun<'a> {
    pub(crate) beginning: &'a Beginning,
    pub(crate) strip: u32,
    /// Where it is to be read whole.
    pub(crate) unit: Option<u32>,
    /// LargeBlocks in use.
    pub(crate) in_use: f64,
    /// Among all that phase 1 looked at.
    pub(crate) number: u32,
}

/// A type among the first blocks of a pool.
struct Sighting {
    type_id: u32,
    pool: u32,
    blocks: f64,
}

/// Pools of a list, and sums over them, one by one and in strips.
struct Pools<'a> {
    list: &'a [Begun<'a>],
    /// LargeBlocks of the first so many pools.
    before: Vec<f64>,
    strips: Vec<Pairs>,
    first: u32,
    /// LargeBlocks of a pool, on average.
    each: f64,
}

/// Pools of a strip, their first blocks, and pairs of these.
#[derive(Clone, Copy, Debug, Default)]
struct Pairs {
    pools: f64,
    blocks: f64,
    /// Of the blocks of each pool.
    squares: f64,
    /// Both in one pool, in near ones, in any two.
    one: f64,
    near: f64,
    two: f64,
}

/// Chances that blocks are of a type: one block, and both of a pair of one pool, of near pools, and of any two of a strip.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    block: f64,
    one: f64,
    near: f64,
    two: f64,
}

/// Says what the pools of one list, in order of strips, let expect, by type.
pub(crate) fn expect(list: &[Begun<'_>], is_sampled: bool) -> Vec<(u32, Expected<Views>)> {
    let mut expected = Vec::new();
    let Some(pools) = Pools::of(list) else { return expected };
    let mut own = vec![0.0; list.len()];
    let mut near = vec![0.0; list.len()];
    let mut touched: Vec<usize> = Vec::new();
    for of_type in sightings(list).chunk_by(|a, b| a.type_id == b.type_id) {
        touched.clear();
        for sighting in of_type {
            let pool = sighting.pool as usize;
            own[pool] = sighting.blocks;
            let around = pools.around(pool);
            let new = touched.last().map_or(around.start, |&last| (last + 1).max(around.start));
            touched.extend(new..around.end);
            around.filter(|&other| other != pool).for_each(|other| near[other] += sighting.blocks);
        }
        let strip_of = |pool: &usize| list[*pool].strip;
        let of_strips: Vec<(&[usize], Parts)> = (touched.chunk_by(|a, b| strip_of(a) == strip_of(b)))
            .map(|of_strip| (of_strip, pools.parts(of_strip, &own, &near)))
            .collect();
        let (mut all, mut weight) = (Parts::default(), 0.0);
        for (of_strip, parts) in &of_strips {
            let strip = pools.strip(of_strip);
            all.add(parts, strip.pools);
            weight += strip.pools;
        }
        let all = all.times(1.0 / weight);
        let mut of_list = Expected::default();
        for (of_strip, parts) in of_strips {
            let strip = pools.strip(of_strip);
            let mut parts = parts.times(strip.pools);
            parts.add(&all, USUAL);
            let parts = parts.times(1.0 / (strip.pools + USUAL));
            let mut sum = Views::default();
            for &pool in of_strip {
                let begun = &list[pool];
                let views = pools.part(pool, &parts, own[pool], near[pool]).times(begun.in_use);
                if views.is_nothing() {
                    continue;
                }
                sum.add(views);
                of_list.units.extend(begun.unit.map(|unit| (unit, views)));
                if is_sampled {
                    of_list.heads.push((begun.number, views));
                }
            }
            if !sum.is_nothing() {
                of_list.strips.push((strip_of(&of_strip[0]), sum));
            }
        }
        of_list.units.sort_unstable_by_key(|&(unit, _)| unit);
        if !of_list.strips.is_empty() {
            expected.push((of_type[0].type_id, of_list));
        }
        touched.iter().for_each(|&pool| (own[pool], near[pool]) = (0.0, 0.0));
    }
    expected
}

/// A share, of something or of nothing.
fn ratio(part: f64, all: f64) -> f64 {
    if all > 0.0 { part / all } else { 0.0 }
}

/// By type, and of each in order of pools.
fn sightings(list: &[Begun<'_>]) -> Vec<Sighting> {
    let mut sightings: Vec<Sighting> = Vec::with_capacity(list.len() * 2);
    for (begun, pool) in list.iter().zip(0_u32..) {
        let types = begun.beginning.types();
        for (index, type_id) in types.iter().enumerate() {
            let Some(id) = type_id.filter(|_| !types[..index].contains(type_id)) else { continue };
            let blocks = types.iter().filter(|other| *other == type_id).count() as f64;
            sightings.push(Sighting { type_id: id.0, pool, blocks });
        }
    }
    sightings.sort_by_key(|sighting| sighting.type_id);
    sightings
}

impl<'a> Pools<'a> {
    /// `None` where there are none.
    fn of(list: &'a [Begun<'a>]) -> Option<Pools<'a>> {
        let (first, last) = (list.first()?.strip, list.last()?.strip);
        let mut before = vec![0.0; list.len() + 1];
        for (index, begun) in list.iter().enumerate() {
            before[index + 1] = before[index] + begun.beginning.types().len() as f64;
        }
        let each = before[list.len()] / list.len() as f64;
        let strips = vec![Pairs::default(); (last - first) as usize + 1];
        let mut pools = Pools { list, before, strips, first, each };
        for (index, begun) in list.iter().enumerate() {
            let blocks = pools.blocks(index..index + 1);
            let near = pools.blocks(pools.around(index)) - blocks;
            let strip = &mut pools.strips[(begun.strip - first) as usize];
            strip.pools += 1.0;
            strip.blocks += blocks;
            strip.squares += blocks * blocks;
            strip.one += blocks * (blocks - 1.0);
            strip.near += blocks * near;
        }
        pools.strips.iter_mut().for_each(|strip| strip.two = strip.blocks.powi(2) - strip.squares);
        Some(pools)
    }

    /// A pool and those near it.
    fn around(&self, pool: usize) -> Range<usize> {
        pool.saturating_sub(NEAR)..(pool + NEAR + 1).min(self.list.len())
    }

    fn blocks(&self, pools: Range<usize>) -> f64 {
        self.before[pools.end] - self.before[pools.start]
    }

    /// The strip in which these are.
    fn strip(&self, pools: &[usize]) -> &Pairs {
        &self.strips[(self.list[pools[0]].strip - self.first) as usize]
    }

    /// What the blocks of one strip's pools say, of which these are the ones that say anything.
    fn parts(&self, pools: &[usize], own: &[f64], near: &[f64]) -> Parts {
        let strip = self.strip(pools);
        let sum = |of: &dyn Fn(usize) -> f64| pools.iter().map(|&pool| of(pool)).sum::<f64>();
        let (blocks, squares) = (sum(&|pool| own[pool]), sum(&|pool| own[pool].powi(2)));
        let near = ratio(sum(&|pool| own[pool] * near[pool]), strip.near);
        let one = if strip.one > 0.0 { (squares - blocks) / strip.one } else { near };
        Parts { block: ratio(blocks, strip.blocks), one, near, two: ratio(blocks.powi(2) - squares, strip.two) }
    }

    /// What part of a pool's blocks is expected to be of a type, where so many of its own first ones are and of near pools'.
    fn part(&self, pool: usize, parts: &Parts, own: f64, near: f64) -> Views {
        // Variances of its part: among first blocks, what near pools share of that, and what the rest of the pool does.
        let first = (parts.one - parts.two).max(0.0);
        let shared = (parts.near - parts.two).clamp(0.0, first);
        let within = (parts.block - parts.one).max(0.0);
        let around = self.around(pool);
        let blocks = self.blocks(pool..pool + 1);
        let near_blocks = self.blocks(around.clone()) - blocks;
        let others = (around.len() - 1) as f64;
        let of_own = first + within / blocks.max(1.0);
        let of_near = shared + ratio(first + within / self.each.max(1.0) - shared, others);
        let determinant = of_own * of_near - shared * shared;
        let (own, near) = (ratio(own, blocks), ratio(near, near_blocks));
        // `between`: the variance of its part that its own first blocks tell of.
        let view = |between: f64| {
            if determinant <= 0.0 {
                // Near pools say what the pool itself says.
                return ratio(between, of_own) * own;
            }
            let by_own = (between * of_near - shared * shared) / determinant;
            let by_near = shared * (of_own - between) / determinant;
            by_own * own + by_near * near
        };
        Views { own: view(first), near: view(shared) }
    }
}

impl Parts {
    fn add(&mut self, other: &Parts, times: f64) {
        self.block += other.block * times;
        self.one += other.one * times;
        self.near += other.near * times;
        self.two += other.two * times;
    }

    fn times(&self, factor: f64) -> Parts {
        let mut parts = Parts::default();
        parts.add(self, factor);
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::types::TypeId;

    /// What is expected of type 0 in pools of 100 blocks, as parts of what they hold, by pool.
    fn parts(beginnings: &[Beginning]) -> Vec<Views> {
        let begun: Vec<Begun<'_>> = (beginnings.iter().zip(0..))
            .map(|(beginning, unit)| Begun {
                beginning,
                strip: unit / 40,
                unit: Some(unit),
                in_use: 100.0,
                number: unit,
            })
            .collect();
        let expected = expect(&begun, false);
        let of_type = || expected.iter().filter(|(id, _)| *id == 0).map(|(_, of_list)| of_list);
        let mut parts = vec![Views::default(); beginnings.len()];
        let mut sum = Views::default();
        for (unit, views) in of_type().flat_map(|of_list| &of_list.units) {
            parts[*unit as usize] = views.times(0.01);
            sum.add(*views);
        }
        of_type().flat_map(|of_list| &of_list.strips).for_each(|(_, views)| sum.add(views.times(-1.0)));
        assert!(sum.own.abs() < 1e-6 && sum.near.abs() < 1e-6, "{sum:?}");
        parts
    }

    fn of(types: &[u32]) -> Beginning {
        Beginning::of(types.iter().map(|&id| Some(TypeId(id))))
    }

    #[test]
    fn runs_are_expected_and_mixtures_are_not() {
        // Pools are of one type each, twenty by twenty.
        let is_one = |pool: usize| pool / 20 % 2 == 1;
        let runs: Vec<Beginning> = (0..400).map(|pool| of(&[u32::from(is_one(pool)); 3])).collect();
        let large: Vec<Beginning> = (0..400).map(|pool| of(&[u32::from(is_one(pool))])).collect();
        for beginnings in [runs, large] {
            for (pool, part) in parts(&beginnings).into_iter().enumerate() {
                let truth = if is_one(pool) { 0.0 } else { 1.0 };
                // At the ends of runs near pools disagree.
                let most = if (6..14).contains(&(pool % 20)) { 0.3 } else { 0.7 };
                assert!((part.near - truth).abs() < most, "pool {pool}: {part:?}");
                // One block says of its pool what near pools say of it.
                let most = if beginnings[pool].types().len() > 1 { 1e-6 } else { most };
                assert!((part.own - truth).abs() < most, "pool {pool}: {part:?}");
            }
        }
        // Each pool holds both, and its first blocks are of the one or the other by chance.
        let mut rng = fastrand::Rng::with_seed(1);
        let mixed: Vec<Beginning> = (0..400).map(|_| of(&[rng.u32(..2), rng.u32(..2), rng.u32(..2)])).collect();
        let parts = parts(&mixed);
        for view in [|part: &Views| part.own, |part: &Views| part.near] {
            let mean = parts.iter().map(view).sum::<f64>() / 400.0;
            let spread = parts.iter().map(|part| (view(part) - mean).powi(2)).sum::<f64>() / 400.0;
            // What the blocks say spreads by 0.29.
            assert!(spread.sqrt() < 0.1, "{spread}");
        }
    }

    #[test]
    fn nothing_is_expected_of_nothing() {
        assert!(parts(&[]).is_empty());
        assert_eq!(parts(&[Beginning::default(); 3]), [Views::default(); 3]);
        assert!(parts(&[of(&[0, 0])]).iter().all(|part| (0.0..=1.0).contains(&part.own)));
    }
}
