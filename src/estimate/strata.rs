//! Draws units from a list by stratified sampling with probabilities in proportion to size.
//!
//! A list of units (pools of one size class, windows of malloc heaps, large mappings) is in order of address, and so
//! roughly in order of age. It is cut into **strata** of neighbours, and [`DRAWS`] units are drawn from each (W. G.
//! Cochran, *Sampling Techniques*, 3rd edition, 1977, 5A.8): neighbours differ little, and many short strata give a
//! good estimate of the variance. Within a stratum the draw is systematic with unequal probabilities over randomly
//! ordered units (H. O. Hartley and J. N. K. Rao, *Sampling with unequal probabilities and without replacement*,
//! Annals of Mathematical Statistics 33, 1962). A unit whose probability would reach 1 is always read: a certainty
//! stratum (C.-E. Särndal, B. Swensson and J. Wretman, *Model Assisted Survey Sampling*, 1992, 3.6.2).

use fastrand::Rng;

/// Units drawn per stratum. Fewer make shorter strata, which suit clustered types, but leave the variance within each
/// less well known. Chosen by simulation (`tests/estimate.rs`).
pub const DRAWS: usize = 4;

/// Beyond this share of a list all of it is read: the rest would cost more in uncertainty than it saves in reading.
const WHOLE: f64 = 0.9;

/// A unit that is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selection {
    /// Its index in the list.
    pub index: usize,
    /// Its stratum; `usize::MAX` if it is always read.
    pub stratum: usize,
    /// Its inclusion probability; 1 if it is always read.
    pub probability: f64,
}

/// What is drawn from a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StrataDraw {
    /// The units that are read, stratum by stratum.
    pub selections: Vec<Selection>,
    /// The stratum of each unit of the list; `None` for units that are always read and belong to none.
    pub strata: Vec<Option<usize>>,
    /// Number of strata.
    pub count: usize,
}

/// Draws about `wanted` units of a list with these positive sizes. `weights` multiplies a unit's share of the sample
/// beyond its size: where it is large, strata are short or all units are read. Within a stratum only the size counts,
/// so that strata in which the weight changes are no worse than others. With `keeps`, units that are always read stay
/// in their stratum, with probability 1.
pub fn draw(sizes: &[f64], weights: &[f64], wanted: u64, keeps: bool, rng: &mut Rng) -> StrataDraw {
    let weighted: Vec<f64> = sizes.iter().zip(weights).map(|(size, weight)| size * weight).collect();
    let mut drawing = StrataDraw { strata: vec![None; sizes.len()], ..StrataDraw::default() };
    let wanted = if wanted as f64 > WHOLE * sizes.len() as f64 { sizes.len() as u64 } else { wanted };
    let certain = certain(&weighted, wanted);
    let rest: Vec<usize> = (0..sizes.len()).filter(|&index| keeps || !certain[index]).collect();
    let always = (0..sizes.len()).filter(|&index| !keeps && certain[index]);
    drawing.selections.extend(always.map(|index| Selection { index, stratum: usize::MAX, probability: 1.0 }));
    let left = wanted.saturating_sub(drawing.selections.len() as u64);
    let count = (left as usize / DRAWS).max(1);
    let total: f64 = rest.iter().map(|&index| weighted[index]).sum();
    let mut before = 0.0;
    let mut strata: Vec<Vec<usize>> = vec![Vec::new(); count];
    for &index in &rest {
        let middle = (before + weighted[index] / 2.0) / total;
        before += weighted[index];
        strata[((middle * count as f64) as usize).min(count - 1)].push(index);
    }
    for members in strata.into_iter().filter(|members| !members.is_empty()) {
        let stratum = drawing.count;
        let first = drawing.selections.len();
        draw_stratum(sizes, members, stratum, keeps, rng, &mut drawing);
        if drawing.selections[first..].iter().any(|selection| selection.stratum == stratum) {
            drawing.count += 1;
        }
    }
    drawing
}

