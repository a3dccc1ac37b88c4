//! An admission policy compiled, and the names its expressions may use.

use std::sync::LazyLock;

use apimachinery::meta;
use serde_json::Value;

use super::Matcher;
use super::conditions::Conditions;
use cel::{CompileError, Env, ObjectType, Program, Type};

/// `request`, field by field.
static REQUEST: LazyLock<Type> = LazyLock::new(|| {
    let text = |names: &[&'static str]| names.iter().map(|name| (*name, Type::String)).collect::<Vec<_>>();
    let kind = ObjectType::of("kubernetes.GroupVersionKind", &text(&["group", "version", "kind"]));
    let resource = ObjectType::of("kubernetes.GroupVersionResource", &text(&["group", "version", "resource"]));
    let mut user = text(&["username", "uid"]);
    user.push(("groups", Type::String.list()));
    user.push(("extra", Type::String.list().map()));
    let mut fields = text(&["subResource", "requestSubResource", "name", "namespace", "operation"]);
    fields.extend([("kind", kind.clone()), ("requestKind", kind)]);
    fields.extend([("resource", resource.clone()), ("requestResource", resource)]);
    fields.push(("userInfo", ObjectType::of("kubernetes.UserInfo", &user)));
    fields.extend([("dryRun", Type::Bool), ("options", Type::Dyn)]);
    ObjectType::of("kubernetes.AdmissionRequest", &fields)
});

/// `namespaceObject`, as much of it as upstream shows.
static NAMESPACE: LazyLock<Type> = LazyLock::new(|| {
    let metadata = ObjectType::of(
        "kubernetes.NamespaceMetadata",
        &[
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", Type::String.map()),
            ("annotations", Type::String.map()),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", Type::String.list()),
        ],
    );
    let spec = ObjectType::of("kubernetes.NamespaceSpec", &[("finalizers", Type::String.list())]);
    let status = ObjectType::of("kubernetes.NamespaceStatus", &[("phase", Type::String)]);
    ObjectType::of("kubernetes.Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
});

/// The names that expressions may use.
pub(super) struct Envs {
    /// With the authorizer and the variables.
    pub(super) full: Env,
    /// Without the authorizer.
    pub(super) quiet: Env,
    /// Without variables.
    pub(super) conditions: Env,
}

impl Envs {
    /// With `params` or not; `object` (and `oldObject`) of a type, dynamic when not known.
    pub(super) fn new(params: bool, object: &Type) -> Self {
        let mut quiet = Env::new()
            .with("object", object.clone())
            .with("oldObject", object.clone())
            .with("request", REQUEST.clone())
            .with("namespaceObject", NAMESPACE.clone());
        if params {
            quiet = quiet.with("params", Type::Dyn);
        }
        let asking = |env: Env| {
            env.with("authorizer", Type::authorizer()).with("authorizer.requestResource", Type::resource_check())
        };
        Self { full: asking(quiet.clone()), conditions: asking(quiet.clone()), quiet }
    }
}

/// What a validation says.
pub(super) struct Validation {
    pub(super) program: Program,
    pub(super) expression: String,
    pub(super) message: String,
    pub(super) message_program: Option<Program>,
    pub(super) reason: String,
}

/// What a mutation does.
pub(super) enum Mutation {
    Apply(Program),
    Json(Program),
}

/// A policy, ready to run.
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) matcher: Matcher,
    /// Errors refuse the request.
    pub(super) fails: bool,
    /// `apiVersion` and kind of parameters.
    pub(super) param_kind: Option<(String, String)>,
    pub(super) conditions: Conditions,
    pub(super) variables: Vec<Program>,
    pub(super) validations: Vec<Validation>,
    pub(super) audits: Vec<(String, String, Program)>,
    pub(super) mutations: Vec<Mutation>,
    pub(super) again_if_needed: bool,
    /// Why it cannot run.
    pub(super) broken: Option<String>,
}

/// Compiles, and notes what cannot be.
struct Compiler {
    envs: Envs,
    errors: Vec<(String, CompileError)>,
}

impl Compiler {
    fn one(&mut self, path: String, source: &Value, env: fn(&Envs) -> &Env, wanted: &[Type]) -> Option<Program> {
        let source = source.as_str().filter(|text| !text.trim().is_empty())?;
        Program::compile_as(source, env(&self.envs), wanted).map_err(|error| self.errors.push((path, error))).ok()
    }
}

