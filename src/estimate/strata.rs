//! Which units of a list are read: the survey design of [`crate::estimate::design`].
//!
//! A list of units (pools of one size class, windows of malloc's heaps, large mappings) stands in order of address, and so
//! about in order of age. It is cut into **strips** of neighbours, from each of which [`DRAWS`] units are drawn (stratified
//! sampling, W. G. Cochran, *Sampling Techniques*, 3rd edition, 1977, 5A.8: units that are drawn from short strips differ
//! little, and the more strips, the more is known of the spread). Within a strip units are drawn with a chance in
//! proportion to a measure of size, without replacement: they are put in random order, and every so many units of size one is
//! taken (H. O. Hartley and J. N. K. Rao, *Sampling with unequal probabilities and without replacement*, Annals of
//! Mathematical Statistics 33, 1962). What would have a chance of 1 or more is read in any case: a certainty stratum
//! (C.-E. Särndal, B. Swensson and J. Wretman, *Model Assisted Survey Sampling*, 1992, 3.6.2).

use fastrand::Rng;

/// Units drawn from a strip. Few make short strips, which lose less to types that cluster; but the spread within a strip is
/// then less well known. Chosen by simulation (`tests/all/estimate.rs`).
pub const DRAWS: usize = 4;

/// A unit that is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selection {
    /// Its index in the list.
    pub index: usize,
    /// Its strip.
    pub strip: usize,
    /// The chance that it had; 1 for those that are read in any case.
    pub chance: f64,
}

/// What is drawn from a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StrataDraw {
    /// The units that are read, strip by strip.
    pub picks: Vec<Selection>,
    /// The strip of each unit of the list; `None` for those that are read in any case and belong to none.
    pub strips: Vec<Option<usize>>,
    /// How many strips there are.
    pub count: usize,
}

/// Draws about `wanted` units of a list with these sizes, which are positive. `weights` says how much more than by its size a
/// unit is wanted: where it is large strips are short, or all units are read; within a strip only size counts, so that
/// strips in which the weight changes are no worse than others. `keeps`: units that are read in any case stay in their
/// strip, with a chance of 1.
pub fn draw(sizes: &[f64], weights: &[f64], wanted: u64, keeps: bool, rng: &mut Rng) -> StrataDraw {
    let weighted: Vec<f64> = sizes.iter().zip(weights).map(|(size, weight)| size * weight).collect();
    let mut drawing = StrataDraw { strips: vec![None; sizes.len()], ..StrataDraw::default() };
    // The last tenth would cost more in doubt than in reading.
    let wanted = if wanted as f64 > 0.9 * sizes.len() as f64 { sizes.len() as u64 } else { wanted };
    let certain = certain(&weighted, wanted);
    let rest: Vec<usize> = (0..sizes.len()).filter(|&index| keeps || !certain[index]).collect();
    drawing.picks.extend((0..sizes.len()).filter(|&index| !keeps && certain[index]).map(|index| Selection {
        index,
        strip: usize::MAX,
        chance: 1.0,
    }));
    let left = wanted.saturating_sub(drawing.picks.len() as u64);
    let count = (left as usize / DRAWS).max(1);
    let total: f64 = rest.iter().map(|&index| weighted[index]).sum();
    let mut before = 0.0;
    let mut strips: Vec<Vec<usize>> = vec![Vec::new(); count];
    for &index in &rest {
        let middle = (before + weighted[index] / 2.0) / total;
        before += weighted[index];
        strips[((middle * count as f64) as usize).min(count - 1)].push(index);
    }
    for members in strips.into_iter().filter(|members| !members.is_empty()) {
        let strip = drawing.count;
        let first = drawing.picks.len();
        draw_strip(sizes, members, strip, keeps, rng, &mut drawing);
        if drawing.picks[first..].iter().any(|pick| pick.strip == strip) {
            drawing.count += 1;
        }
    }
    drawing
}

