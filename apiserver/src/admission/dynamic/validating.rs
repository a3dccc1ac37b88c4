//! ValidatingAdmissionPolicy: policies that refuse, warn or leave a note.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::status::{Cause, Status};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::conditions::{Asks, Facts, name};
use super::feed::{Binding, Compiled};
use super::params;
use super::policy::{Policy, Validation};
use super::view::{Subject, View};
use super::{GROUP, Shared};
use crate::admission::{Plugin, Request};
use cel::{self, Bindings, Budget, Error};

/// Longest message that an expression may make, in bytes.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;
/// Longest note for the audit log, in bytes.
const MAX_NOTE_BYTES: usize = 10 * 1024;
const FAILURE_NOTE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// The plugin.
pub struct ValidatingPolicies(pub Arc<Shared>);

/// A refusal of one expression.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    index: usize,
    reason: String,
    message: String,
}

/// What a policy says with one set of parameters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    refusals: Vec<Refusal>,
    notes: Vec<(String, String)>,
    /// Notes that could not be made, which refuse whatever the binding says.
    failed_notes: Vec<String>,
}

impl Verdict {
    fn error(policy: &Policy, message: String) -> Self {
        let refusal = Refusal { index: 0, reason: "Invalid".to_owned(), message };
        Self { refusals: if policy.fails { vec![refusal] } else { Vec::new() }, ..Self::default() }
    }
}

/// Evaluates a policy. Pure but for the authorizer.
fn judge(policy: &Policy, facts: &Facts<'_>) -> Verdict {
    match policy.conditions.hold(facts) {
        Ok(true) => {}
        Ok(false) => return Verdict::default(),
        Err(why) => return Verdict::error(policy, why),
    }
    let bindings = facts.bindings().variables(&policy.variables);
    let mut budget = Budget::new(cel::TOTAL_LIMIT);
    let mut verdict = Verdict::default();
    let results: Vec<_> = policy.validations.iter().map(|one| one.program.eval(&bindings, &mut budget)).collect();
    for (index, (one, result)) in policy.validations.iter().zip(results).enumerate() {
        let refusal = match result {
            Ok(Value::Bool(true)) => continue,
            Ok(_) => Some((one.reason.clone(), message(one, &bindings, &mut budget))),
            Err(error) if policy.fails => Some(("Invalid".to_owned(), explain(&one.expression, &error))),
            Err(_) => None,
        };
        if let Some((reason, message)) = refusal {
            verdict.refusals.push(Refusal { index, reason, message });
        }
    }
    let mut budget = Budget::new(cel::TOTAL_LIMIT);
    for (key, expression, program) in &policy.audits {
        match program.eval(&bindings, &mut budget) {
            Ok(Value::String(text)) => {
                let mut text = text.trim();
                while text.len() > MAX_NOTE_BYTES {
                    text = text.char_indices().next_back().map_or("", |(last, _)| &text[..last]);
                }
                if !text.is_empty() {
                    verdict.notes.push((key.clone(), text.to_owned()));
                }
            }
            Ok(_) => {}
            Err(error) if policy.fails => verdict.failed_notes.push(explain(expression, &error)),
            Err(_) => {}
        }
    }
    verdict
}

fn explain(expression: &str, error: &Error) -> String {
    format!("expression '{expression}' resulted in error: {error}")
}

/// What the expression makes, or what is written, or the expression.
fn message<'a>(one: &'a Validation, bindings: &Bindings<'a>, budget: &mut Budget) -> String {
    let made = one.message_program.as_ref().and_then(|program| program.eval(bindings, budget).ok());
    let made = made.as_ref().and_then(Value::as_str).map(str::trim);
    let fits = |text: &&str| !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n');
    match (made.filter(fits), one.message.trim()) {
        (Some(made), _) => made.to_owned(),
        (None, "") => format!("failed expression: {}", one.expression.trim()),
        (None, written) => written.to_owned(),
    }
}

