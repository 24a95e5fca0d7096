//! The Mann-Whitney rank test, two-sided: how likely two sets of values are to be so unevenly ranked if both are the same.
//! Counted out where that is affordable, also where values are equal; else by the normal approximation.

/// Up to so many values in all, it is counted out.
const EXACT_MAX: usize = 60;

/// The chance of ranks at least as uneven as these. One, if either has no values.
pub(super) fn p_value(before: &[f64], after: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> = before.iter().map(|&value| (value, true)).collect();
    all.extend(after.iter().map(|&value| (value, false)));
    all.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    if before.is_empty() || after.is_empty() {
        return 1.0;
    }
    // Doubled, so that the mean rank of equal values is a whole number.
    let mut ranks: Vec<usize> = Vec::with_capacity(all.len());
    for equal in all.chunk_by(|(left, _), (right, _)| left == right) {
        let doubled = 2 * ranks.len() + 1 + equal.len();
        ranks.extend(equal.iter().map(|_| doubled));
    }
    let sum = all.iter().zip(&ranks).filter(|((_, is_before), _)| *is_before).map(|(_, rank)| rank).sum();
    if all.len() <= EXACT_MAX { counted(&ranks, before.len(), sum) } else { approximate(&ranks, before.len(), sum) }
}

/// Of all ways to choose that many ranks, the share whose sum is at least as far from the middle.
fn counted(ranks: &[usize], chosen: usize, sum: usize) -> f64 {
    let middle = chosen * (ranks.len() + 1);
    let room = ranks.iter().sum::<usize>() + 1;
    // By how many were chosen, and what their sum is.
    let mut ways = vec![vec![0.0; room]; chosen + 1];
    if let Some(none) = ways.first_mut().and_then(|sums| sums.first_mut()) {
        *none = 1.0;
    }
    for &rank in ranks {
        for count in (1..=chosen).rev() {
            let Some([.., fewer, more]) = ways.get_mut(..=count) else { continue };
            for (from, to) in fewer.iter().zip(more.iter_mut().skip(rank)) {
                *to += from;
            }
        }
    }
    let last = ways.last().map_or(&[][..], Vec::as_slice);
    let far = last.iter().enumerate().filter(|(at, _)| at.abs_diff(middle) >= sum.abs_diff(middle));
    far.map(|(_, ways)| ways).sum::<f64>() / last.iter().sum::<f64>()
}

/// By the normal distribution, corrected for equal ranks and for continuity.
#[expect(clippy::cast_precision_loss, reason = "numbers of rounds")]
fn approximate(ranks: &[usize], chosen: usize, sum: usize) -> f64 {
    let (total, chosen_f) = (ranks.len() as f64, chosen as f64);
    let ties: f64 = ranks
        .chunk_by(|left, right| left == right)
        .map(|equal| (equal.len() as f64).powi(3) - equal.len() as f64)
        .sum();
    let variance = chosen_f * (total - chosen_f) / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    let away = (sum.abs_diff(chosen * (ranks.len() + 1)) as f64 / 2.0 - 0.5).max(0.0);
    if variance > 0.0 { libm::erfc(away / (2.0 * variance).sqrt()) } else { 1.0 }
}

/// The smallest chance that so many values can show: one in all the ways to divide them, and the same the other way round.
#[expect(clippy::cast_precision_loss, reason = "numbers of rounds")]
pub(super) fn least(before: usize, after: usize) -> f64 {
    let ways = (1..=before).map(|place| (after + place) as f64 / place as f64).product::<f64>();
    (2.0 / ways).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chance_is_that_of_all_divisions() {
        let (before, after) = ([1.0, 3.0, 3.0, 7.0], [3.0, 8.0, 9.0]);
        let all: Vec<f64> = before.iter().chain(&after).copied().collect();
        // The definition itself: pairs won less pairs lost, over all divisions.
        let uneven = |chosen: u32| {
            let pairs = (0..7).flat_map(|a| (0..7).map(move |b| (a, b)));
            let pairs = pairs.filter(|&(a, b)| chosen >> a & 1 == 1 && chosen >> b & 1 == 0);
            let won = pairs.map(|(a, b)| i32::from(all[a] > all[b]) - i32::from(all[a] < all[b]));
            won.sum::<i32>().abs()
        };
        let divisions: Vec<u32> = (0..128_u32).filter(|chosen| chosen.count_ones() == 4).collect();
        let far = divisions.iter().filter(|&&chosen| uneven(chosen) >= uneven(0b1111)).count();
        let p = p_value(&before, &after);
        assert!((p - far as f64 / divisions.len() as f64).abs() < 1e-12, "{p}, {far} of {}", divisions.len());
        assert!((p_value(&after, &before) - p).abs() < 1e-12, "either way");
    }

    #[test]
    fn what_does_not_overlap_has_the_least_chance() {
        assert!((p_value(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]) - 2.0 / 252.0).abs() < 1e-12);
        assert!((least(5, 5) - 2.0 / 252.0).abs() < 1e-12);
        assert!(p_value(&[1.0; 30], &[1.0; 5]) > 0.999 && p_value(&[1.0; 300], &[1.0; 50]) > 0.999);
        assert!(p_value(&[], &[1.0]) > 0.999);
    }

    #[test]
    fn the_approximation_agrees_with_the_count() {
        let before: Vec<f64> = (0..30).map(|n| f64::from(n * 7 % 30)).collect();
        let after: Vec<f64> = (0..30).map(|n| f64::from(n * 7 % 30) + 5.0).collect();
        let exact = p_value(&before, &after);
        let mut all: Vec<f64> = before.iter().chain(&after).copied().collect();
        all.sort_by(f64::total_cmp);
        let rank = |value: f64| {
            let below = all.iter().filter(|other| **other < value).count();
            2 * below + 1 + all.iter().filter(|other| **other == value).count()
        };
        let ranks: Vec<usize> = all.iter().map(|value| rank(*value)).collect();
        let near = approximate(&ranks, 30, before.iter().map(|value| rank(*value)).sum());
        assert!((exact - near).abs() < 0.005 && exact < 0.2, "{exact} {near}");
    }
}
