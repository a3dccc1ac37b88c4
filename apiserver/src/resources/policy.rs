//! Disruption budgets, priority classes and runtime classes. Follows upstream's validation and printers of their groups.

use apimachinery::validation as names;

use super::apps::at_most_all;
use super::check::{At, Check};
use super::core::pod::scheduling;
use super::core::pod::warnings::map_labels;
use super::core::quantities;
use super::edit::set_absent;
use super::printing::{UNSET, age, flag, name, number, shown_or, text};
use super::{NameRule, Strategy, meta};

/// The poddisruptionbudgets resource.
pub const BUDGET: Strategy = Strategy {
    names: NameRule(names::path_segment_name),
    // Upstream has no rules of its own about a budget's metadata.
    validate: |budget, _| {
        let mut check = Check::new();
        spec(&mut check, &At::root(budget).get("spec"));
        check.errors
    },
    validate_update: |budget, _, _| {
        let mut check = Check::new();
        spec(&mut check, &At::root(budget).get("spec"));
        check.errors
    },
    cells: Some(|budget, cx| {
        let budget = At::root(budget);
        vec![
            name(&budget),
            shown_or(&budget.get("spec.minAvailable"), "N/A"),
            shown_or(&budget.get("spec.maxUnavailable"), "N/A"),
            number(&budget.get("status.disruptionsAllowed")),
            age(&budget, cx.request.now),
        ]
    }),
    ..Strategy::DEFAULT
};

/// `poddisruptionbudgets/status`.
pub const BUDGET_STATUS: Strategy = Strategy {
    validate_update: |budget, _, _| {
        let mut check = Check::new();
        let status = At::root(budget).get("status");
        check.non_negative_all(&status, &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"]);
        check.errors
    },
    ..Strategy::DEFAULT
};

fn spec(check: &mut Check, at: &At) {
    let (min, max) = (at.get("minAvailable"), at.get("maxUnavailable"));
    if min.is_set() && max.is_set() {
        check.invalid(at, "minAvailable and maxUnavailable cannot be both set");
    }
    for amount in [&min, &max].into_iter().filter(|a| a.is_set()) {
        check.int_or_percent(amount);
        at_most_all(check, amount);
    }
    check.label_selector(&at.get("selector"));
    check.one_of(&at.get("unhealthyPodEvictionPolicy"), &["AlwaysAllow", "IfHealthyBudget"]);
}

/// The priorityclasses resource; names with the system's prefix and huge values are the system's own.
pub const PRIORITY_CLASS: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |class, cx| {
        (Strategy::DEFAULT.default)(class, cx);
        set_absent(class, "preemptionPolicy", "PreemptLowerPriority");
    },
    validate: |class, cx| {
        const HIGHEST_OF_USERS: i64 = 1_000_000_000;
        const SYSTEM: [(&str, i64); 2] =
            [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
        let mut check = meta::checked(class, cx);
        let at = At::root(class);
        let (own, value) = (at.get("metadata.name"), at.get("value"));
        if own.str().starts_with("system-") {
            let known = SYSTEM.iter().any(|(name, number)| *name == own.str() && *number == value.number());
            if !known || at.get("globalDefault").flag() {
                check.forbidden(&own, "priority class names with 'system-' prefix are reserved for system use only");
            }
        } else if value.number() > HIGHEST_OF_USERS {
            check.forbidden(&value, "maximum allowed value of a user defined priority is 1000000000");
        }
        check.present_one_of(&at.get("preemptionPolicy"), &["Never", "PreemptLowerPriority"]);
        check.errors
    },
    validate_update: |class, old, _| {
        let mut check = Check::new();
        let (new, old) = (At::root(class), At::root(old));
        meta::update(&mut check, &new, &old);
        if new.get("value").number() != old.get("value").number() {
            check.forbidden(&new.get("value"), "may not be changed in an update.");
        }
        check.immutable(&new.get("preemptionPolicy"), &old.get("preemptionPolicy"));
        check.errors
    },
    cells: Some(|class, cx| {
        let class = At::root(class);
        vec![
            name(&class),
            number(&class.get("value")),
            flag(&class.get("globalDefault")),
            age(&class, cx.request.now),
            shown_or(&class.get("preemptionPolicy"), UNSET),
        ]
    }),
    ..Strategy::DEFAULT
};

fn runtime_class(check: &mut Check, class: &At) {
    check.present_format(&class.get("handler"), names::dns1123_label);
    let overhead = class.get("overhead.podFixed").under(class.get("overhead").path.child("limits"));
    for (resource, amount) in overhead.entries() {
        quantities::container_resource_name(check, resource, &amount);
        check.resource_quantity(resource, &amount);
    }
    check.labels(&class.get("scheduling.nodeSelector"));
    let tolerations = class.get("scheduling.tolerations");
    scheduling::tolerations(check, &tolerations);
    let key = |toleration: &At| ["key", "operator", "value", "effect"].map(|f| toleration.get(f).str().to_owned());
    let mut seen = Vec::new();
    for toleration in tolerations.items() {
        if seen.contains(&key(&toleration)) {
            check.duplicate(&toleration);
        }
        seen.push(key(&toleration));
    }
}

/// The runtimeclasses resource.
pub const RUNTIME_CLASS: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |class, cx| {
        let mut check = meta::checked(class, cx);
        runtime_class(&mut check, &At::root(class));
        check.errors
    },
    validate_update: |class, old, cx| {
        let mut check = meta::checked(class, cx);
        let (new, old) = (At::root(class), At::root(old));
        runtime_class(&mut check, &new);
        meta::update(&mut check, &new, &old);
        check.immutable(&new.get("handler"), &old.get("handler"));
        check.errors
    },
    cells: Some(|class, cx| {
        let class = At::root(class);
        vec![name(&class), text(&class.get("handler")), age(&class, cx.request.now)]
    }),
    warnings: |class, _| {
        let mut found = Vec::new();
        map_labels(&mut found, &At::root(class).get("scheduling.nodeSelector"));
        found
    },
    ..Strategy::DEFAULT
};