/// Those that have a chance of 1 if `wanted` are drawn in proportion to size.
fn certain(sizes: &[f64], wanted: u64) -> Vec<bool> {
    if wanted >= sizes.len() as u64 {
        // Not left to rounding.
        return vec![true; sizes.len()];
    }
    let mut certain = vec![false; sizes.len()];
    loop {
        let taken = certain.iter().filter(|&&certain| certain).count() as f64;
        let total: f64 = sizes.iter().zip(&certain).filter(|&(_, &certain)| !certain).map(|(size, _)| size).sum();
        let each = (wanted as f64 - taken) / total;
        let mut is_settled = true;
        for (size, certain) in sizes.iter().zip(&mut certain) {
            if !*certain && size * each >= 1.0 {
                (*certain, is_settled) = (true, false);
            }
        }
        if is_settled {
            return certain;
        }
    }
}

fn draw_strip(
    sizes: &[f64],
    mut members: Vec<usize>,
    strip: usize,
    keeps: bool,
    rng: &mut Rng,
    drawing: &mut StrataDraw,
) {
    let mut draws = DRAWS;
    if keeps {
        members.iter().for_each(|&index| drawing.strips[index] = Some(strip));
    }
    let of_certain = if keeps { strip } else { usize::MAX };
    let each = loop {
        if members.len() <= draws {
            drawing.picks.extend(members.iter().map(|&index| Selection { index, strip: of_certain, chance: 1.0 }));
            return;
        }
        let total: f64 = members.iter().map(|&index| sizes[index]).sum();
        let each = draws as f64 / total;
        let (certain, rest): (Vec<usize>, Vec<usize>) = members.iter().partition(|&&index| sizes[index] * each >= 1.0);
        if certain.is_empty() {
            break each;
        }
        drawing.picks.extend(certain.iter().map(|&index| Selection { index, strip: of_certain, chance: 1.0 }));
        // Never fewer than two: the spread could not be told from one.
        draws = draws.saturating_sub(certain.len()).max(2);
        members = rest;
    };
    members.iter().for_each(|&index| drawing.strips[index] = Some(strip));
    rng.shuffle(&mut members);
    let mut next = rng.f64();
    let mut sum = 0.0;
    let mut taken = 0;
    for &index in &members {
        sum += sizes[index] * each;
        if sum > next && taken < draws {
            drawing.picks.push(Selection { index, strip, chance: sizes[index] * each });
            next += 1.0;
            taken += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over many draws each unit is read as often as its chance says, and the expansion is unbiased.
    #[test]
    fn chances_are_kept() {
        let sizes: Vec<f64> =
            (0..60).map(|index| f64::from(1 + index % 7) * if index == 30 { 40.0 } else { 1.0 }).collect();
        let values: Vec<f64> = (0..60).map(|index| f64::from(index * index % 11)).collect();
        for keeps in [false, true] {
            let mut rng = Rng::with_seed(3);
            let weights: Vec<f64> = (0..60).map(|index| if index < 10 { 2.5 } else { 1.0 }).collect();
            let mut sum = 0.0;
            const TIMES: usize = 20_000;
            for _ in 0..TIMES {
                let drawing = draw(&sizes, &weights, 16, keeps, &mut rng);
                assert!((12..=20).contains(&drawing.picks.len()), "{}", drawing.picks.len());
                sum += drawing.picks.iter().map(|pick| values[pick.index] / pick.chance).sum::<f64>();
            }
            let truth: f64 = values.iter().sum();
            assert!((sum / TIMES as f64 / truth - 1.0).abs() < 0.01, "{} {truth}", sum / TIMES as f64);
        }
    }

    #[test]
    fn all_are_read_where_all_are_wanted() {
        let drawing = draw(&[1.0, 5.0, 2.0], &[1.0; 3], 9, false, &mut Rng::with_seed(1));
        assert_eq!(drawing.picks.len(), 3);
        assert!(drawing.strips.iter().all(Option::is_none) && drawing.count == 0);
        // Sums of such numbers are rounded.
        let sizes: Vec<f64> = (0..997).map(|index| f64::from(1 + index % 37)).collect();
        let weights: Vec<f64> = (0..997).map(|index| f64::from(1 + index % 7)).collect();
        for count in 1..sizes.len() {
            let drawing = draw(&sizes[..count], &weights[..count], count as u64, false, &mut Rng::with_seed(1));
            assert!(drawing.picks.len() == count && drawing.count == 0, "{count}");
        }
        assert_eq!(draw(&[], &[], 9, false, &mut Rng::with_seed(1)).picks, []);
    }
}
