//! `x-kubernetes-validations`: the rules of a schema, compiled once, and asked about objects.
//!
//! Follows upstream: a rule that looks at `oldSelf` is asked only where an old value correlates (unless that is optional),
//! a rule that does not is not asked about what is unchanged, and all rules together have one budget.

use std::collections::BTreeMap;

use apimachinery::field::{ErrorList, ErrorType, FieldError, Path};
use apimachinery::structural::{Rule, Schema};
use serde_json::Value;

use crate::cel::{Bindings, Budget, CompileError, Env, Error, Program, TOTAL_LIMIT, Type};

/// The rules of a schema and of what is below it.
#[derive(Debug, Default)]
pub struct Rules {
    own: Vec<Compiled>,
    properties: BTreeMap<String, Rules>,
    items: Option<Box<Rules>>,
    additional: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    /// What does not compile is refused when the definition is written; an old one that does not fails every object.
    program: Result<Program, CompileError>,
    message: Option<Program>,
    uses_old: bool,
}

/// The environment of a rule at a place of the given schema.
fn environment(schema: &Value, root: bool, optional_old: bool) -> Env {
    let ty = Type::of_schema(schema, root).unwrap_or(Type::Dyn);
    let old = if optional_old { ty.clone().optional() } else { ty.clone() };
    Env::new().with("self", ty).with("oldSelf", old)
}

/// Compiles a rule.
///
/// # Errors
/// With the position.
pub fn compile(rule: &Rule, schema: &Value, root: bool) -> Result<Program, CompileError> {
    let env = environment(schema, root, rule.optional_old_self == Some(true));
    Program::compile_as(&rule.rule, &env, &[Type::Bool])
}

/// Compiles a rule's message.
///
/// # Errors
/// With the position.
pub fn compile_message(rule: &Rule, schema: &Value, root: bool) -> Result<Program, CompileError> {
    let env = environment(schema, root, rule.optional_old_self == Some(true));
    Program::compile_as(&rule.message_expression, &env, &[Type::String])
}

/// The field that a rule's `fieldPath` names, as the steps to it.
pub fn field_steps(path: &str) -> Option<Vec<String>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            steps.push(after[..end].to_owned());
            rest = &after[end..];
        } else {
            let after = rest.strip_prefix("['").or_else(|| rest.strip_prefix("[\""))?;
            let end = after.find("']").or_else(|| after.find("\"]"))?;
            steps.push(after[..end].to_owned());
            rest = &after[end + 2..];
        }
    }
    (!steps.is_empty() && steps.iter().all(|step| !step.is_empty())).then_some(steps)
}

struct Asking<'e> {
    budget: Budget,
    errors: &'e mut ErrorList,
}

impl Rules {
    /// Of the schema of whole objects, as it was written.
    pub fn compile(openapi: &Value) -> Self {
        Self::below(openapi, true)
    }

