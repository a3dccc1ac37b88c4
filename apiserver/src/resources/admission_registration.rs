//! Webhook configurations, admission policies and their bindings. Follows upstream's admissionregistration validation and
//! printers.

use apimachinery::field::{FieldError, Path};
use apimachinery::validation as names;
use serde_json::{Value, json};

use super::check::{At, Check};
use super::edit::{array_mut, at_mut, set_absent};
use super::printing::{UNSET, age, name, text};
use super::{HookContext, NameRule, Strategy, meta};
use crate::admission::dynamic;
use cel::{CompileError, Type};

const SELECTORS: [&str; 2] = ["namespaceSelector", "objectSelector"];

/// Validating and mutating webhook configurations.
pub const WEBHOOKS: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: |object, cx| {
        (Strategy::DEFAULT.default)(object, cx);
        for hook in array_mut(object, "webhooks") {
            SELECTORS.iter().for_each(|field| set_absent(hook, field, json!({})));
        }
    },
    validate: |object, cx| {
        let mut check = meta::checked(object, cx);
        webhooks(&mut check, &At::root(object), cx);
        check.errors
    },
    validate_update: |object, _, cx| {
        let mut check = meta::checked(object, cx);
        webhooks(&mut check, &At::root(object), cx);
        check.errors
    },
    cells: Some(|object, cx| {
        let at = At::root(object);
        vec![name(&at), at.get("webhooks").len().into(), age(&at, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

fn webhooks(check: &mut Check, object: &At, cx: &HookContext) {
    let mut seen: Vec<&str> = Vec::new();
    for hook in object.get("webhooks").items() {
        let own = hook.get("name");
        if check.present(&own) && (!names::dns1123_subdomain(own.str()).is_empty() || own.str().split('.').count() < 3)
        {
            check.invalid(&own, "should be a domain with at least three segments separated by dots");
        }
        for rule in hook.get("rules").items() {
            rule_with_operations(check, &rule);
        }
        check.one_of(&hook.get("failurePolicy"), &["Fail", "Ignore"]);
        check.one_of(&hook.get("matchPolicy"), &["Equivalent", "Exact"]);
        let side_effects = hook.get("sideEffects");
        if side_effects.is_set() {
            check.one_of(&side_effects, &["None", "NoneOnDryRun"]);
        } else {
            check.required(&side_effects, "must specify one of None, NoneOnDryRun");
        }
        let timeout = hook.get("timeoutSeconds");
        if timeout.is_set() {
            check.range(&timeout, 1, 30);
        }
        for selector in SELECTORS {
            check.label_selector(&hook.get(selector));
        }
        client_config(check, &hook.get("clientConfig"));
        review_versions(check, &hook.get("admissionReviewVersions"));
        match_conditions(check, &hook.get("matchConditions"));
        compiled(check, dynamic::compile_conditions(hook.value), &format!("{}.", hook.path));
        if cx.resource.plural.starts_with("mutating") {
            check.one_of(&hook.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
        }
        if !own.is_empty() && seen.contains(&own.str()) {
            check.duplicate(&own);
        }
        seen.push(own.str());
    }
}

/// Versions of reviews: at least one that is known.
pub fn review_versions(check: &mut Check, at: &At) {
    if at.is_empty() {
        return check.required(at, "must specify one of v1, v1beta1");
    }
    let mut seen: Vec<&str> = Vec::new();
    for version in at.items() {
        if seen.contains(&version.str()) {
            check.invalid(&version, "duplicate version");
        }
        seen.push(version.str());
        check.format(&version, names::dns1035_label);
    }
    if !seen.iter().any(|version| ["v1", "v1beta1"].contains(version)) {
        check.invalid(at, "must include at least one of v1, v1beta1");
    }
}

/// A URL or a service, not both.
pub fn client_config(check: &mut Check, at: &At) {
    let (url, service) = (at.get("url"), at.get("service"));
    if url.is_set() == service.is_set() {
        return check.required(at, "exactly one of url or service is required");
    }
    if url.is_set() {
        let (scheme, rest) = url.str().split_once("://").unwrap_or_default();
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("https") {
            check.invalid(&url, "'https' is the only allowed URL scheme");
        }
        if host.is_empty() {
            check.invalid(&url, "host must be specified");
        }
        for (sign, what) in [('@', "user information"), ('#', "fragments"), ('?', "query parameters")] {
            let text = if sign == '@' { host } else { url.str() };
            // An empty query or fragment is none.
            if text.split_once(sign).is_some_and(|(_, after)| sign == '@' || !after.is_empty()) {
                check.invalid(&url, format!("{what} are not permitted in the URL"));
            }
        }
        return;
    }
    // Upstream hands the two names over in each other's place.
    for (field, reported_as) in [("namespace", "name"), ("name", "namespace")] {
        check.present(&service.get(field).under(service.path.child(reported_as)));
    }
    check.port_number(&service.get("port"));
    let path = service.get("path");
    if path.is_empty() || path.str() == "/" {
        return;
    }
    if !path.str().starts_with('/') {
        check.invalid(&path, "must start with a '/'");
    }
    let mut rest = path.str().chars();
    rest.next();
    let steps = rest.as_str().strip_suffix('/').unwrap_or(rest.as_str());
    for step in steps.split('/') {
        if step.is_empty() {
            check.invalid(&path, "segments may not be empty");
        } else {
            for complaint in names::dns1123_subdomain(step) {
                check.invalid(&path, complaint);
            }
        }
    }
}

fn rule_with_operations(check: &mut Check, rule: &At) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let operations = rule.get("operations");
    check.present(&operations);
    for operation in operations.items() {
        check.one_of(&operation, &OPERATIONS);
    }
    alone(check, &operations);
    for field in ["apiGroups", "apiVersions"] {
        check.present(&rule.get(field));
        alone(check, &rule.get(field));
    }
    for version in rule.get("apiVersions").items().filter(At::is_empty) {
        check.required(&version, "");
    }
    let resources = rule.get("resources");
    check.present(&resources);
    // What `x/*` and `*/y` before this one cover; and whether the last resource alone is another than `*`.
    let (mut whole, mut everywhere, mut plain) = (Vec::new(), Vec::new(), false);
    for resource in resources.items() {
        check.present(&resource);
        let Some((name, sub)) = resource.str().split_once('/') else {
            plain = if resource.is_empty() { plain } else { resource.str() != "*" };
            continue;
        };
        if whole.contains(&name) {
            check.invalid(&resource, "all subresources of this resource are named already");
        }
        if everywhere.contains(&sub) {
            check.invalid(&resource, "this subresource of all resources is named already");
        }
        whole.extend((sub == "*").then_some(name));
        everywhere.extend((name == "*").then_some(sub));
    }
    if resources.len() > 1 && resources.strings().any(|r| r == "*/*") {
        check.invalid(&resources, "if '*/*' is present, must not specify other resources");
    }
    if plain && resources.strings().any(|r| r == "*") {
        check.invalid(&resources, "if '*' is present, must not specify other resources without subresources");
    }
    check.one_of(&rule.get("scope"), &["*", "Cluster", "Namespaced"]);
}

fn alone(check: &mut Check, at: &At) {
    if at.len() > 1 && at.strings().any(|s| s == "*") {
        check.invalid(at, "if '*' is present, must not specify others");
    }
}

/// Notes expressions that do not compile.
fn compiled(check: &mut Check, errors: Vec<(String, CompileError)>, prefix: &str) {
    let refuse = |(path, error): (String, CompileError)| {
        FieldError::invalid(Path::new(&format!("{prefix}{path}")), "", format!("compilation failed: {error}"))
    };
    check.errors.extend(errors.into_iter().map(refuse));
}

fn match_conditions(check: &mut Check, at: &At) {
    check.at_most(at, 64);
    let mut seen: Vec<&str> = Vec::new();
    for condition in at.items() {
        let own = condition.get("name");
        check.present_format(&own, names::qualified_name);
        if seen.contains(&own.str()) && !own.is_empty() {
            check.duplicate(&own);
        }
        seen.push(own.str());
        check.present(&condition.get("expression"));
    }
}

fn default_policy(policy: &mut Value, cx: &HookContext) {
    (Strategy::DEFAULT.default)(policy, cx);
    for matcher in ["spec.matchConstraints", "spec.matchResources"] {
        at_mut(policy, matcher, |matcher| {
            SELECTORS.iter().for_each(|field| set_absent(matcher, field, json!({})));
        });
    }
}

/// Validating and mutating admission policies.
pub const POLICY: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: default_policy,
    validate: |policy, cx| {
        let mut check = meta::checked(policy, cx);
        policy_rules(&mut check, &At::root(policy), cx);
        compiled(&mut check, dynamic::compile_all(policy, &Type::Dyn), "");
        check.errors
    },
    validate_update: |policy, old, cx| {
        let mut check = meta::checked(policy, cx);
        policy_rules(&mut check, &At::root(policy), cx);
        if old["spec"] != policy["spec"] {
            compiled(&mut check, dynamic::compile_all(policy, &Type::Dyn), "");
        }
        check.errors
    },
    cells: Some(|policy, cx| {
        let at = At::root(policy);
        let kind = at.get("spec.paramKind");
        let shown = if kind.is_set() {
            format!("{}/{}", kind.get("apiVersion").str(), kind.get("kind").str())
        } else {
            UNSET.to_owned()
        };
        let count = at.get("spec.validations").len() + at.get("spec.mutations").len();
        vec![name(&at), count.into(), shown.into(), age(&at, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

/// A group and a version, each as an `APIService` may have it.
fn api_version(check: &mut Check, at: &At) {
    if !check.present(at) {
        return;
    }
    let (group, version) = at.str().split_once('/').unwrap_or(("", at.str()));
    if version.contains('/') {
        return check.invalid(at, "unexpected GroupVersion string");
    }
    if !group.is_empty() && !names::dns1123_subdomain(group).is_empty() {
        check.invalid(at, "the group must be a DNS subdomain");
    }
    if version.is_empty() {
        check.invalid(at, "version must be specified");
    } else if !names::dns1035_label(version).is_empty() {
        check.invalid(at, "the version must be a DNS label");
    }
}

fn policy_rules(check: &mut Check, policy: &At, cx: &HookContext) {
    let (spec, policy) = (&policy.get("spec"), policy.get("metadata.name").str());
    check.always_one_of(&spec.get("failurePolicy"), &["Fail", "Ignore"]);
    let kind = spec.get("paramKind");
    if kind.is_set() {
        api_version(check, &kind.get("apiVersion"));
        let kind = kind.get("kind");
        if check.present(&kind) && !names::dns1035_label(&kind.str().to_lowercase()).is_empty() {
            check.invalid(&kind, "may have mixed case, but must otherwise be a DNS label");
        }
    }
    let constraints = spec.get("matchConstraints");
    if constraints.is_set() {
        match_resources(check, &constraints, cx);
        check.present(&constraints.get("resourceRules"));
    } else {
        check.required(&constraints, "");
    }
    match_conditions(check, &spec.get("matchConditions"));
    for variable in spec.get("variables").items() {
        check.present_format(&variable.get("name"), names::c_identifier);
        check.present(&variable.get("expression"));
    }
    if cx.resource.plural.starts_with("mutating") {
        mutations(check, spec);
    } else {
        validations(check, spec, policy);
    }
}

fn match_resources(check: &mut Check, at: &At, cx: &HookContext) {
    for selector in SELECTORS {
        check.label_selector(&at.get(selector));
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in at.get(list).items() {
            rule_with_operations(check, &rule);
        }
    }
    check.one_of(&at.get("matchPolicy"), &["Equivalent", "Exact"]);
    if cx.resource.plural.starts_with("mutating") {
        // What is removed cannot be changed; upstream says so without the rule's index.
        for operation in at.get("resourceRules").items().flat_map(|r| r.get("operations").items().collect::<Vec<_>>()) {
            let operation = operation.under(at.path.child("resourceRules").child("operations"));
            check.always_one_of(&operation, &["*", "CONNECT", "CREATE", "UPDATE"]);
        }
    }
}

fn validations(check: &mut Check, spec: &At, policy: &str) {
    const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    let (rules, audits) = (spec.get("validations"), spec.get("auditAnnotations"));
    if rules.is_empty() && audits.is_empty() {
        check.required(&rules, "validations or auditAnnotations must contain at least one item");
        check.required(&audits, "validations or auditAnnotations must contain at least one item");
    }
    for rule in rules.items() {
        let (expression, message) = (rule.get("expression"), rule.get("message"));
        if expression.str().trim().is_empty() {
            check.required(&expression, "expression is not specified");
        }
        if !message.is_empty() && message.str().trim().is_empty() {
            check.invalid(&message, "message must be non-empty if specified");
        } else if message.str().trim().contains('\n') {
            check.invalid(&message, "message must not contain line breaks");
        }
        check.one_of(&rule.get("reason"), &REASONS);
    }
    check.at_most(&audits, 20);
    for audit in audits.items() {
        for complaint in names::qualified_name(&format!("{policy}/{}", audit.get("key").str())) {
            check.invalid(&audit.get("key"), complaint);
        }
        check.present(&audit.get("valueExpression"));
    }
}

fn mutations(check: &mut Check, spec: &At) {
    check.present_one_of(&spec.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
    let list = spec.get("mutations");
    check.present(&list);
    for mutation in list.items() {
        let (apply, patch) = (mutation.get("applyConfiguration"), mutation.get("jsonPatch"));
        match mutation.get("patchType").str() {
            "ApplyConfiguration" => patch_of(check, &apply, &patch),
            "JSONPatch" => patch_of(check, &patch, &apply),
            _ => check.present_one_of(&mutation.get("patchType"), &["ApplyConfiguration", "JSONPatch"]),
        }
    }
}

fn patch_of(check: &mut Check, wanted: &At, other: &At) {
    if wanted.is_set() {
        check.present(&wanted.get("expression"));
    } else {
        check.required(wanted, "must be specified for this patch type");
    }
    if other.is_set() {
        check.invalid(other, "must not be specified for this patch type");
    }
}

/// Bindings of both kinds of policy.
pub const BINDING: Strategy = Strategy {
    names: NameRule(names::dns1123_subdomain),
    default: default_policy,
    validate: |binding, cx| {
        let mut check = meta::checked(binding, cx);
        binding_spec(&mut check, &At::root(binding).get("spec"), cx);
        check.errors
    },
    validate_update: |binding, _, cx| {
        let mut check = meta::checked(binding, cx);
        let new = At::root(binding);
        binding_spec(&mut check, &new.get("spec"), cx);
        check.errors
    },
    cells: Some(|binding, cx| {
        let at = At::root(binding);
        let parameters = at.get("spec.paramRef");
        let shown = match (parameters.is_set(), parameters.get("namespace").str(), parameters.get("name").str()) {
            (false, ..) => UNSET.to_owned(),
            (true, _, "") if parameters.get("selector").is_set() => selector_in_go(&parameters.get("selector")),
            (true, "", name) => name.to_owned(),
            (true, namespace, name) => format!("{namespace}/{name}"),
        };
        vec![name(&at), text(&at.get("spec.policyName")), shown.into(), age(&at, cx.request.now)]
    }),
    ..Strategy::DEFAULT
};

/// A label selector as Go prints it.
fn selector_in_go(selector: &At) -> String {
    let labels: String = selector.get("matchLabels").entries().map(|(k, v)| format!("{k}: {},", v.str())).collect();
    let expressions = selector.get("matchExpressions").items().map(|e| {
        let values = e.get("values").strings().collect::<Vec<_>>().join(" ");
        let (key, operator) = (e.get("key").str().to_owned(), e.get("operator").str().to_owned());
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
    });
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        expressions.collect::<String>()
    )
}

fn binding_spec(check: &mut Check, spec: &At, cx: &HookContext) {
    check.present_format(&spec.get("policyName"), names::dns1123_subdomain);
    let parameters = spec.get("paramRef");
    if parameters.is_set() {
        let (own, selector) = (parameters.get("name"), parameters.get("selector"));
        check.format_if_set(&own, names::path_segment_name);
        check.label_selector(&selector);
        match (own.is_empty(), selector.is_set()) {
            (false, true) => {
                check.forbidden(&own, "name and selector are mutually exclusive");
                check.forbidden(&selector, "name and selector are mutually exclusive");
            }
            (true, false) => check.required(&parameters, "one of name or selector must be specified"),
            _ => {}
        }
        check.present_one_of(&parameters.get("parameterNotFoundAction"), &["Allow", "Deny"]);
    }
    if spec.get("matchResources").is_set() {
        match_resources(check, &spec.get("matchResources"), cx);
    }
    if cx.resource.plural.starts_with("validating") {
        let actions = spec.get("validationActions");
        check.present(&actions);
        let mut seen: Vec<&str> = Vec::new();
        for action in actions.items() {
            check.one_of(&action, &["Audit", "Deny", "Warn"]);
            if seen.contains(&action.str()) {
                check.duplicate(&action);
            }
            seen.push(action.str());
        }
        if seen.contains(&"Deny") && seen.contains(&"Warn") {
            check.invalid(&actions, "must not contain both Deny and Warn");
        }
    }
}
