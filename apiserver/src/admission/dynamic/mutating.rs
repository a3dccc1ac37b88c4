//! MutatingAdmissionPolicy: policies that lay an apply configuration over the object, or patch it.

use std::sync::Arc;

use apimachinery::status::Status;
use apimachinery::{apply, patch};
use futures::future::BoxFuture;
use serde_json::Value;

use super::Shared;
use super::conditions::{Asks, Facts, name};
use super::params;
use super::policy::{Mutation, Policy};
use super::round::{Caller, Round};
use super::validating::{exempt, refused};
use super::view::{Subject, View};
use crate::admission::{Plugin, Request};
use cel::{self, Budget};

/// The plugin.
pub struct MutatingPolicies(pub Arc<Shared>);

/// A policy that could not be carried out.
struct Problem {
    policy: String,
    binding: Option<String>,
    why: String,
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
    fn problem(&mut self, policy: &Policy, binding: Option<&str>, why: String) {
        if policy.fails {
            let binding = binding.map(str::to_owned);
            self.problems.push(Problem { policy: policy.name.clone(), binding, why });
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
            self.problem(policy, None, format!("failed to configure policy: {why}"));
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
                Err(why) => self.problem(policy, Some(binding.name()), format!("failed to configure binding: {why}")),
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
                Ok(Some(next)) => view.change(self.request, next, &self.plugin.options)?,
                Ok(None) => {}
                Err(why) => problems.push(why),
            }
        }
        let changed = view.object != before;
        self.changed |= changed;
        self.round.invoked(Caller::Policies, &key, changed, policy.again_if_needed);
        for why in problems {
            self.problem(policy, Some(binding), why);
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
            let Some(first) = pass.problems.first() else { return Ok(()) };
            let with = first.binding.as_ref().map_or_else(String::new, |binding| format!(" with binding '{binding}'"));
            let message = format!("policy '{}'{with} denied request: {}", first.policy, first.why);
            Err(refused(request, Some(object), "Invalid", message))
        })
    }
}