    fn below(schema: &Value, root: bool) -> Self {
        let child = |schema: &Value| {
            let rules = schema.is_object().then(|| Self::below(schema, false))?;
            (!rules.is_empty()).then_some(rules)
        };
        let properties = schema["properties"].as_object().into_iter().flatten();
        Self {
            own: Schema::parse_rules(schema).into_iter().map(|rule| Compiled::of(rule, schema, root)).collect(),
            properties: properties.filter_map(|(name, schema)| Some((name.clone(), child(schema)?))).collect(),
            items: child(&schema["items"]).map(Box::new),
            additional: child(&schema["additionalProperties"]).map(Box::new),
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.properties.is_empty() && self.items.is_none() && self.additional.is_none()
    }

    /// Adds what the rules say of an object, whose shape is good.
    pub fn validate(&self, schema: &Schema, object: &Value, old: Option<&Value>, errors: &mut ErrorList) {
        let mut asking = Asking { budget: Budget::new(TOTAL_LIMIT), errors };
        self.ask(schema, object, old, &Path::root(), &mut asking);
    }

    /// `false` when the budget is spent.
    fn ask(&self, schema: &Schema, value: &Value, old: Option<&Value>, path: &Path, asking: &mut Asking) -> bool {
        if value.is_null() {
            return true;
        }
        let own = self.own.iter().all(|rule| rule.ask(value, old, path, asking));
        let below =
            |rules: Option<&Self>, schema: Option<&Schema>, item: &Value, old, path: Path, asking: &mut Asking| {
                rules.zip(schema).is_none_or(|(rules, schema)| rules.ask(schema, item, old, &path, asking))
            };
        own && match value {
            Value::Object(map) => map.iter().all(|(name, item)| {
                let (rules, path) = match self.properties.get(name) {
                    Some(rules) => (Some(rules), path.child(name)),
                    None => (self.additional.as_deref(), path.key(name)),
                };
                let old = old.and_then(|old| old.get(name));
                below(rules, schema.member(name), item, old, path, asking)
            }),
            Value::Array(items) => items.iter().enumerate().all(|(index, item)| {
                let old = schema.old_item(item, old);
                below(self.items.as_deref(), schema.items.as_deref(), item, old, path.index(index), asking)
            }),
            _ => true,
        }
    }
}

impl Compiled {
    fn of(rule: Rule, schema: &Value, root: bool) -> Self {
        let program = compile(&rule, schema, root);
        let uses_old = program.as_ref().is_ok_and(|program| program.uses("oldSelf"));
        let message =
            (!rule.message_expression.is_empty()).then(|| compile_message(&rule, schema, root).ok()).flatten();
        Self { rule, program, message, uses_old }
    }

    fn ask(&self, value: &Value, old: Option<&Value>, path: &Path, asking: &mut Asking) -> bool {
        let optional = self.rule.optional_old_self == Some(true);
        if (self.uses_old && old.is_none() && !optional) || (!self.uses_old && old == Some(value)) {
            return true;
        }
        let bindings = Bindings::new().with("self", value);
        let bindings = match old {
            _ if optional => bindings.with_optional("oldSelf", old),
            Some(old) => bindings.with("oldSelf", old),
            None => bindings,
        };
        let program = match &self.program {
            Ok(program) => program,
            Err(error) => {
                asking.errors.push(FieldError::invalid(
                    path.clone(),
                    Value::Null,
                    format!("rule compile error: {error}"),
                ));
                return true;
            }
        };
        match program.eval(&bindings, &mut asking.budget) {
            Ok(Value::Bool(true)) => true,
            Ok(_) => {
                let error = self.failure(&bindings, path, value, asking);
                asking.errors.push(error);
                true
            }
            Err(Error::CostExceeded) => {
                let detail =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                asking.errors.push(FieldError::invalid(path.clone(), Value::Null, detail));
                false
            }
            Err(error) => {
                let detail = format!("{error} evaluating rule: {}", self.said());
                asking.errors.push(FieldError::invalid(path.clone(), Value::Null, detail));
                true
            }
        }
    }

    fn said(&self) -> String {
        match self.rule.message.trim() {
            "" => format!("failed rule: {}", self.rule.rule.trim()),
            message => message.to_owned(),
        }
    }

    fn failure<'a>(&'a self, bindings: &Bindings<'a>, path: &Path, value: &Value, asking: &mut Asking) -> FieldError {
        let computed = self.message.as_ref().and_then(|program| program.eval(bindings, &mut asking.budget).ok());
        let computed = computed.as_ref().and_then(Value::as_str).map(str::trim);
        let detail = computed
            .filter(|text| !text.is_empty() && !text.contains(['\n', '\r']))
            .map_or_else(|| self.said(), str::to_owned);
        let steps = field_steps(&self.rule.field_path).unwrap_or_default();
        let path = steps.iter().fold(path.clone(), |path, step| path.child(step));
        let (ty, bad_value) = match self.rule.reason.as_str() {
            "FieldValueRequired" => (ErrorType::Required, Value::Null),
            "FieldValueForbidden" => (ErrorType::Forbidden, Value::Null),
            "FieldValueDuplicate" => (ErrorType::Duplicate, value.clone()),
            _ => (ErrorType::Invalid, if value.is_object() { "object".into() } else { value.clone() }),
        };
        FieldError { ty, path, bad_value, detail }
    }
}