/// The refusal as the client sees it: the code of its reason, and the sentence as a cause too.
fn refused(request: &Request<'_>, object: Option<&Value>, reason: &str, message: String) -> Status {
    let mut status = request.forbidden(object, &message);
    status.code = match reason {
        "Unauthorized" => 401,
        "Forbidden" => 403,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    reason.clone_into(&mut status.reason);
    let cause = Cause { message, ..Cause::default() };
    status.details.get_or_insert_default().causes.push(cause);
    status
}

/// One request on its way through the policies.
struct Pass<'a> {
    plugin: &'a Shared,
    request: &'a Request<'a>,
    object: Option<&'a Value>,
    subject: Subject,
    view: Option<View>,
    namespace: Option<Value>,
    denied: Option<Status>,
}

impl Pass<'_> {
    fn deny(&mut self, policy: &Policy, binding: Option<&Binding>, reason: &str, why: &str) {
        let with = binding.map_or_else(String::new, |binding| format!(" with binding '{}'", binding.name()));
        let message = format!("ValidatingAdmissionPolicy '{}'{with} denied request: {why}", policy.name);
        let status = refused(self.request, self.object, reason, message);
        self.denied.get_or_insert(status);
    }

    fn misconfigured(&mut self, policy: &Policy, binding: Option<&Binding>, why: &str) {
        if policy.fails {
            let what = if binding.is_some() { "binding" } else { "policy" };
            self.deny(policy, binding, "Invalid", &format!("failed to configure {what}: {why}"));
        }
    }

    async fn policy(&mut self, policy: &Policy) -> Result<(), Status> {
        let table = self.plugin.table.load();
        let objects = &*self.plugin.objects;
        let check = policy.matcher.check(self.request, self.object, &self.subject, &table, objects);
        let Some(seen) = check.await? else { return Ok(()) };
        if let Some(why) = &policy.broken {
            self.misconfigured(policy, None, why);
            return Ok(());
        }
        if self.view.as_ref().is_none_or(|view| !view.is(&seen)) {
            self.view = View::new(self.request, self.object, &seen, &table);
        }
        let bindings = self.plugin.feeds.validating.bindings.load();
        let mut notes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for binding in bindings.values().map(|binding| binding.get()) {
            if binding.object["spec"]["policyName"] != policy.name.as_str()
                || binding.matcher.check(self.request, self.object, &self.subject, &table, objects).await?.is_none()
            {
                continue;
            }
            let reference = &binding.object["spec"]["paramRef"];
            match params::collect(policy.param_kind.as_ref(), reference, self.request.namespace, &table, objects).await
            {
                Ok(found) => {
                    for params in found {
                        self.evaluate(policy, binding, &params, &mut notes).await?;
                    }
                }
                Err(why) => self.misconfigured(policy, Some(binding), &why),
            }
        }
        for (key, values) in notes {
            self.request.ctx.annotations.add(format!("{}/{key}", policy.name), values.join(", "));
        }
        Ok(())
    }

    async fn evaluate(
        &mut self,
        policy: &Policy,
        binding: &Binding,
        params: &Value,
        notes: &mut BTreeMap<String, Vec<String>>,
    ) -> Result<(), Status> {
        if self.namespace.is_none() {
            self.namespace = Some(self.plugin.namespace(self.request).await?);
        }
        let (Some(view), Some(namespace)) = (&self.view, &self.namespace) else { return Ok(()) };
        let asks = Asks { authz: &self.plugin.authz, request: self.request, object: name(self.object) };
        let request = view.request(self.request, &self.subject);
        let verdict = judge(policy, &Facts { view, request: &request, namespace, params, asks: &asks });
        let actions = &binding.object["spec"]["validationActions"];
        let wants = |action: &str| actions.as_array().is_some_and(|actions| actions.iter().any(|one| one == action));
        for refusal in &verdict.refusals {
            if wants("Deny") {
                self.deny(policy, Some(binding), &refusal.reason, &refusal.message);
            }
            if wants("Audit") {
                let note = json!([{"message": refusal.message, "policy": policy.name, "binding": binding.name(),
                    "expressionIndex": refusal.index, "validationActions": actions}]);
                self.request.ctx.annotations.add(FAILURE_NOTE, note.to_string());
            }
            if wants("Warn") {
                self.request.ctx.warnings.add(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name,
                    binding.name(),
                    refusal.message
                ));
            }
        }
        for (key, value) in verdict.notes {
            let values = notes.entry(key).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        for why in verdict.failed_notes {
            self.deny(policy, Some(binding), "Invalid", &why);
        }
        Ok(())
    }
}

