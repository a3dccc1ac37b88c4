//! What a failed pod means to its job, and when an indexed job has succeeded enough: the job's policies, purely.

use std::collections::BTreeSet;

use super::indexes;
use crate::views::batch::{ExitCodes, JobView};
use crate::views::pod::{ContainerStatus, PodView};

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One more failure.
    Count,
    /// No failure at all.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The job has failed; why.
    FailJob(String),
}

/// Judges a failed pod by the first rule that matches.
pub fn judge(job: &JobView, pod: &PodView) -> Verdict {
    let rules = job.spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (number, rule) in rules.enumerate() {
        let by_code = rule.on_exit_codes.as_ref().and_then(|codes| matching_container(pod, codes));
        let by_condition = rule
            .on_pod_conditions
            .iter()
            .find(|wanted| pod.condition(&wanted.kind).is_some_and(|condition| condition.status == wanted.status));
        let why = match (by_code, by_condition) {
            (Some((container, code)), _) => format!(
                "Container {container} for pod {}/{} failed with exit code {code}",
                pod.metadata.namespace, pod.metadata.name
            ),
            (None, Some(condition)) => {
                format!("Pod {}/{} has condition {}", pod.metadata.namespace, pod.metadata.name, condition.kind)
            }
            (None, None) => continue,
        };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {number}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn matching_container<'a>(pod: &'a PodView, codes: &ExitCodes) -> Option<(&'a str, i32)> {
    let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    statuses
        .filter(|status| codes.container_name.as_ref().is_none_or(|name| *name == status.name))
        .filter_map(|status: &ContainerStatus| {
            Some((status.name.as_str(), status.state.terminated.as_ref()?.exit_code))
        })
        .filter(|(_, code)| *code != 0)
        .find(|(_, code)| match codes.operator.as_str() {
            "In" => codes.values.contains(code),
            "NotIn" => !codes.values.contains(code),
            _ => false,
        })
}

/// The number of the first rule of the success policy that is met.
pub fn success_rule(job: &JobView, succeeded: &BTreeSet<i32>) -> Option<usize> {
    let end = job.spec.completions.unwrap_or(0);
    job.spec.success_policy.iter().flat_map(|policy| &policy.rules).position(|rule| {
        let enough = |reached: usize| rule.succeeded_count.is_some_and(|count| reached >= count);
        match rule.succeeded_indexes.as_deref().map(|text| indexes::parse(text, end)) {
            _ if succeeded.is_empty() => false,
            None => enough(succeeded.len()),
            Some(wanted) if wanted.is_empty() => false,
            Some(wanted) => {
                let reached = wanted.intersection(succeeded).count();
                reached == wanted.len() || enough(reached)
            }
        }
    })
}
