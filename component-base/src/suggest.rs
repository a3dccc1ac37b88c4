//! "Did you mean": the known name closest to a misspelt one.

/// The candidate nearest to `word`, if near enough that a person may have meant it: same letters but for case and
/// punctuation, or an edit distance of at most a third of the length, rounded up.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = fold(word);
    let bound = (word.chars().count().div_ceil(3)).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &fold(candidate)), candidate))
        .filter(|(d, _)| *d <= bound)
        .min_by_key(|(d, _)| *d)
        .map(|(_, candidate)| candidate)
}

fn fold(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Levenshtein distance in characters. Inputs are names, so quadratic time is fine.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row.first().copied().unwrap_or(0);
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, cb) in b.iter().enumerate() {
            let up = row.get(j + 1).copied().unwrap_or(usize::MAX);
            let left = row.get(j).copied().unwrap_or(usize::MAX);
            let best = (diagonal + usize::from(ca != *cb)).min(up + 1).min(left + 1);
            diagonal = up;
            if let Some(cell) = row.get_mut(j + 1) {
                *cell = best;
            }
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["clusterCIDR", "configSyncPeriod", "tcpEstablishedTimeout"];
        assert_eq!(closest("clusterCidr", known), Some("clusterCIDR"));
        assert_eq!(closest("configSyncPeriode", known), Some("configSyncPeriod"));
        assert_eq!(closest("tcpEstablishedTimout", known), Some("tcpEstablishedTimeout"));
        assert_eq!(closest("colour", known), None);
    }
}
