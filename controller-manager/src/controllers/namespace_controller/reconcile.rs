//! What is said about a namespace that is being emptied, and when it may go, purely.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::views::meta::{Condition, condition, to_value};
use crate::views::namespace::NamespaceView;

/// What one round of deletions found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// Groups that could not be discovered.
    pub undiscovered: Vec<String>,
    /// Deletions or lists that failed.
    pub failures: Vec<String>,
    /// Objects left, by resource.
    pub remaining: BTreeMap<String, usize>,
    /// Objects left that wait for a finalizer, by finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

impl Round {
    /// Whether the namespace is known to be empty.
    pub fn is_done(&self) -> bool {
        self.undiscovered.is_empty() && self.failures.is_empty() && self.remaining.is_empty()
    }
}

fn counted(what: &BTreeMap<String, usize>, tail: &str) -> String {
    what.iter().map(|(name, count)| format!("{name} {tail} {count} instances")).collect::<Vec<_>>().join(", ")
}

/// A condition's type, the trouble if there is any (reason and message), and what is said otherwise.
type Row = (&'static str, Option<(&'static str, String)>, &'static str, &'static str);

fn rows(round: &Round) -> Vec<Row> {
    let some = |list: bool, reason: &'static str, text: String| list.then_some((reason, text));
    vec![
        (
            "NamespaceDeletionDiscoveryFailure",
            some(
                !round.undiscovered.is_empty(),
                "DiscoveryFailed",
                format!(
                    "Discovery failed for some groups, {} failing: {}",
                    round.undiscovered.len(),
                    round.undiscovered.join(", ")
                ),
            ),
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            some(!round.failures.is_empty(), "ContentDeletionFailed", round.failures.join("; ")),
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            some(
                !round.remaining.is_empty(),
                "SomeResourcesRemain",
                format!("Some resources are remaining: {}", counted(&round.remaining, "has")),
            ),
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            some(
                !round.finalizers.is_empty(),
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {}", counted(&round.finalizers, "in")),
            ),
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ]
}

/// The namespace's conditions after a round, as a change of its status; None when they say so already.
pub fn status_change(namespace: &NamespaceView, round: &Round, now: Timestamp) -> Option<Value> {
    let mut conditions = namespace.status.conditions.clone();
    for (kind, trouble, fine_reason, fine_message) in rows(round) {
        let status = if trouble.is_some() { "True" } else { "False" };
        let (reason, message) = trouble.unwrap_or((fine_reason, fine_message.to_owned()));
        let before = condition(&conditions, kind).cloned();
        if before.as_ref().is_some_and(|b| b.status == status && b.reason == reason && b.message == message) {
            continue;
        }
        let since = before.filter(|b| b.status == status).map_or(now.into(), |b| b.last_transition_time);
        let new = Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: since,
            ..Condition::default()
        };
        match conditions.iter_mut().find(|old| old.kind == kind) {
            Some(old) => *old = new,
            None => conditions.push(new),
        }
    }
    (conditions != namespace.status.conditions)
        .then(|| json!({"status": {"conditions": conditions.iter().map(to_value).collect::<Vec<_>>()}}))
}

/// The finalizers without ours.
pub fn finalizers_left(namespace: &NamespaceView) -> Vec<&String> {
    namespace.spec.finalizers.iter().filter(|name| *name != "kubernetes").collect()
}
