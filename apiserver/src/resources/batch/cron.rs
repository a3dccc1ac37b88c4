//! Cron jobs. Follows upstream's `ValidateCronJob*`.

use apimachinery::cron::Schedule;
use apimachinery::validation as names;
use serde_json::Value;

use crate::resources::apps::same_generation;
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
        let unchanged = old.is_some_and(|old| same_generation(cron, old));
        let mut out = super::spec_warnings(&At::root(cron).get("spec.jobTemplate.spec"), unchanged);
        out.extend(pod::warnings::dotted_name(cron).filter(|_| old.is_none()));
        out
    },
    cells: Some(cells),
    ..Strategy::DEFAULT
};

fn spec(check: &mut Check, at: &At, cx: &HookContext) {
    let (schedule, zone) = (at.get("schedule"), at.get("timeZone"));
    if check.present(&schedule) && Schedule::parse(schedule.str()).is_none() {
        check.invalid(&schedule, "must be a cron expression without a time zone");
    }
    check.non_negative_all(at, &["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"]);
    if zone.is_set()
        // As written: upstream looks for a file of that name.
        && jiff::tz::TimeZone::get(zone.str()).ok().and_then(|tz| tz.iana_name().map(str::to_owned)).as_deref() != Some(zone.str())
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
