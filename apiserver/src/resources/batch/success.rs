//! When an indexed job counts as done before all its indexes are.

use crate::resources::check::{At, Check};

/// `successPolicy` of the job spec at `at`.
pub fn validate(check: &mut Check, at: &At) {
    let policy = at.get("successPolicy");
    if at.get("completionMode").str() != "Indexed" {
        return check.invalid(&policy, "requires indexed completion mode");
    }
    let rules = policy.get("rules");
    check.present(&rules);
    check.at_most(&rules, 20);
    for rule in rules.items() {
        validate_rule(check, &rule, at.get("completions").number());
    }
}

fn validate_rule(check: &mut Check, rule: &At, completions: i64) {
    const MAX_INDEXES_BYTES: usize = 64 * 1024;
    let (indexes, count) = (rule.get("succeededIndexes"), rule.get("succeededCount"));
    if !indexes.is_set() && !count.is_set() {
        check.required(rule, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if indexes.is_set() {
        if indexes.len() > MAX_INDEXES_BYTES {
            check.too_long(&indexes, MAX_INDEXES_BYTES);
        }
        match count_indexes(indexes.str(), completions) {
            Ok(found) => total = found,
            Err(why) => check.invalid(&indexes, format!("error parsing succeededIndexes: {why}")),
        }
    }
    if count.is_set() {
        check.non_negative(&count);
        if count.number() > completions {
            check.invalid(&count, format!("must be less than or equal to {completions}, the number of completions"));
        }
        if indexes.is_set() && count.number() > total {
            check.invalid(&count, format!("must be less than or equal to {total}, the number of indexes"));
        }
    }
}

/// How many indexes `1,3-5` names: ascending, each below `completions`.
pub(super) fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, -1);
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let index = |text: &str| match text.parse::<i64>() {
            Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
            Ok(index) if index >= 0 => Ok(index),
            _ => Err(format!("cannot convert {text:?} to an index")),
        };
        let (first, end) = match interval.split_once('-') {
            Some((first, end)) => (index(first)?, index(end)?),
            None => (index(interval)?, index(interval)?),
        };
        if interval.contains('-') && first >= end {
            return Err(format!("non-increasing order in the interval {interval:?}"));
        }
        if first <= last {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = end;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::count_indexes;

    #[test]
    fn indexes_ascend_and_stay_below_the_completions() {
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        assert_eq!(count_indexes("", 5), Ok(0));
        for wrong in ["5", "2,1", "3-3", "4-2", "a", "1,,2", "-1", "1-"] {
            assert!(count_indexes(wrong, 5).is_err(), "{wrong}");
        }
    }
}
