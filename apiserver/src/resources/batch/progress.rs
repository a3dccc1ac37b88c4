//! What a job's status may become. Follows upstream's `ValidateJobStatusUpdate` with the options of its strategy: a rule
//! looks only at what the update changes.

use super::success::count_indexes;
use crate::resources::check::{At, Check};

fn states(status: &At, condition: &str, value: &str) -> bool {
    status.get("conditions").items().any(|c| c.get("type").str() == condition && c.get("status").str() == value)
}

fn is_true(status: &At, condition: &str) -> bool {
    states(status, condition, "True")
}

fn is_finished(status: &At) -> bool {
    is_true(status, "Complete") || is_true(status, "Failed")
}

/// Rules for the new job against the old.
pub fn validate(check: &mut Check, job: &At, old: &At) {
    let (now, was) = (job.get("status"), old.get("status"));
    check.non_negative_all(&now, &["active", "succeeded", "failed", "ready", "terminating"]);
    let changed = |field: &str| now.get(field).value != was.get(field).value;
    let turned = |condition: &str| is_true(&now, condition) != is_true(&was, condition);
    let finish_turned = is_finished(&now) != is_finished(&was);
    conditions(check, &now, &was, &turned);
    times(check, job, &now, &was, turned("Complete"), finish_turned);
    for field in ["active", "terminating"] {
        if is_finished(&now) && now.get(field).number() > 0 && (finish_turned || changed(field)) {
            check.invalid(&now.get(field), "must be 0 for a finished job");
        }
    }
    let uncounted = now.get("uncountedTerminatedPods");
    let some = ["succeeded", "failed"].iter().any(|list| !uncounted.get(list).is_empty());
    if is_finished(&now) && some && (finish_turned || changed("uncountedTerminatedPods")) {
        check.invalid(&uncounted, "must be empty for finished job");
    }
    if now.get("ready").number() > now.get("active").number() && (changed("ready") || changed("active")) {
        check.invalid(&now.get("ready"), "cannot set more ready pods than active");
    }
    indexes(check, job, &changed);
    let spec = job.get("spec");
    let elastic =
        spec.get("completionMode").str() == "Indexed" && spec.get("completions").value == spec.get("parallelism").value;
    for (field, may_decrease) in [("failed", false), ("succeeded", elastic)] {
        if now.get(field).number() < was.get(field).number() && !may_decrease {
            check.invalid(&now.get(field), "cannot decrease the counter");
        }
    }
}

fn conditions(check: &mut Check, now: &At, was: &At, turned: &dyn Fn(&str) -> bool) {
    let is = |condition: &str| is_true(now, condition);
    let met = "SuccessCriteriaMet";
    let wrong = [
        (is("Complete") && is("Failed") && (turned("Complete") || turned("Failed"))),
        (is("Complete") && is("FailureTarget") && (turned("Complete") || turned("FailureTarget"))),
        (is("Failed") && !is("FailureTarget") && turned("Failed")),
        (is("Complete") && !is(met) && (turned("Complete") || turned(met))),
        is(met) && is("Failed"),
        is(met) && is("FailureTarget"),
        is_true(was, met) && !is(met),
        is_true(was, "Complete") && !is_true(was, met) && is(met),
    ];
    let lost = ["Failed", "Complete", "FailureTarget"].iter().filter(|c| is_true(was, c) && !is(c)).count();
    for _ in 0..wrong.iter().filter(|wrong| **wrong).count() + lost {
        check.invalid(&now.get("conditions"), "these conditions do not go together, or may not be taken back");
    }
}

fn times(check: &mut Check, job: &At, now: &At, was: &At, complete_turned: bool, finish_turned: bool) {
    let (start, end) = (now.get("startTime"), now.get("completionTime"));
    let (old_start, old_end) = (was.get("startTime"), was.get("completionTime"));
    let (start_moved, end_moved) = (start.value != old_start.value, end.value != old_end.value);
    if (complete_turned || end_moved) && end.is_set() != is_true(now, "Complete") {
        if end.is_set() {
            check.invalid(&end, "cannot set completionTime when there is no Complete=True condition");
        } else {
            check.required(&end, "completionTime is required for Complete jobs");
        }
    }
    // Both are written alike, so that their texts compare as their times do.
    if (start_moved || end_moved) && start.is_set() && end.is_set() && end.str() < start.str() {
        check.invalid(&end, "must be equal to or after `startTime`");
    }
    let never_ran = job.get("spec.suspend").flag() && job.get("spec.completions").int() == Some(0);
    if (finish_turned || start_moved) && !never_ran && is_finished(now) && !start.is_set() {
        check.required(&start, "startTime is required for finished job");
    }
    if end.is_set() && old_end.is_set() && end_moved {
        check.invalid(&end, "field is immutable");
    }
    let resumes = is_true(was, "Suspended") && states(now, "Suspended", "False");
    if start_moved && !resumes && old_start.is_set() && !job.get("spec.suspend").flag() {
        check.invalid(&start, "field is immutable for unsuspended job once set");
    }
}

fn indexes(check: &mut Check, job: &At, changed: &dyn Fn(&str) -> bool) {
    let (status, spec) = (job.get("status"), job.get("spec"));
    let (done, failed) = (status.get("completedIndexes"), status.get("failedIndexes"));
    let (completions, per_index) = (spec.get("completions"), spec.get("backoffLimitPerIndex").is_set());
    let malformed = |at: &At| completions.is_set() && count_indexes(at.str(), completions.number()).is_err();
    if changed("completedIndexes") {
        if malformed(&done) {
            check.invalid(&done, "error parsing completedIndexes");
        }
        if !done.is_empty() && spec.get("completionMode").str() != "Indexed" {
            check.invalid(&done, "cannot set non-empty completedIndexes when non-indexed completion mode");
        }
    }
    if changed("failedIndexes") && failed.is_set() {
        if per_index && malformed(&failed) {
            check.invalid(&failed, "error parsing failedIndexes");
        }
        if !per_index {
            check.invalid(&failed, "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
        }
    }
    let both: Vec<&str> = [done.str(), failed.str()].into_iter().flat_map(|list| list.split(',')).collect();
    let overlap = (1..both.len()).any(|i| !both[i].is_empty() && both[..i].iter().any(|other| meet(other, both[i])));
    if (changed("failedIndexes") || changed("completedIndexes")) && failed.is_set() && overlap {
        check.invalid(&failed, "failedIndexes and completedIndexes overlap");
    }
}

/// Have two intervals an index in common?
fn meet(a: &str, b: &str) -> bool {
    let ends = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some((first.parse::<i64>().ok()?, last.parse::<i64>().ok()?))
    };
    matches!((ends(a), ends(b)), (Some(a), Some(b)) if a.0 <= b.1 && b.0 <= a.1)
}
