//! `validatingadmissionpolicy-status-controller`: type-checks the expressions of policies against the built-in kinds that
//! they match, and warns of what cannot work. Of custom resources nothing is known here.

use std::collections::BTreeSet;

use apimachinery::meta::ObjectMeta;
use apimachinery::resources::{self as facts, ResourceFacts};
use apimachinery::schema::Held;
use cel::{Env, Program, Type};
use client::resources;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::framework::{Controller, Executor, Key, Setup, Store, SyncResult, View};

/// Kinds of one rule that are looked at.
const MAX_KINDS: usize = 10;

/// A policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PolicyView {
    metadata: ObjectMeta,
    spec: PolicySpec,
    status: PolicyStatus,
}

crate::view!(PolicyView, resources::VALIDATING_ADMISSION_POLICIES);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PolicySpec {
    param_kind: Option<ParamKind>,
    match_constraints: MatchResources,
    variables: Vec<Variable>,
    validations: Vec<Validation>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ParamKind {
    api_version: String,
    kind: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MatchResources {
    resource_rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    api_groups: Vec<String>,
    api_versions: Vec<String>,
    resources: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    expression: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Validation {
    expression: String,
    message_expression: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PolicyStatus {
    observed_generation: i64,
    type_checking: Option<TypeChecking>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TypeChecking {
    expression_warnings: Vec<Value>,
}

/// Registers `validatingadmissionpolicy-status-controller`.
pub fn register(setup: &mut Setup<'_>) {
    let queue = setup.queue("validatingadmissionpolicy-status");
    let policies = setup.stores.of::<PolicyView>();
    policies.wakes(&queue);
    let executor = setup.executor("validatingadmissionpolicy-status-controller");
    setup.workers(queue, 5, Policies { policies, executor });
}

/// The built-in kinds that a rule names; none when it has a wildcard.
fn kinds(rule: &Rule) -> Vec<&'static ResourceFacts> {
    let any = |list: &[String]| list.iter().any(|text| text.contains('*'));
    if any(&rule.api_groups) || any(&rule.api_versions) {
        return Vec::new();
    }
    let names = |facts: &&ResourceFacts| {
        let has = |list: &[String], text: &str| list.iter().any(|one| one == text);
        has(&rule.api_groups, facts.group)
            && has(&rule.api_versions, facts.version)
            && has(&rule.resources, facts.plural)
    };
    facts::RESOURCES.iter().filter(names).take(MAX_KINDS).collect()
}

/// What expressions of a policy may use when its object is of this type.
fn environment(spec: &PolicySpec, object: &Type) -> Env {
    let mut env = Env::new().with("object", object.clone()).with("oldObject", object.clone());
    for name in ["request", "namespaceObject"] {
        env = env.with(name, Type::Dyn);
    }
    if let Some(of) = &spec.param_kind {
        let is_it = |facts: &&ResourceFacts| facts.kind == of.kind && facts.api_version() == of.api_version;
        let builtin = facts::RESOURCES.iter().find(is_it).and_then(ResourceFacts::ty);
        env = env.with("params", builtin.map_or(Type::Dyn, |ty| Type::Builtin(Held::Static(ty))));
    }
    env = env.with("authorizer", Type::authorizer()).with("authorizer.requestResource", Type::resource_check());
    for variable in &spec.variables {
        let ty = Program::compile(&variable.expression, &env).map_or(Type::Dyn, |program| program.output().clone());
        env.add_variable(&variable.name, ty);
    }
    env
}

/// Warnings about a policy's expressions, as its status has them.
fn check(spec: &PolicySpec) -> Vec<Value> {
    let named: Vec<&ResourceFacts> = spec.match_constraints.resource_rules.iter().flat_map(kinds).collect();
    let types = named.iter().filter_map(|facts| {
        let name = format!("{}, Kind={}", facts.api_version(), facts.kind);
        Some((name, environment(spec, &Type::Builtin(Held::Static(facts.ty()?)))))
    });
    let mut seen = BTreeSet::new();
    let types: Vec<(String, Env)> = types.filter(|(name, _)| seen.insert(name.clone())).collect();
    let mut warnings = Vec::new();
    for (i, validation) in spec.validations.iter().enumerate() {
        let expressions =
            [("expression", &validation.expression), ("messageExpression", &validation.message_expression)];
        for (field, source) in expressions.into_iter().filter(|(_, source)| !source.is_empty()) {
            let fault = |(name, env): &(String, Env)| {
                Program::compile(source, env).err().map(|error| format!("{name}: {error}\n"))
            };
            let faults: String = types.iter().filter_map(fault).collect();
            if !faults.is_empty() {
                warnings.push(json!({"fieldRef": format!("spec.validations[{i}].{field}"), "warning": faults}));
            }
        }
    }
    warnings
}

struct Policies {
    policies: Store<PolicyView>,
    executor: Executor,
}

impl Controller for Policies {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(policy) = self.policies.get("", &key.name) else { return Ok(None) };
        let generation = policy.metadata.generation;
        if policy.status.observed_generation == generation {
            return Ok(None);
        }
        let warnings = check(&policy.spec);
        let warned = policy.status.type_checking.as_ref().is_some_and(|known| !known.expression_warnings.is_empty());
        // Upstream applies its status: what is left of a field all of whose members are taken back is nothing.
        let checking = match (warnings.is_empty(), warned) {
            (true, true) => Value::Null,
            (true, false) => json!({}),
            (false, _) => json!({"expressionWarnings": warnings}),
        };
        let status = json!({"observedGeneration": generation, "typeChecking": checking});
        let target = policy.target();
        let change = json!({"metadata": {"uid": policy.metadata.uid}, "status": status});
        self.executor.apply(target.change_status(change)).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_of_what_cannot_work() {
        let of = |version: &str, expression: &str| {
            let spec = json!({
                "matchConstraints": {"resourceRules": [
                    {"apiGroups": ["apps"], "apiVersions": [version], "resources": ["deployments", "deployments/scale"]}]},
                "variables": [{"name": "n", "expression": "object.spec.replicas"}],
                "validations": [{"expression": expression, "messageExpression": "'is ' + string(variables.n)"}],
            });
            check(&serde_json::from_value(spec).unwrap()).len()
        };
        assert_eq!(of("v1", "object.spec.replicas > 1 && variables.n < 5"), 0);
        assert_eq!(of("v1", "object.spec.nothing == 1"), 1);
        assert_eq!(of("v1", "variables.n == 'x'"), 1);
        assert_eq!(of("*", "object.spec.nothing == 1"), 0);
    }

    #[test]
    fn knows_the_types_of_parameters() {
        let of = |kind: &str, expression: &str| {
            let rule = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]});
            let spec = json!({"paramKind": {"apiVersion": "v1", "kind": kind},
                "matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": expression}]});
            check(&serde_json::from_value(spec).unwrap()).len()
        };
        assert_eq!(of("ConfigMap", "params.data.x == 'y'"), 0);
        assert_eq!(of("ConfigMap", "params.nope == 1"), 1);
        assert_eq!(of("Unknown", "params.nope == 1"), 0);
    }
}
