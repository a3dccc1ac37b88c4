use serde_json::json;

use super::reconcile::{Round, finalizers_left, status_change};
use crate::views::namespace::NamespaceView;

#[test]
fn what_is_left_is_said_and_said_once() {
    let namespace: NamespaceView = serde_json::from_value(json!({
        "metadata": {"name": "ns"}, "spec": {"finalizers": ["kubernetes", "other"]}, "status": {"phase": "Terminating"},
    }))
    .unwrap();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut round = Round::default();
    assert!(round.is_done());
    round.remaining.insert("pods".to_owned(), 2);
    round.finalizers.insert("example.com/hold".to_owned(), 1);
    assert!(!round.is_done());
    let change = status_change(&namespace, &round, now).unwrap();
    let conditions = change["status"]["conditions"].as_array().unwrap();
    let said: Vec<String> = conditions
        .iter()
        .map(|c| format!("{} {}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(
        said,
        [
            "False ResourcesDiscovered", "False ParsedGroupVersions", "False ContentDeleted",
            "True SomeResourcesRemain", "True SomeFinalizersRemain",
        ]
    );
    let mut after = namespace.clone();
    after.status.conditions = serde_json::from_value(change["status"]["conditions"].clone()).unwrap();
    assert_eq!(status_change(&after, &round, now), None);
    assert_eq!(finalizers_left(&namespace), ["other"]);
}
