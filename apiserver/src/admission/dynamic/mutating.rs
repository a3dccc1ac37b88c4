//! MutatingAdmissionPolicy: policies that lay an apply configuration over the object, or patch it.

use std::sync::Arc;

use apimachinery::status::{Cause, Status};
use apimachinery::{apply, patch};
use futures::future::BoxFuture;
use serde_json::Value;

use super::Shared;
use super::conditions::{Asks, Facts, name};
use super::params;
use super::policy::{Mutation, Policy};
use super::round::{Caller, Round};
use super::validating::exempt;
use super::view::{Subject, View};
use crate::admission::{Plugin, Request};
use cel::{self, Budget};

/// The plugin.
pub struct MutatingPolicies(pub Arc<Shared>);

/// A policy that could not be carried out.
struct Problem {
    policy: String,
    binding: Option<String>,
    /// It is of what the policy made, not of how it is configured.
    invalid: bool,
    why: String,
}

/// The refusal as the client sees it: a 403 whose reason is the first problem's, with all of them as causes.
fn refusal(request: &Request<'_>, object: &Value, problems: &[Problem]) -> Option<Status> {
    let first = problems.first()?;
    let mut status = request.forbidden(Some(object), "");
    let causes = problems.iter().map(|problem| {
        let with = problem.binding.as_ref().map_or_else(String::new, |binding| format!(" with binding '{binding}'"));
        let message = format!("policy '{}'{with} denied request: {}", problem.policy, problem.why);
        Cause { message, ..Cause::default() }
    });
    let causes: Vec<Cause> = causes.collect();
    status.message.clone_from(&causes[0].message);
    if first.invalid {
        "Invalid".clone_into(&mut status.reason);
    }
    status.details.get_or_insert_default().causes = causes;
    Some(status)
}

/// The object as one mutation makes it; `None` when it changes nothing. Pure but for the authorizer.
fn mutated(
    policy: &Policy,
    mutation: &Mutation,
    facts: &Facts<'_>,
    ty: Option<&apimachinery::schema::Type>,
) -> Result<Option<Value>, String> {
    let bindings = facts.bindings().variables(&policy.variables);
    let mut budget = Budget::new(cel::TOTAL_LIMIT);
    let object = &facts.view.object;
    match mutation {
        Mutation::Apply(program) => {
            let mut config = program.eval(&bindings, &mut budget).map_err(|error| error.to_string())?;
            let Some(map) = config.as_object_mut() else { return Err("the result is no object".to_owned()) };
            map.insert("apiVersion".to_owned(), object["apiVersion"].clone());
            map.insert("kind".to_owned(), object["kind"].clone());
            let ty = ty.ok_or("the kind has no schema")?;
            apply::overlay(ty, object, &config).map(Some).map_err(|why| format!("error applying patch: {why}"))
        }
        Mutation::Json(program) => {
            let operations = program.eval(&bindings, &mut budget).map_err(|error| error.to_string())?;
            let bytes = serde_json::to_vec(&operations).map_err(|error| error.to_string())?;
            match patch::json_patch(object, &bytes) {
                Ok(patched) => Ok(Some(patched)),
                // A patch that fails one of its own tests is not applied, which is no error.
                Err(status) if status.message.contains(": testing value ") => Ok(None),
                Err(status) => Err(format!("JSON Patch: {}", status.message)),
            }
        }
    }
}

/// One run over the object.
struct Pass<'a> {
    plugin: &'a Shared,
    request: &'a Request<'a>,
    round: &'a Round,
    subject: Subject,
    /// In the form of the last policy.
    view: Option<View>,
    changed: bool,
    problems: Vec<Problem>,
}

