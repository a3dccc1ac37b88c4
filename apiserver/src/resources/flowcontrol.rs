//! Flow schemas and priority levels. Follows upstream's flowcontrol validation and printers.

use apimachinery::validation as names;
use serde_json::{Value, json};

use super::check::{At, Check};
use super::edit::{at_mut, set, set_absent};
use super::printing::{NONE, UNKNOWN, age, name, number, text};
use super::{HookContext, NameRule, Strategy, meta};

const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// The flowschemas resource.
pub const FLOW_SCHEMA: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    validate: |schema, cx| {
        let mut check = meta::checked(schema, cx);
        flow_schema(&mut check, &At::root(schema));
        check.errors
    },
    validate_update: |schema, _, cx| {
        let mut check = meta::checked(schema, cx);
        flow_schema(&mut check, &At::root(schema));
        check.errors
    },
    cells: Some(|schema, cx| {
        let schema = At::root(schema);
        let spec = schema.get("spec");
        let distinguisher = spec.get("distinguisherMethod");
        let dangling = schema.get("status.conditions").items().find(|c| c.get("type").str() == "Dangling");
        vec![
            name(&schema),
            text(&spec.get("priorityLevelConfiguration.name")),
            number(&spec.get("matchingPrecedence")),
            if distinguisher.is_set() { text(&distinguisher.get("type")) } else { NONE.into() },
            age(&schema, cx.request.now),
            dangling.map_or("?".into(), |c| c.get("status").str().into()),
        ]
    }),
    ..Strategy::DEFAULT
};

/// `flowschemas/status` and `prioritylevelconfigurations/status`.
pub const STATUS: Strategy = Strategy {
    validate_update: |object, _, _| {
        let mut check = Check::new();
        let new = At::root(object);
        let mut seen: Vec<&str> = Vec::new();
        for condition in new.get("status.conditions").items() {
            let ty = condition.get("type");
            check.present(&ty);
            if seen.contains(&ty.str()) {
                check.duplicate(&ty);
            }
            seen.push(ty.str());
        }
        check.errors
    },
    ..Strategy::DEFAULT
};

