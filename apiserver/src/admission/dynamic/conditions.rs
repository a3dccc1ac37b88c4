//! Match conditions, and what expressions see of a request.

use apimachinery::meta;
use futures::FutureExt;
use serde_json::Value;

use super::view::View;
use crate::admission::Request;
use crate::authz::{self, Attributes, Authorizer as _};
use crate::http::request::UserInfo;
use cel::functions::authorizer::Decision;
use cel::{self, Bindings, Budget, CompileError, Env, Program, Question, Type};

/// Compiled conditions, all of which must hold.
#[derive(Default)]
pub(super) struct Conditions(Vec<(String, Program)>);

impl Conditions {
    /// Of a list of names and expressions; errors by path below the list's parent.
    pub(super) fn compile(list: &Value, env: &Env) -> (Self, Vec<(String, CompileError)>) {
        let (mut programs, mut errors) = (Vec::new(), Vec::new());
        for (i, condition) in list.as_array().into_iter().flatten().enumerate() {
            let source = condition["expression"].as_str().unwrap_or_default();
            if source.trim().is_empty() {
                continue;
            }
            match Program::compile_as(source, env, &[Type::Bool]) {
                Ok(program) => programs.push((condition["name"].as_str().unwrap_or_default().to_owned(), program)),
                Err(error) => errors.push((format!("matchConditions[{i}].expression"), error)),
            }
        }
        (Self(programs), errors)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not outweighs those that fail.
    pub(super) fn hold(&self, facts: &Facts<'_>) -> Result<bool, String> {
        let bindings = facts.bindings();
        let mut budget = Budget::new(cel::MATCH_CONDITIONS_LIMIT);
        let mut failed = None;
        for (name, program) in &self.0 {
            match program.eval(&bindings, &mut budget) {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => failed = failed.or(Some(format!("match condition {name:?} is no bool"))),
                Err(error) => failed = failed.or(Some(format!("expression of match condition {name:?}: {error}"))),
            }
        }
        failed.map_or(Ok(true), Err)
    }
}

/// What expressions see.
pub(super) struct Facts<'a> {
    pub(super) view: &'a View,
    /// `request`
    pub(super) request: &'a Value,
    pub(super) namespace: &'a Value,
    pub(super) params: &'a Value,
    pub(super) asks: &'a Asks<'a>,
}

impl<'a> Facts<'a> {
    pub(super) fn bindings(&self) -> Bindings<'a> {
        let asked = self.asks.request;
        let resource = [asked.group, asked.resource, asked.subresource, asked.namespace, self.asks.name()];
        Bindings::new()
            .with("object", &self.view.object)
            .with("oldObject", &self.view.old)
            .with("request", self.request)
            .with("namespaceObject", self.namespace)
            .with("params", self.params)
            .with_authorizer("authorizer", self.asks)
            .with_resource_authorizer("authorizer.requestResource", self.asks, resource)
    }
}

/// Asks the server's authorizers on behalf of the request's user.
pub(super) struct Asks<'a> {
    pub(super) authz: &'a authz::Union,
    pub(super) request: &'a Request<'a>,
    pub(super) object: Option<&'a str>,
}

impl Asks<'_> {
    fn name(&self) -> &str {
        if self.request.name.is_empty() { self.object.unwrap_or_default() } else { self.request.name }
    }
}

impl cel::Authorizer for Asks<'_> {
    fn decide(&self, question: &Question) -> Decision {
        let user = match &question.service_account {
            None => std::sync::Arc::clone(&self.request.ctx.user),
            Some((namespace, name)) => std::sync::Arc::new(UserInfo {
                name: format!("system:serviceaccount:{namespace}:{name}"),
                groups: vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".to_owned(),
                ],
                ..UserInfo::default()
            }),
        };
        let attributes = Attributes {
            user,
            verb: question.verb.clone(),
            namespace: question.namespace.clone(),
            group: question.group.clone(),
            version: if question.path.is_empty() { "*".to_owned() } else { String::new() },
            resource: question.resource.clone(),
            subresource: question.subresource.clone(),
            name: question.name.clone(),
            path: question.path.clone(),
            resource_request: question.path.is_empty(),
            field_selector: question.field_selector.clone(),
            label_selector: question.label_selector.clone(),
        };
        let asking = self.authz.authorize(&attributes);
        // Most answers are there at once; for others this thread waits, as evaluation cannot be interrupted.
        let answer = asking.now_or_never().or_else(|| {
            let handle = tokio::runtime::Handle::try_current().ok()?;
            (handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread)
                .then(|| tokio::task::block_in_place(|| handle.block_on(self.authz.authorize(&attributes))))
        });
        match answer {
            Some(authz::Decision::Allow { reason }) => Decision { allowed: true, reason, ..Decision::default() },
            Some(authz::Decision::Deny { reason } | authz::Decision::NoOpinion { reason }) => {
                Decision { reason, ..Decision::default() }
            }
            None => Decision { error: "the authorizer cannot be asked here".to_owned(), ..Decision::default() },
        }
    }
}

/// The name that the new object has.
pub(super) fn name(object: Option<&Value>) -> Option<&str> {
    object.map(meta::name)
}
