//! Cron jobs and the syntax of their schedules. Follows upstream's `ValidateCronJob*` and the standard cron format of the
//! parser that upstream uses.

use apimachinery::validation as names;
use serde_json::Value;

use crate::resources::check::{At, Check};
use crate::resources::core::pod;
use crate::resources::edit::at_mut;
use crate::resources::printing::{NONE, UNSET, age, containers, name, selector, since, text};
use crate::resources::{HookContext, NameRule, Strategy, meta};

/// The cronjobs resource.
pub const CRON_JOB: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |cron, cx| {
        (Strategy::DEFAULT.default)(cron, cx);
        at_mut(cron, "spec.jobTemplate.spec.template.spec", pod::defaults::spec);
    },
    validate: |cron, cx| {
        let mut check = meta::checked(cron, cx);
        let at = At::root(cron);
        spec(&mut check, &at.get("spec"), cx);
        if at.get("metadata.name").len() > 52 {
            check.invalid(&at.get("metadata.name"), "must be no more than 52 characters");
        }
        check.errors
    },
    validate_update: |cron, old, cx| {
        let mut check = Check::new();
        let new = At::root(cron);
        meta::update(&mut check, &new, &At::root(old));
        spec(&mut check, &new.get("spec"), cx);
        check.errors
    },
    warnings: |cron, old| {
        let template = |cron| At::root(cron).get("spec.jobTemplate.spec.template");
        pod::warnings::template(&template(cron), old.map(template).as_ref())
    },
    cells: Some(cells),
    ..Strategy::DEFAULT
};

fn spec(check: &mut Check, at: &At, cx: &HookContext) {
    let (schedule, zone) = (at.get("schedule"), at.get("timeZone"));
    if check.present(&schedule) && !is_schedule(schedule.str()) {
        check.invalid(&schedule, "must be a cron expression without a time zone");
    }
    check.non_negative_all(at, &["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"]);
    if zone.is_set()
        && (zone.is_empty() || zone.str().eq_ignore_ascii_case("local") || jiff::tz::TimeZone::get(zone.str()).is_err())
    {
        check.invalid(&zone, "timeZone must be an explicit, known time zone");
    }
    check.present_one_of(&at.get("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let job = at.get("jobTemplate.spec");
    super::spec(check, &job, cx);
    if job.get("selector").is_set() {
        check.invalid(&job.get("selector"), "`selector` will be auto-generated");
    }
    if job.get("manualSelector").flag() {
        check.not_supported(&job.get("manualSelector"), &["nil", "false"]);
    }
}

/// Five fields, a descriptor, or `@every` and a duration.
fn is_schedule(text: &str) -> bool {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    const DESCRIPTORS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if let Some(every) = text.strip_prefix("@every ") {
        return apimachinery::time::parse_duration(every).is_some();
    }
    if text.starts_with('@') {
        return DESCRIPTORS.contains(&text);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else { return false };
    is_field(minute, 0, 59, &[], 0)
        && is_field(hour, 0, 23, &[], 0)
        && is_field(day, 1, 31, &[], 0)
        && is_field(month, 1, 12, &MONTHS, 1)
        && is_field(weekday, 0, 6, &DAYS, 0)
}

fn is_field(field: &str, min: u32, max: u32, words: &[&str], first: u32) -> bool {
    let value = |text: &str| match words.iter().position(|word| text.eq_ignore_ascii_case(word)) {
        Some(i) => u32::try_from(i).ok().map(|i| i + first),
        None => text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())),
    };
    field.split(',').all(|part| {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let step_fits = step.is_none_or(|s| s.parse::<u32>().is_ok_and(|s| s > 0));
        let bounds = match range.split_once('-') {
            None if range == "*" || range == "?" => Some((min, max)),
            None => value(range).map(|v| (v, if step.is_some() { max } else { v })),
            Some((low, high)) => value(low).zip(value(high)),
        };
        step_fits && bounds.is_some_and(|(low, high)| min <= low && low <= high && high <= max)
    })
}

fn cells(cron: &Value, cx: &HookContext) -> Vec<Value> {
    let cron = At::root(cron);
    let (spec, last) = (cron.get("spec"), cron.get("status.lastScheduleTime"));
    let job = spec.get("jobTemplate.spec");
    let (names, images) = containers(&job.get("template.spec"));
    let suspended = match spec.get("suspend").value.as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    };
    vec![
        name(&cron),
        text(&spec.get("schedule")),
        if spec.get("timeZone").is_set() { text(&spec.get("timeZone")) } else { NONE.into() },
        suspended.into(),
        cron.get("status.active").len().into(),
        if last.is_set() { since(&last, cx.request.now).into() } else { NONE.into() },
        age(&cron, cx.request.now),
        names,
        images,
        selector(&job.get("selector")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0-12/2 1,15 jan-MAR mon", "@hourly", "@every 1h30m", "0 0 ? * 0"] {
            assert!(is_schedule(good), "{good}");
        }
        for bad in [
            "", "* * * *", "61 * * * *", "* * * * * *", "TZ=UTC 0 0 * * *", "@often", "5-1 * * * *", "*/0 * * * *",
            "* * * * 7",
        ] {
            assert!(!is_schedule(bad), "{bad}");
        }
    }
}