fn items(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The compile errors of a webhook's match conditions, by path below the webhook.
pub(crate) fn compile_conditions(webhook: &Value) -> Vec<(String, CompileError)> {
    Conditions::compile(&webhook["matchConditions"], &Envs::new(false, &Type::Dyn).conditions).1
}

/// The compile errors of a policy, by field path.
pub(crate) fn compile_all(policy: &Value, object: &Type) -> Vec<(String, CompileError)> {
    build(policy, object).1
}

fn build(policy: &Value, object: &Type) -> (Policy, Vec<(String, CompileError)>) {
    let spec = &policy["spec"];
    let has_params = spec["paramKind"].is_object();
    let mut compiler = Compiler { envs: Envs::new(has_params, object), errors: Vec::new() };
    if spec["mutations"].is_array() {
        compiler.envs.full = compiler.envs.full.with_patches();
    }
    let (conditions, errors) = Conditions::compile(&spec["matchConditions"], &compiler.envs.conditions);
    compiler.errors.extend(errors.into_iter().map(|(at, error)| (format!("spec.{at}"), error)));
    let variables = variables(&mut compiler, spec);
    let validations = items(&spec["validations"]).filter_map(|(i, one)| {
        let at = format!("spec.validations[{i}]");
        let message_at = format!("{at}.messageExpression");
        let message_program = compiler.one(message_at, &one["messageExpression"], |envs| &envs.quiet, &[Type::String]);
        let program = compiler.one(format!("{at}.expression"), &one["expression"], |envs| &envs.full, &[Type::Bool])?;
        Some(Validation {
            program,
            expression: text(&one["expression"]),
            message: text(&one["message"]),
            message_program,
            reason: one["reason"].as_str().unwrap_or("Invalid").to_owned(),
        })
    });
    let validations = validations.collect();
    let audits = items(&spec["auditAnnotations"]).filter_map(|(i, one)| {
        let at = format!("spec.auditAnnotations[{i}].valueExpression");
        let wanted = [Type::String, Type::Null];
        let program = compiler.one(at, &one["valueExpression"], |envs| &envs.quiet, &wanted)?;
        Some((text(&one["key"]), text(&one["valueExpression"]), program))
    });
    let audits = audits.collect();
    let mutations = items(&spec["mutations"]).filter_map(|(i, one)| {
        let at = |kind: &str| format!("spec.mutations[{i}].{kind}.expression");
        if one["patchType"] == "JSONPatch" {
            let source = &one["jsonPatch"]["expression"];
            let wanted = [Type::json_patch().list()];
            return compiler.one(at("jsonPatch"), source, |envs| &envs.full, &wanted).map(Mutation::Json);
        }
        if one["patchType"] != "ApplyConfiguration" {
            return None;
        }
        let source = &one["applyConfiguration"]["expression"];
        let wanted = [Type::apply_configuration()];
        compiler.one(at("applyConfiguration"), source, |envs| &envs.full, &wanted).map(Mutation::Apply)
    });
    let mutations = mutations.collect();
    let broken = compiler.errors.first().map(|(path, error)| format!("{path}: compilation failed: {error}"));
    let policy = Policy {
        name: meta::name(policy).to_owned(),
        matcher: Matcher::of(&spec["matchConstraints"]),
        fails: spec["failurePolicy"] != "Ignore",
        param_kind: has_params.then(|| (text(&spec["paramKind"]["apiVersion"]), text(&spec["paramKind"]["kind"]))),
        conditions,
        variables,
        validations,
        audits,
        mutations,
        again_if_needed: spec["reinvocationPolicy"] == "IfNeeded",
        broken,
    };
    (policy, compiler.errors)
}

fn variables(compiler: &mut Compiler, spec: &Value) -> Vec<Program> {
    let mut programs = Vec::new();
    for (i, one) in items(&spec["variables"]) {
        let at = format!("spec.variables[{i}].expression");
        let Some(program) = compiler.one(at, &one["expression"], |envs| &envs.full, &[Type::Dyn]) else { continue };
        for env in [&mut compiler.envs.full, &mut compiler.envs.quiet] {
            env.add_variable(one["name"].as_str().unwrap_or_default(), program.output().clone());
        }
        programs.push(program);
    }
    programs
}

impl From<&Value> for Policy {
    fn from(policy: &Value) -> Self {
        build(policy, &Type::Dyn).0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_have_places() {
        let policy = json!({"spec": {
            "matchConditions": [{"name": "ok", "expression": "true"}, {"name": "bad", "expression": "params.x == 1"}],
            "variables": [{"name": "v", "expression": "object.spec"}, {"name": "w", "expression": "variables.nope"}],
            "validations": [{"expression": "variables.v.x == 1 && request.userInfo.username != 'x'", "messageExpression": "1"}, {"expression": "'x'"}],
            "auditAnnotations": [{"key": "k", "valueExpression": "authorizer.path('/x').check('get').reason()"}],
        }});
        let paths: Vec<String> = compile_all(&policy, &Type::Dyn).into_iter().map(|(path, _)| path).collect();
        assert_eq!(
            paths,
            [
                "spec.matchConditions[1].expression",
                "spec.variables[1].expression",
                "spec.validations[0].messageExpression",
                "spec.validations[1].expression",
                "spec.auditAnnotations[0].valueExpression"
            ]
        );
        let mutating = json!({"spec": {"mutations": [
            {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/x', value: 1}]"}},
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{nope: 1}"}},
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "1"}},
        ]}});
        let paths: Vec<String> = compile_all(&mutating, &Type::Dyn).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["spec.mutations[2].applyConfiguration.expression"]);
    }
}