impl Pass<'_> {
    fn problem(&mut self, policy: &Policy, binding: Option<&str>, invalid: bool, why: String) {
        if policy.fails {
            let binding = binding.map(str::to_owned);
            self.problems.push(Problem { policy: policy.name.clone(), binding, invalid, why });
        }
    }

    /// The object as it is now, in the form that the server works on.
    fn object(&self, given: &Value) -> Value {
        match &self.view {
            Some(view) if self.changed => view.stored(),
            _ => given.clone(),
        }
    }

    async fn policy(&mut self, policy: &Policy, given: &Value) -> Result<(), Status> {
        let (table, objects) = (self.plugin.table.load(), &*self.plugin.objects);
        let object = self.object(given);
        let seen = policy.matcher.check(self.request, Some(&object), &self.subject, &table, objects).await?;
        let Some(seen) = seen else { return Ok(()) };
        if let Some(why) = &policy.broken {
            self.problem(policy, None, false, format!("failed to configure policy: {why}"));
            return Ok(());
        }
        let bindings = self.plugin.feeds.mutating.bindings.load();
        for binding in bindings.values().map(|binding| binding.get()) {
            if binding.object["spec"]["policyName"] != policy.name.as_str()
                || binding.matcher.check(self.request, Some(&object), &self.subject, &table, objects).await?.is_none()
            {
                continue;
            }
            if self.view.as_ref().is_none_or(|view| !view.is(&seen)) {
                self.view = View::new(self.request, Some(&self.object(given)), &seen, &table);
            }
            let reference = &binding.object["spec"]["paramRef"];
            match params::collect(policy.param_kind.as_ref(), reference, self.request.namespace, &table, objects).await
            {
                Ok(found) => {
                    for params in found {
                        self.invoke(policy, binding.name(), &params).await?;
                    }
                }
                Err(why) => {
                    self.problem(policy, Some(binding.name()), false, format!("failed to configure binding: {why}"));
                }
            }
        }
        Ok(())
    }

    async fn invoke(&mut self, policy: &Policy, binding: &str, params: &Value) -> Result<(), Status> {
        let namespace = self.plugin.namespace(self.request).await?;
        let Some(view) = &mut self.view else { return Ok(()) };
        let of = apimachinery::meta::name(params);
        let key = format!("{}/{binding}/{}/{of}", policy.name, apimachinery::meta::namespace(params));
        let before = view.object.clone();
        let mut problems = Vec::new();
        for (index, mutation) in policy.mutations.iter().enumerate() {
            let next = {
                let object = view.object.clone();
                let asks = Asks { authz: &self.plugin.authz, request: self.request, object: name(Some(&object)) };
                let request = view.request(self.request, &self.subject);
                let facts = Facts { view, request: &request, namespace: &namespace, params, asks: &asks };
                match policy.conditions.hold(&facts) {
                    Ok(_) if index > 0 => mutated(policy, mutation, &facts, view.ty(self.request)),
                    Ok(true) if self.round.invokes(Caller::Policies, &key) => {
                        mutated(policy, mutation, &facts, view.ty(self.request))
                    }
                    Ok(_) => return Ok(()),
                    Err(why) => Err(why),
                }
            };
            match next {
                Ok(Some(next)) => {
                    let taken = view.change(self.request, next, &self.plugin.options);
                    problems.extend(taken.err().map(|status| status.message));
                }
                Ok(None) => {}
                Err(why) => problems.push(why),
            }
        }
        let changed = view.object != before;
        self.changed |= changed;
        self.round.invoked(Caller::Policies, &key, changed, policy.again_if_needed);
        for why in problems {
            self.problem(policy, Some(binding), true, why);
        }
        Ok(())
    }
}

impl Plugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let feeds = &self.0.feeds.mutating;
        !feeds.policies.is_empty() && !feeds.bindings.is_empty() && !exempt(request)
    }

    fn mutate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a mut Value>,
        round: &'a Round,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            // Without an object there is nothing to change.
            let Some(object) = object else { return Ok(()) };
            let Some(subject) = Subject::of(request, &self.0.table.load()) else { return Ok(()) };
            round.begin(Caller::Policies, Some(object));
            let mut pass =
                Pass { plugin: &self.0, request, round, subject, view: None, changed: false, problems: Vec::new() };
            for policy in self.0.feeds.mutating.policies.load().values() {
                pass.policy(policy.get(), object).await?;
            }
            *object = pass.object(object);
            round.end(Caller::Policies, Some(object));
            refusal(request, object, &pass.problems).map_or(Ok(()), Err)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::matching::Seen;
    use super::*;
    use crate::admission::Operation;
    use crate::admission::tests::request;
    use crate::http::request::RequestContext;

    fn made(kind: &str, expression: &str) -> Result<Option<Value>, String> {
        let field = if kind == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
        let mutation = json!({"patchType": kind, field: {"expression": expression}});
        let policy = Policy::from(&json!({"metadata": {"name": "p"}, "spec": {"mutations": [mutation]}}));
        assert_eq!(policy.broken, None, "{expression}");
        let ctx = RequestContext::default();
        let asked = request(&ctx, Operation::Create, "", "pods", "ns");
        let table = crate::resources::table();
        let subject = Subject::of(&asked, &table).unwrap();
        let seen = Seen { group: String::new(), version: "v1".into(), plural: "pods".into() };
        let pod =
            json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "i", "args": ["a"]}]}});
        let view = View::new(&asked, Some(&pod), &seen, &table).unwrap();
        let union = crate::authz::build(&crate::authz::AuthzConfig::default()).unwrap();
        let asks = Asks { authz: &union, request: &asked, object: None };
        let shown = view.request(&asked, &subject);
        let facts = Facts { view: &view, request: &shown, namespace: &Value::Null, params: &Value::Null, asks: &asks };
        mutated(&policy, &policy.mutations[0], &facts, view.ty(&asked))
    }

    #[test]
    fn mutations() {
        let env = "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', env: [Object.spec.containers.env{name: 'A', value: object.metadata.name}]}]}}";
        let pod = made("ApplyConfiguration", env).unwrap().unwrap();
        assert_eq!(
            pod["spec"]["containers"],
            json!([{"name": "c", "image": "i", "args": ["a"], "env": [{"name": "A", "value": "x"}]}])
        );
        let patched = made("JSONPatch", "[JSONPatch{op: 'replace', path: '/spec/containers/0/image', value: 'j'}]");
        assert_eq!(patched.unwrap().unwrap()["spec"]["containers"][0]["image"], "j");
        let tested =
            "[JSONPatch{op: 'test', path: '/metadata/name', value: 'y'}, JSONPatch{op: 'remove', path: '/spec'}]";
        assert_eq!(made("JSONPatch", tested), Ok(None));
        for (kind, expression, why) in [
            ("ApplyConfiguration", "Object{nope: 1}", "field not declared"),
            (
                "ApplyConfiguration",
                "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', args: ['b']}]}}",
                "may not mutate atomic",
            ),
            ("JSONPatch", "[JSONPatch{op: 'remove', path: '/nope/x'}]", "JSON Patch"),
        ] {
            let error = made(kind, expression).unwrap_err();
            assert!(error.contains(why), "{expression}: {error}");
        }
    }
}