/// Marks the units whose probability would reach 1 if `wanted` were drawn in proportion to size.
fn certain(sizes: &[f64], wanted: u64) -> Vec<bool> {
    if wanted >= sizes.len() as u64 {
        // Not affected by rounding.
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

fn draw_stratum(
    sizes: &[f64],
    mut members: Vec<usize>,
    stratum: usize,
    keeps: bool,
    rng: &mut Rng,
    drawing: &mut StrataDraw,
) {
    let mut draws = DRAWS;
    if keeps {
        members.iter().for_each(|&index| drawing.strata[index] = Some(stratum));
    }
    let of_certain = if keeps { stratum } else { usize::MAX };
    let always = |&index: &usize| Selection { index, stratum: of_certain, probability: 1.0 };
    let each = loop {
        if members.len() <= draws {
            drawing.selections.extend(members.iter().map(always));
            return;
        }
        let total: f64 = members.iter().map(|&index| sizes[index]).sum();
        let each = draws as f64 / total;
        let (certain, rest): (Vec<usize>, Vec<usize>) = members.iter().partition(|&&index| sizes[index] * each >= 1.0);
        if certain.is_empty() {
            break each;
        }
        drawing.selections.extend(certain.iter().map(always));
        // At least two: one unit has no variance.
        draws = draws.saturating_sub(certain.len()).max(2);
        members = rest;
    };
    members.iter().for_each(|&index| drawing.strata[index] = Some(stratum));
    rng.shuffle(&mut members);
    let mut next = rng.f64();
    let mut sum = 0.0;
    let mut taken = 0;
    for &index in &members {
        sum += sizes[index] * each;
        if sum > next && taken < draws {
            drawing.selections.push(Selection { index, stratum, probability: sizes[index] * each });
            next += 1.0;
            taken += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: usize = 20_000;

    /// Sizes from 1 to 7, one of them 160, which is always read.
    fn sizes() -> Vec<f64> {
        (0..60).map(|index| f64::from(1 + index % 7) * if index == 30 { 40.0 } else { 1.0 }).collect()
    }

    fn weights() -> Vec<f64> {
        (0..60).map(|index| if index < 10 { 2.5 } else { 1.0 }).collect()
    }

    #[test]
    fn every_unit_is_drawn_as_often_as_its_probability_says() {
        for keeps in [false, true] {
            let mut rng = Rng::with_seed(3);
            let (mut drawn, mut probabilities) = (vec![0_usize; 60], vec![None; 60]);
            for _ in 0..TIMES {
                let drawing = draw(&sizes(), &weights(), 16, keeps, &mut rng);
                assert!((12..=20).contains(&drawing.selections.len()), "{}", drawing.selections.len());
                for selection in drawing.selections {
                    drawn[selection.index] += 1;
                    // The design alone decides it, not the draw.
                    let known = *probabilities[selection.index].get_or_insert(selection.probability);
                    assert_eq!(selection.probability, known);
                }
            }
            for (index, (count, probability)) in drawn.into_iter().zip(probabilities).enumerate() {
                let probability: f64 = probability.expect("each unit is drawn sometimes");
                // Five standard errors of a share.
                let slack = 5.0 * (probability * (1.0 - probability) / TIMES as f64).sqrt();
                let share = count as f64 / TIMES as f64;
                assert!((share - probability).abs() <= slack, "{index}: {share} of {probability}");
            }
        }
    }

    #[test]
    fn the_expansion_of_a_draw_is_unbiased() {
        let values: Vec<f64> = (0..60).map(|index| f64::from(index * index % 11)).collect();
        let truth: f64 = values.iter().sum();
        for keeps in [false, true] {
            let mut rng = Rng::with_seed(3);
            let mut sum = 0.0;
            for _ in 0..TIMES {
                let drawing = draw(&sizes(), &weights(), 16, keeps, &mut rng);
                sum += drawing.selections.iter().map(|it| values[it.index] / it.probability).sum::<f64>();
            }
            assert!((sum / TIMES as f64 / truth - 1.0).abs() < 0.01, "{} {truth}", sum / TIMES as f64);
        }
    }

    #[test]
    fn all_are_read_where_all_are_wanted() {
        let drawing = draw(&[1.0, 5.0, 2.0], &[1.0; 3], 9, false, &mut Rng::with_seed(1));
        assert_eq!(drawing.selections.len(), 3);
        assert!(drawing.strata.iter().all(Option::is_none) && drawing.count == 0);
        // Sums of such numbers are rounded.
        let sizes: Vec<f64> = (0..997).map(|index| f64::from(1 + index % 37)).collect();
        let weights: Vec<f64> = (0..997).map(|index| f64::from(1 + index % 7)).collect();
        for count in 1..sizes.len() {
            let drawing = draw(&sizes[..count], &weights[..count], count as u64, false, &mut Rng::with_seed(1));
            assert!(drawing.selections.len() == count && drawing.count == 0, "{count}");
        }
        assert_eq!(draw(&[], &[], 9, false, &mut Rng::with_seed(1)).selections, []);
    }
}
