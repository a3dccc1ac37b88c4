//! Normalisation shared by scoring plugins.

use super::MAX_NODE_SCORE;

/// Scales scores so that the highest becomes 100; `reverse` makes the lowest raw score the best.
pub fn normalise_default(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0).max(0);
    for s in scores {
        let scaled = if max == 0 { 0 } else { MAX_NODE_SCORE * *s / max };
        *s = if reverse { MAX_NODE_SCORE - scaled } else { scaled };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling() {
        for (given, reverse, want) in [
            (vec![1, 2, 3], false, vec![33, 66, 100]),
            (vec![1, 2, 3], true, vec![67, 34, 0]),
            (vec![0, 0], false, vec![0, 0]),
            (vec![0, 0], true, vec![100, 100]),
        ] {
            let mut s = given;
            normalise_default(&mut s, reverse);
            assert_eq!(s, want);
        }
    }
}
