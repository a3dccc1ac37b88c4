//! `authorizer`: what the user of the request may do, asked from within an expression.

use std::fmt;

use super::{Cost, Error, Opaque, Outcome, Row, none, opaque, runtime};
use crate::value::Val;

pub(crate) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(super) const PATH: &str = "kubernetes.authorization.PathCheck";
pub(super) const GROUP: &str = "kubernetes.authorization.GroupCheck";
pub(crate) const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";
pub(super) const DECISION: &str = "kubernetes.authorization.Decision";

pub(super) const ROWS: &[Row] = &[
    ("path", "Authorizer.(string)PathCheck", Cost::One, |a| {
        let path = text(a, 1)?;
        if path.is_empty() {
            return runtime("path must not be empty");
        }
        ask(a, PATH, |question| question.path = path)
    }),
    ("serviceAccount", "Authorizer.(string,string)Authorizer", Cost::One, |a| {
        let account = Some((text(a, 1)?, text(a, 2)?));
        ask(a, AUTHORIZER, |question| question.service_account = account)
    }),
    ("group", "Authorizer.(string)GroupCheck", Cost::One, |a| {
        let group = text(a, 1)?;
        ask(a, GROUP, |question| question.group = group)
    }),
    ("resource", "GroupCheck.(string)ResourceCheck", Cost::One, |a| {
        let resource = text(a, 1)?;
        ask(a, RESOURCE, |question| question.resource = resource)
    }),
    ("subresource", "ResourceCheck.(string)ResourceCheck", Cost::One, |a| {
        let subresource = text(a, 1)?;
        ask(a, RESOURCE, |question| question.subresource = subresource)
    }),
    ("namespace", "ResourceCheck.(string)ResourceCheck", Cost::One, |a| {
        let namespace = text(a, 1)?;
        ask(a, RESOURCE, |question| question.namespace = namespace)
    }),
    ("name", "ResourceCheck.(string)ResourceCheck", Cost::One, |a| {
        let name = text(a, 1)?;
        ask(a, RESOURCE, |question| question.name = name)
    }),
    ("fieldSelector", "ResourceCheck.(string)ResourceCheck", Cost::One, |a| {
        let selector = text(a, 1)?;
        ask(a, RESOURCE, |question| question.field_selector = selector)
    }),
    ("labelSelector", "ResourceCheck.(string)ResourceCheck", Cost::One, |a| {
        let selector = text(a, 1)?;
        ask(a, RESOURCE, |question| question.label_selector = selector)
    }),
    ("check", "ResourceCheck.(string)Decision|PathCheck.(string)Decision", Cost::Check, |a| {
        let asker = asker(a)?;
        let question = Question { verb: text(a, 1)?, ..asker.question.clone() };
        Ok(opaque(Opaque::Decision(asker.authorizer.decide(&question))))
    }),
    ("allowed", "Decision.()bool", Cost::One, |a| Ok(Val::Bool(decision(a)?.allowed))),
    ("reason", "Decision.()string", Cost::One, |a| Ok(Val::string(decision(a)?.reason))),
    ("errored", "Decision.()bool", Cost::One, |a| Ok(Val::Bool(!decision(a)?.error.is_empty()))),
    ("error", "Decision.()string", Cost::One, |a| Ok(Val::string(decision(a)?.error))),
];

/// What is asked; empty where not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Another than the request's user: namespace and name of a service account.
    pub service_account: Option<(String, String)>,
    /// What would be done.
    pub verb: String,
    /// URL path, for what is no resource.
    pub path: String,
    /// API group.
    pub group: String,
    /// Plural name.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Field selector.
    pub field_selector: String,
    /// Label selector.
    pub label_selector: String,
}

/// What was answered.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Said yes.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What kept it from being decided; empty when nothing did.
    pub error: String,
}

/// Answers for the request's user.
pub trait Authorizer {
    /// May this be done?
    fn decide(&self, question: &Question) -> Decision;
}

/// A question being put together.
#[derive(Clone)]
pub(crate) struct Asker<'a> {
    authorizer: &'a dyn Authorizer,
    question: Question,
    ty: &'static str,
}

impl Asker<'_> {
    pub(super) fn type_name(&self) -> &'static str {
        self.ty
    }
}

impl fmt::Debug for Asker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.question)
    }
}

/// The value of `authorizer`.
pub(crate) fn root(authorizer: &dyn Authorizer) -> Val<'_> {
    opaque(Opaque::Authorizer(Box::new(Asker { authorizer, question: Question::default(), ty: AUTHORIZER })))
}

/// The value of `authorizer.requestResource`: group, resource, subresource, namespace, name.
pub(crate) fn resource<'a>(authorizer: &'a dyn Authorizer, of: [&str; 5]) -> Val<'a> {
    let [group, resource, subresource, namespace, name] = of.map(str::to_owned);
    let question = Question { group, resource, subresource, namespace, name, ..Question::default() };
    opaque(Opaque::Authorizer(Box::new(Asker { authorizer, question, ty: RESOURCE })))
}

fn text(a: &[Val<'_>], at: usize) -> Result<String, Error> {
    match a.get(at) {
        Some(Val::Str(text)) => Ok(text.to_string()),
        _ => Err(Error::no_overload("authorizer")),
    }
}

fn asker<'r, 'a>(a: &'r [Val<'a>]) -> Result<&'r Asker<'a>, Error> {
    match a.first() {
        Some(Val::Opaque(own)) => match &**own {
            Opaque::Authorizer(asker) => Ok(asker),
            _ => Err(Error::no_overload("authorizer")),
        },
        _ => Err(Error::no_overload("authorizer")),
    }
}

fn ask<'a>(a: &[Val<'a>], ty: &'static str, change: impl FnOnce(&mut Question)) -> Outcome<'a> {
    let mut next = asker(a)?.clone();
    change(&mut next.question);
    next.ty = ty;
    Ok(opaque(Opaque::Authorizer(Box::new(next))))
}

fn decision(a: &[Val<'_>]) -> Result<Decision, Error> {
    match a.first() {
        Some(Val::Opaque(own)) => match &**own {
            Opaque::Decision(decision) => Ok(decision.clone()),
            _ => none().map(|_| Decision::default()),
        },
        _ => Err(Error::no_overload("authorizer")),
    }
}
