//! Sets of completion indexes as jobs write them: `1,3-5,7`.

use std::collections::BTreeSet;

/// Parses; parts that are no numbers are skipped. Indexes at or above `end` are not in the set.
pub fn parse(text: &str, end: i32) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            set.extend(first.max(0)..=last.min(end - 1));
        }
    }
    set
}

/// Writes; runs of three or more, and of two, are joined by a dash as upstream does.
pub fn format(set: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in set {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let texts: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        })
        .collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_written() {
        let set = parse("0,2-4,9,x", 9);
        assert_eq!(set.iter().copied().collect::<Vec<_>>(), [0, 2, 3, 4]);
        assert_eq!(format(&set), "0,2-4");
        assert_eq!(format(&BTreeSet::from([0, 1, 3])), "0,1,3");
        assert_eq!(format(&BTreeSet::new()), "");
    }
}