fn flow_schema(check: &mut Check, schema: &At) {
    let (spec, own) = (schema.get("spec"), schema.get("metadata.name").str());
    let precedence = spec.get("matchingPrecedence");
    if precedence.number() <= 0 || precedence.number() > 10_000 {
        check.invalid(&precedence, "must be between 1 and 10000");
    }
    if precedence.number() == 1 && own != "exempt" {
        check.invalid(&precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    check.present_format(&spec.get("priorityLevelConfiguration.name"), names::dns1123_subdomain);
    let distinguisher = spec.get("distinguisherMethod");
    if distinguisher.is_set() {
        check.always_one_of(&distinguisher.get("type"), &["ByNamespace", "ByUser"]);
    }
    for rule in spec.get("rules").items() {
        flow_rule(check, &rule);
    }
}

fn flow_rule(check: &mut Check, rule: &At) {
    check.present(&rule.get("subjects"));
    for subject in rule.get("subjects").items() {
        flow_subject(check, &subject);
    }
    let (resources, urls) = (rule.get("resourceRules"), rule.get("nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        check.required(rule, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    const VERBS: [&str; 9] =
        ["get", "list", "create", "update", "delete", "deletecollection", "patch", "watch", "proxy"];
    for policy in resources.items() {
        verbs(check, &policy.get("verbs"), &VERBS);
        check.present_all(&policy, &["apiGroups", "resources"]);
        let (scope, namespaces) = (policy.get("clusterScope"), policy.get("namespaces"));
        if namespaces.is_empty() && !scope.flag() {
            check
                .required(&namespaces, "resource rules that are not cluster scoped must supply at least one namespace");
        }
        if !namespaces.strings().any(|n| n == "*") {
            namespaces.items().for_each(|namespace| check.format(&namespace, names::dns1123_label));
        } else if namespaces.len() > 1 {
            check.invalid(&namespaces, "if '*' is present, must not specify other namespaces");
        }
    }
    for policy in urls.items() {
        verbs(
            check,
            &policy.get("verbs"),
            &["get", "head", "post", "put", "patch", "delete", "connect", "options", "trace"],
        );
        let paths = policy.get("nonResourceURLs");
        check.present(&paths);
        for url in paths.items().filter(|u| u.str() != "*") {
            let text = url.str();
            if !text.starts_with('/')
                || text.contains(' ')
                || text.contains("//")
                || text.trim_end_matches("/*").contains('*')
            {
                check.invalid(&url, "must start with '/', and wildcards only match a whole last segment");
            }
        }
    }
}

fn flow_subject(check: &mut Check, subject: &At) {
    const KINDS: [(&str, &str); 3] = [("User", "user"), ("Group", "group"), ("ServiceAccount", "serviceAccount")];
    let kind = subject.get("kind");
    let Some((_, field)) = KINDS.iter().find(|(k, _)| *k == kind.str()) else {
        return check.not_supported(&kind, &["Group", "ServiceAccount", "User"]);
    };
    let at = subject.get(field);
    if !at.is_set() {
        check.required(&at, "must be set for this kind of subject");
    } else {
        let is_account = *field == "serviceAccount";
        if check.present(&at.get("name")) && is_account && at.get("name").str() != "*" {
            check.format(&at.get("name"), names::dns1123_subdomain);
        }
        if is_account {
            check.present_format(&at.get("namespace"), names::dns1123_label);
        }
    }
    for (_, other) in KINDS.iter().filter(|(_, other)| other != field && subject.get(other).is_set()) {
        check.forbidden(&subject.get(other), "is forbidden for this kind of subject");
    }
}

fn verbs(check: &mut Check, at: &At, known: &[&str]) {
    check.present(at);
    let given: Vec<&str> = at.strings().collect();
    if given.contains(&"*") {
        if given.len() > 1 {
            check.invalid(at, "if '*' is present, must not specify other verbs");
        }
    } else if given.iter().any(|verb| !known.contains(verb)) {
        check.not_supported(at, known);
    }
}

/// The prioritylevelconfigurations resource.
pub const PRIORITY_LEVEL: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: default_level,
    validate: |level, cx| {
        let mut check = meta::checked(level, cx);
        priority_level(&mut check, &At::root(level));
        check.errors
    },
    validate_update: |level, _, cx| {
        let mut check = meta::checked(level, cx);
        priority_level(&mut check, &At::root(level));
        check.errors
    },
    cells: Some(level_cells),
    ..Strategy::DEFAULT
};

fn default_level(level: &mut Value, cx: &HookContext) {
    at_mut(level, "spec.limited", |limited| {
        if limited["nominalConcurrencyShares"].is_null() {
            set(limited, "nominalConcurrencyShares", 30);
        }
        set_absent(limited, "lendablePercent", 0);
    });
    at_mut(level, "spec.limited.limitResponse.queuing", |queuing| {
        for (field, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
            if queuing[field].as_i64().unwrap_or_default() == 0 {
                set(queuing, field, value);
            }
        }
    });
    (Strategy::DEFAULT.default)(level, cx);
}

fn priority_level(check: &mut Check, level: &At) {
    let (spec, own) = (level.get("spec"), level.get("metadata.name").str());
    let (ty, limited) = (spec.get("type"), spec.get("limited"));
    if MANDATORY.contains(&own) != (ty.str() == "Exempt") && (own == "exempt" || ty.str() == "Exempt") {
        check.invalid(&ty, "must be 'Exempt' if and only if the name is 'exempt'");
    }
    match ty.str() {
        "Exempt" if limited.is_set() => check.forbidden(&limited, "must be nil if the type is not Limited"),
        "Exempt" => {
            let exempt = spec.get("exempt");
            check.non_negative(&exempt.get("nominalConcurrencyShares"));
            percent(check, &exempt.get("lendablePercent"));
        }
        "Limited" => {
            if spec.get("exempt").is_set() {
                check.forbidden(&spec.get("exempt"), "must be nil if the type is Limited");
            }
            if limited.is_set() {
                validate_limited(check, &limited);
            } else {
                check.required(&limited, "must not be empty when type is Limited");
            }
        }
        _ => check.present_one_of(&ty, &["Exempt", "Limited"]),
    }
}

fn percent(check: &mut Check, at: &At) {
    if at.is_set() {
        check.range(at, 0, 100);
    }
}

fn validate_limited(check: &mut Check, at: &At) {
    check.non_negative(&at.get("nominalConcurrencyShares"));
    percent(check, &at.get("lendablePercent"));
    if at.get("borrowingLimitPercent").is_set() {
        check.non_negative(&at.get("borrowingLimitPercent"));
    }
    let response = at.get("limitResponse");
    let queuing = response.get("queuing");
    match response.get("type").str() {
        "Reject" if queuing.is_set() => {
            check.forbidden(&queuing, "must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if !queuing.is_set() => {
            check.required(&queuing, "must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => {
            let (queues, hand) = (queuing.get("queues"), queuing.get("handSize"));
            check.positive(&queuing.get("queueLengthLimit"));
            check.positive(&queues);
            if queues.number() > 10_000_000 {
                check.invalid(&queues, "must not be greater than 10000000");
            }
            check.positive(&hand);
            if hand.number() > queues.number() {
                check.invalid(&hand, "should not be greater than queues");
            } else if hand.number() > 0 && dealt_bits(queues.number(), hand.number()) > 60 {
                check.invalid(&hand, "required entropy bits of deckSize and handSize should not be greater than 60");
            }
        }
        "" => check.required(&response.get("type"), "must not be empty"),
        _ => check.not_supported(&response.get("type"), &["Queue", "Reject"]),
    }
}

/// Bits of a hash that dealing a hand from a deck consumes.
fn dealt_bits(deck: i64, hand: i64) -> u32 {
    let product = (0..hand).try_fold(1_u128, |product, i| product.checked_mul(u128::try_from(deck - i).unwrap_or(1)));
    product.map_or(128, |p| p.max(1).next_power_of_two().trailing_zeros())
}

fn level_cells(level: &Value, cx: &HookContext) -> Vec<Value> {
    let level = At::root(level);
    let spec = level.get("spec");
    let source = if spec.get("type").str() == "Exempt" { spec.get("exempt") } else { spec.get("limited") };
    let shares = source.get("nominalConcurrencyShares");
    let queuing = spec.get("limited.limitResponse.queuing");
    let of = |field: &str| if queuing.is_set() { number(&queuing.get(field)) } else { NONE.into() };
    vec![
        name(&level),
        text(&spec.get("type")),
        if shares.is_set() { number(&shares) } else { json!(if source.is_set() { UNKNOWN } else { NONE }) },
        of("queues"),
        of("handSize"),
        of("queueLengthLimit"),
        age(&level, cx.request.now),
    ]
}