/// Policies are not asked about policies.
pub(super) fn exempt(request: &Request<'_>) -> bool {
    request.group == GROUP && request.resource.contains("admissionpolic")
}

impl Plugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let feeds = &self.0.feeds.validating;
        !feeds.policies.is_empty() && !feeds.bindings.is_empty() && !exempt(request)
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(subject) = Subject::of(request, &self.0.table.load()) else { return Ok(()) };
            let mut pass =
                Pass { plugin: &self.0, request, object, subject, view: None, namespace: None, denied: None };
            let policies = self.0.feeds.validating.policies.load();
            let bindings = self.0.feeds.validating.bindings.load();
            let bound = |name: &str| {
                let mut all = bindings.values().map(|binding: &Arc<Compiled<Binding>>| binding.get());
                all.any(|binding| binding.object["spec"]["policyName"] == name)
            };
            for (key, policy) in policies.iter() {
                if bound(key) {
                    pass.policy(policy.get()).await?;
                }
            }
            pass.denied.map_or(Ok(()), Err)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Operation;
    use crate::admission::tests::request;
    use crate::http::request::RequestContext;

    fn judged(spec: &Value, object: &Value) -> Verdict {
        let policy = Policy::from(&json!({"metadata": {"name": "p"}, "spec": spec}));
        assert_eq!(policy.broken, None);
        let ctx = RequestContext::default();
        let asked = request(&ctx, Operation::Create, "", "configmaps", "ns");
        let table = crate::resources::table();
        let subject = Subject::of(&asked, &table).unwrap();
        let seen =
            super::super::matching::Seen { group: String::new(), version: "v1".into(), plural: "configmaps".into() };
        let view = View::new(&asked, Some(object), &seen, &table).unwrap();
        let union = crate::authz::build(&crate::authz::AuthzConfig::default()).unwrap();
        let asks = Asks { authz: &union, request: &asked, object: name(Some(object)) };
        let shown = view.request(&asked, &subject);
        let namespace = json!({"metadata": {"name": "ns", "labels": {"team": "a"}}});
        let params = json!({"max": 2});
        judge(&policy, &Facts { view: &view, request: &shown, namespace: &namespace, params: &params, asks: &asks })
    }

    #[test]
    fn verdicts() {
        let object = json!({"metadata": {"name": "x", "namespace": "ns"}, "data": {"n": "3"}});
        let good = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConditions": [{"name": "c", "expression": "request.operation == 'CREATE'"}],
            "variables": [{"name": "n", "expression": "int(object.data.n)"}],
            "validations": [
                {"expression": "variables.n <= params.max", "messageExpression": "'max is %d'.format([params.max])", "reason": "Forbidden"},
                {"expression": "namespaceObject.metadata.labels.team == 'a' && request.namespace == 'ns'"},
                {"expression": "oldObject == null && authorizer.requestResource.check('get').allowed()"},
                {"expression": "object.data.nope == ''", "message": "unused"},
                {"expression": "false", "message": " said "}],
            "auditAnnotations": [{"key": "k", "valueExpression": "'n is ' + string(variables.n)"}, {"key": "none", "valueExpression": "null"}]});
        let verdict = judged(&good, &object);
        let said: Vec<(usize, &str, &str)> =
            verdict.refusals.iter().map(|r| (r.index, r.reason.as_str(), r.message.as_str())).collect();
        assert_eq!(
            said,
            [
                (0, "Forbidden", "max is 2"),
                (3, "Invalid", "expression 'object.data.nope == ''' resulted in error: no such key: nope"),
                (4, "Invalid", "said")
            ]
        );
        assert_eq!(verdict.notes, [("k".to_owned(), "n is 3".to_owned())]);
        let mut lenient = good.clone();
        lenient["failurePolicy"] = json!("Ignore");
        assert_eq!(judged(&lenient, &object).refusals.len(), 2);
        let mut other = good;
        other["matchConditions"][0]["expression"] = json!("object.data.n == '4'");
        assert_eq!(judged(&other, &object), Verdict::default());
    }
}
