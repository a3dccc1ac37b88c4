//! Validation of the schemas in definitions: upstream's rules for structural schemas, defaults, list and map types, and
//! validation rules, with upstream's paths.

use std::cell::RefCell;
use std::rc::Rc;

use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::structural::{Rule, Schema, formats};
use regex::Regex;
use serde_json::{Value, json};

use super::rules;
use crate::cel::{RULE_LIMIT, most_values};
use crate::resources::check::{At, Check};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What may stand at the root when status has an endpoint of its own.
const BESIDE_STATUS: [&str; 22] = [
    "description", "type", "format", "title", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum",
    "maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "multipleOf", "required", "items",
    "properties", "externalDocs", "example", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations",
];
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// What the rules of a schema may cost together, by estimate.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// That many rules are named when it is too much.
const MOST_EXPENSIVE: usize = 4;
const CHEAPER: &str = "try simplifying the rule, or adding maxItems, maxProperties and maxLength";

/// Validates the schema of a version; `at` is its `openAPIV3Schema`.
///
/// The estimated cost of rules is only looked at when `priced`: what was accepted once stays.
pub fn validate(at: &At, has_status: bool, priced: bool, errors: &mut ErrorList) {
    let mut check = Check::new();
    if has_status {
        let other = at.value.as_object().into_iter().flatten();
        let other = other.filter(|(name, value)| !is_empty(value) && !BESIDE_STATUS.contains(&name.as_str()));
        if at.get("type").is_set() && at.get("type").str() != "object" {
            check.invalid(
                &at.get("type"),
                "only \"object\" is allowed at the root if the status subresource is enabled",
            );
        } else if other.count() > 0 {
            let detail = format!("only {BESIDE_STATUS:?} are allowed at the root if the status subresource is enabled");
            check.invalid(at, detail);
        }
    }
    if at.get("nullable").flag() {
        check.forbidden(&at.get("nullable"), "nullable cannot be true at the root");
    }
    let mut rules_apply = false;
    let forbidden = has_forbidden(at.value);
    if !forbidden {
        let failed = check.errors.len();
        structural(at, Level::Root, &mut check);
        complete(at, at, &mut check);
        if check.errors.len() == failed {
            defaults(at, &Schema::root(Some(at.value)), &mut check);
            rules_apply = check.errors.len() == failed;
        }
    }
    let walk = Walk { rules_apply, priced, values: Some(1), root: true, ..Walk::default() };
    let (mut schema_errors, mut rule_errors) = walk.visit(at);
    if forbidden && !check.failed() && schema_errors.is_empty() {
        // Nobody has said yet what it is.
        check.invalid(&At { value: &Value::from(""), path: at.path.clone() }, "a keyword in it is not supported");
    }
    errors.append(&mut check.errors);
    errors.append(&mut schema_errors);
    errors.append(&mut rule_errors);
    let mut costs = walk.costs.take();
    if costs.iter().fold(0, |sum: u64, (_, cost)| sum.saturating_add(*cost)) <= SCHEMA_LIMIT {
        return;
    }
    costs.retain(|(_, cost)| *cost >= SCHEMA_LIMIT / 100);
    costs.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
    for (place, _) in costs.into_iter().take(MOST_EXPENSIVE) {
        let detail = "contributed to estimated rule cost total exceeding cost limit for entire schema";
        errors.push(FieldError::forbidden(place, detail));
    }
    let detail = format!("estimated rule cost total exceeds the budget of the entire schema ({CHEAPER})");
    errors.push(FieldError::forbidden(at.path.clone(), detail));
}

/// Every schema directly below one, with its path.
fn children<'a>(at: &At<'a>) -> Vec<At<'a>> {
    let mut below = Vec::new();
    for name in ["properties", "patternProperties", "definitions", "dependencies"] {
        below.extend(at.get(name).entries().map(|(_, child)| child));
    }
    for name in JUNCTORS {
        below.extend(at.get(name).items());
    }
    below.extend(["items", "additionalProperties", "additionalItems", "not"].map(|name| at.get(name)));
    below.retain(|child| child.value.is_object());
    below
}

/// Formats in a schema that nothing is checked against.
pub fn unknown_formats(at: &At, found: &mut Vec<String>) {
    let format = at.get("format").str();
    if !format.is_empty() && !formats::is_known(at.get("type").str(), format) {
        found.push(format.to_owned());
    }
    children(at).iter().for_each(|child| unknown_formats(child, found));
}

/// Something in it keeps it from being structural at all.
fn has_forbidden(schema: &Value) -> bool {
    let unsupported = ["id", "$schema", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];
    schema["x-kubernetes-preserve-unknown-fields"] == false
        || unsupported.iter().any(|name| schema.get(name).is_some_and(|value| !value.is_null() && *value != ""))
        || schema["type"] == "null"
        || schema["items"].is_array()
        || children(&At::root(schema)).iter().any(|child| has_forbidden(child.value))
}

/// `anyOf: [{type: integer}, {type: string}]`, the one place where types may be given below a junctor.
fn is_int_or_string(any_of: &Value) -> bool {
    *any_of == json!([{"type": "integer"}, {"type": "string"}])
}

fn structural(at: &At, level: Level, check: &mut Check) {
    let (ty, items, additional) = (at.get("type"), at.get("items"), at.get("additionalProperties"));
    let flag = |name: &str| at.get(name).flag();
    let (embedded, preserve) = (flag("x-kubernetes-embedded-resource"), flag("x-kubernetes-preserve-unknown-fields"));
    let int_or_string = flag("x-kubernetes-int-or-string");
    if ty.str() == "array" && !items.is_set() {
        check.required(&items, "must be specified");
    }
    if items.value.is_object() {
        structural(&items, Level::Item, check);
    }
    for (_, property) in at.get("properties").entries() {
        structural(&property, Level::Field, check);
    }
    if additional.value.is_object() || additional.value.is_boolean() {
        if level == Level::Root {
            check.forbidden(&additional, "must not be used at the root");
        }
        if additional.value.is_object() {
            structural(&additional, Level::Field, check);
        }
        if embedded {
            check.forbidden(&additional, "must not be used if x-kubernetes-embedded-resource is set");
        }
    }
    for (set, name) in
        [(preserve, "x-kubernetes-preserve-unknown-fields"), (embedded, "x-kubernetes-embedded-resource")]
    {
        if int_or_string && set {
            check.invalid(&at.get(name), "must be false if x-kubernetes-int-or-string is true");
        }
    }
    values(at, level, is_int_or_string(at.get("anyOf").value), check);
    if embedded && ty.str() != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if ty.str().is_empty() { check.required(&ty, detail) } else { check.invalid(&ty, detail) }
    } else if ty.str().is_empty() && !int_or_string && !preserve {
        check.required(
            &ty,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    } else if level == Level::Root && !ty.str().is_empty() && ty.str() != "object" {
        check.invalid(&ty, "must be object at the root");
    }
    structural_resource(at, level, embedded, check);
    if embedded && !preserve && at.get("properties").is_empty() {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        check.required(&at.get("properties"), detail);
    }
}

/// `kind`, `apiVersion` and `metadata` of whole and embedded objects.
fn structural_resource(at: &At, level: Level, embedded: bool, check: &mut Check) {
    if level != Level::Root && !embedded {
        return;
    }
    let property = |name: &str| at.get("properties").entry(name);
    for (name, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let ty = property(name).get("type");
        if property(name).is_set() && ty.str() != wanted {
            check.invalid(&ty, format!("must be {wanted}"));
        }
    }
    let metadata = property("metadata");
    if level == Level::Root && metadata.is_set() {
        let names_only = metadata.get("properties").entries().all(|(name, _)| ["name", "generateName"].contains(&name));
        let mut others = metadata.value.as_object().into_iter().flatten();
        let allowed = ["type", "properties", "default", "required"];
        if !names_only || others.any(|(name, value)| !is_empty(value) && !allowed.contains(&name.as_str())) {
            check.forbidden(
                &metadata,
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            );
        }
    }
}

/// The junctors of a schema, and its pattern.
fn values(at: &At, level: Level, skip_any_of: bool, check: &mut Check) {
    for junctor in JUNCTORS {
        for (index, part) in at.get(junctor).items().enumerate() {
            let first = junctor == "allOf" && index == 0;
            if junctor != "anyOf" || !skip_any_of {
                nested(&part, level, first && is_int_or_string(part.get("anyOf").value), check);
            }
        }
    }
    if at.get("not").value.is_object() {
        nested(&at.get("not"), level, false, check);
    }
    let pattern = at.get("pattern");
    if !pattern.str().is_empty()
        && let Err(error) = Regex::new(pattern.str())
    {
        check.invalid(&pattern, format!("must be a valid regular expression, but isn't: {error}"));
    }
}

/// A schema below a junctor: it may say what values are allowed, and nothing of structure.
fn nested(at: &At, level: Level, skip_any_of: bool, check: &mut Check) {
    const STRUCTURE: [&str; 13] = [
        "type", "additionalProperties", "default", "title", "description", "nullable", "externalDocs",
        "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type",
    ];
    values(at, level, skip_any_of, check);
    if at.get("items").value.is_object() {
        nested(&at.get("items"), level, false, check);
    }
    for (name, property) in at.get("properties").entries() {
        nested(&property, Level::Field, false, check);
        if name == "metadata" {
            check.forbidden(&property, "must not be specified in a nested context");
        }
    }
    for name in STRUCTURE.into_iter().chain(["x-kubernetes-validations"]) {
        let field = at.get(name);
        if !is_empty(field.value) || (name == "default" && field.is_set()) {
            check.forbidden(&field, "must be undefined to be structural");
        }
    }
}

/// What junctors speak of must be specified outside of them. `at` is the place in the structure, `said` what speaks.
fn complete(at: &At, said: &At, check: &mut Check) {
    if at.path == said.path {
        for (_, property) in at.get("properties").entries() {
            complete(&property, &property, check);
        }
        for name in ["items", "additionalProperties"] {
            let below = at.get(name);
            if below.value.is_object() {
                complete(&below, &below, check);
            }
        }
    } else {
        for (name, property) in said.get("properties").entries() {
            let own = at.get("properties").entry(name);
            if own.is_set() {
                complete(&own, &property, check);
            } else if !at.get("additionalProperties").is_set() {
                check.required(&own, &format!("because it is defined in {}", property.path));
            }
        }
        let items = said.get("items");
        if items.value.is_object() {
            match at.get("items") {
                own if own.value.is_object() => complete(&own, &items, check),
                own => check.required(&own, &format!("because it is defined in {}", items.path)),
            }
        }
    }
    for part in JUNCTORS.iter().flat_map(|junctor| said.get(junctor).items()).chain([said.get("not")]) {
        if part.value.is_object() {
            complete(at, &part, check);
        }
    }
}

/// Defaults must be what the schema allows, and keep nothing that it prunes.
fn defaults(at: &At, schema: &Schema, check: &mut Check) {
    let default = at.get("default");
    if let Some(value) = schema.default.as_ref().filter(|_| default.is_set()) {
        schema.validate(value, None, &default.path, &mut check.errors);
        let mut unknown = false;
        prunes(schema, value, &mut unknown);
        if unknown {
            check.invalid(&default, "must not have unknown fields");
        }
    }
    for (name, property) in at.get("properties").entries() {
        if let Some(schema) = schema.properties.get(name).filter(|schema| schema.typed.is_none()) {
            defaults(&property, schema, check);
        }
    }
    for (below, schema) in [(at.get("items"), &schema.items), (at.get("additionalProperties"), &schema.additional)] {
        if let Some(schema) = schema.as_ref().filter(|_| below.value.is_object()) {
            defaults(&below, schema, check);
        }
    }
}

fn prunes(schema: &Schema, value: &Value, unknown: &mut bool) {
    match value {
        Value::Object(map) => {
            for (name, item) in map {
                match schema.member(name) {
                    Some(member) => prunes(member, item, unknown),
                    None => *unknown |= !schema.preserve && schema.typed.is_none(),
                }
            }
        }
        Value::Array(items) => {
            for (item, schema) in items.iter().filter_map(|item| Some((item, schema.items.as_deref()?))) {
                prunes(schema, item, unknown);
            }
        }
        _ => {}
    }
}

/// The walk over every schema, with what its surroundings mean for it.
#[derive(Clone, Default)]
struct Walk {
    rules_apply: bool,
    /// The estimated cost of rules is limited.
    priced: bool,
    /// How many values of a schema an object may hold; `None` when nothing in the schema says so.
    values: Option<u64>,
    root: bool,
    in_metadata: bool,
    no_defaults: Option<String>,
    /// What each rule may cost, where costs are limited.
    costs: Rc<RefCell<Vec<(Path, u64)>>>,
    /// The first place above whose old and new values cannot be brought together.
    uncorrelated: Option<Path>,
}

impl Walk {
    /// Errors of schemas, and errors of rules.
    fn visit(&self, at: &At) -> (ErrorList, ErrorList) {
        let mut check = Check::new();
        let mut rule_errors = ErrorList::new();
        self.keywords(at, &mut check);
        lists_and_maps(at, &mut check);
        for child in children(at) {
            let (mut schema, mut rules) = self.around(at, &child).visit(&child);
            check.errors.append(&mut schema);
            rule_errors.append(&mut rules);
        }
        self.rules(at, &mut check, &mut rule_errors);
        (check.errors, rule_errors)
    }

    /// What a schema means for one directly below it.
    fn around(&self, at: &At, child: &At) -> Self {
        let mut walk = Self { root: false, ..self.clone() };
        let bounded = |name: &str| Some(self.values?.saturating_mul(at.value[name].as_u64()?));
        let below = |name: &str| child.path.to_string().starts_with(&at.path.child(name).to_string());
        if below("properties") {
            let embedded = at.get("x-kubernetes-embedded-resource").flag();
            if at.get("x-kubernetes-map-type").str() == "atomic" && walk.uncorrelated.is_none() {
                walk.uncorrelated = Some(at.path.clone());
            }
            let meta = ["metadata", "kind", "apiVersion"];
            let meta = meta.into_iter().find(|name| child.path == at.path.child("properties").key(name));
            if let Some(name) = meta.filter(|_| self.root || embedded) {
                walk.in_metadata = true;
                if self.root {
                    walk.no_defaults = Some(format!(" in top-level {name}"));
                }
            }
        } else if below("items") {
            walk.values = bounded("maxItems");
            if at.get("x-kubernetes-list-type").str() != "map" && walk.uncorrelated.is_none() {
                walk.uncorrelated = Some(at.path.clone());
            }
        } else if below("additionalProperties") {
            walk.values = bounded("maxProperties");
            if self.in_metadata {
                walk.no_defaults = Some(" inside additionalProperties applying to object metadata".to_owned());
            }
        } else {
            walk.rules_apply = false;
        }
        walk
    }

    fn keywords(&self, at: &At, check: &mut Check) {
        let ty = at.get("type");
        if !ty.str().is_empty() && ty.str() != "null" {
            check.one_of(&ty, &TYPES);
        }
        let default = at.get("default");
        if let Some(why) = self.no_defaults.as_ref().filter(|_| default.is_set()) {
            check.forbidden(&default, &format!("must not be set{why}"));
        }
        for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
            let field = at.get(name);
            // Pointers upstream: an empty one is one.
            let given = ["additionalItems", "dependencies", "$ref"].contains(&name);
            if field.is_set() && (given || !is_empty(field.value)) {
                check.forbidden(&field, &format!("{name} is not supported"));
            }
        }
        if ty.str() == "null" {
            check.forbidden(&ty, "type cannot be set to null, use nullable as an alternative");
        }
        if at.get("items").value.is_array() {
            check.forbidden(&at.get("items"), "items must be a schema object and not an array");
        }
        let embedded = at.get("x-kubernetes-embedded-resource");
        if self.in_metadata && embedded.flag() {
            check.forbidden(&embedded, "must not be used inside of resource meta");
        }
        if at.get("uniqueItems").flag() {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            check.forbidden(&at.get("uniqueItems"), detail);
        }
        let additional = at.get("additionalProperties");
        if !at.get("properties").is_empty() && (additional.value.is_object() || *additional.value == false) {
            check.forbidden(&additional, "additionalProperties and properties are mutual exclusive");
        }
        let preserve = at.get("x-kubernetes-preserve-unknown-fields");
        if *preserve.value == false {
            check.invalid(&preserve, "must be true or undefined");
        }
    }

    fn rules(&self, at: &At, check: &mut Check, rule_errors: &mut ErrorList) {
        let places: Vec<At> = at.get("x-kubernetes-validations").items().collect();
        let rules = Schema::parse_rules(at.value);
        for (rule, place) in rules.iter().zip(&places) {
            rule_texts(rule, place, at.value, check);
        }
        if !self.rules_apply || check.failed() {
            return;
        }
        for (rule, place) in rules.iter().zip(&places) {
            self.compile(rule, place, at.value, rule_errors);
        }
    }

    fn price(&self, place: Path, cost: u64, errors: &mut ErrorList) {
        if !self.priced {
            return;
        }
        if cost > RULE_LIMIT {
            let factor = cost.div_ceil(RULE_LIMIT);
            let detail = format!("estimated cost exceeds budget by factor of {factor}x ({CHEAPER})");
            errors.push(FieldError::forbidden(place.clone(), detail));
        }
        self.costs.borrow_mut().push((place, cost));
    }

    fn compile(&self, rule: &Rule, place: &At, schema: &Value, errors: &mut ErrorList) {
        let invalid =
            |field: &str, detail: String| FieldError::invalid(place.path.child(field), place.value.clone(), detail);
        let program = rules::compile(rule, schema, self.root);
        if let Err(error) = &program {
            errors.push(invalid("rule", format!("compilation failed: {error}")));
        }
        let values = self.values.unwrap_or_else(|| most_values(schema));
        let cost = program.as_ref().map_or(0, |program| program.worst_cost(schema).saturating_mul(values));
        self.price(place.path.child("rule"), cost, errors);
        if !rule.message_expression.is_empty() {
            match rules::compile_message(rule, schema, self.root) {
                // Once, however many values there are.
                Ok(program) => self.price(place.path.child("messageExpression"), program.worst_cost(schema), errors),
                Err(error) => {
                    errors.push(invalid("messageExpression", format!("messageExpression compilation failed: {error}")));
                }
            }
        }
        let uses_old = program.as_ref().is_ok_and(|program| program.uses("oldSelf"));
        match &self.uncorrelated {
            Some(path) if uses_old => {
                let detail =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {path}");
                errors.push(invalid("rule", detail));
            }
            _ if !uses_old && rule.optional_old_self.is_some() => {
                errors.push(invalid("optionalOldSelf", "may not be set if oldSelf is not used in rule".to_owned()));
            }
            _ => {}
        }
    }
}

fn rule_texts(rule: &Rule, place: &At, schema: &Value, check: &mut Check) {
    let (text, message) = (rule.rule.trim(), rule.message.trim());
    let lines = |text: &str| text.contains(['\n', '\r']);
    let field = |name: &str| place.get(name);
    if text.is_empty() {
        check.required(&field("rule"), "rule is not specified");
    } else if !rule.message.is_empty() && message.is_empty() {
        check.invalid(&field("message"), "message must be non-empty if specified");
    } else if lines(message) {
        check.invalid(&field("message"), "message must not contain line breaks");
    } else if lines(text) && message.is_empty() {
        check.required(&field("message"), "message must be specified if rule contains line breaks");
    }
    if !rule.message_expression.is_empty() && rule.message_expression.trim().is_empty() {
        check.required(&field("messageExpression"), "messageExpression must be non-empty if specified");
    }
    if field("reason").is_set() {
        check.one_of(&field("reason"), &REASONS);
    }
    if rule.field_path.is_empty() {
        return;
    }
    let path = field("fieldPath");
    if rule.field_path.trim().is_empty() {
        check.invalid(&path, "fieldPath must be non-empty if specified");
    }
    if lines(&rule.field_path) {
        check.invalid(&path, "fieldPath must not contain line breaks");
    }
    if at_path(&Schema::parse(schema), &rule.field_path).is_none() {
        check.invalid(&path, "fieldPath must be a valid path");
    }
}

/// The schema that a path leads to.
pub fn at_path<'s>(schema: &'s Schema, path: &str) -> Option<&'s Schema> {
    rules::field_steps(path)?.iter().try_fold(schema, |schema, step| schema.member(step))
}

fn of_type(field: &At, at: &At, wanted: &str, check: &mut Check) -> bool {
    let ty = at.get("type");
    if !field.is_set() || ty.str() == wanted {
        return true;
    }
    let name = field.path.to_string();
    let name = name.rsplit('.').next().unwrap_or_default();
    let detail = format!("must be {wanted} if {name} is specified");
    if ty.str().is_empty() {
        check.required(&ty, &detail);
    } else {
        check.invalid(&ty, detail);
    }
    false
}

fn lists_and_maps(at: &At, check: &mut Check) {
    let (map_type, list_type) = (at.get("x-kubernetes-map-type"), at.get("x-kubernetes-list-type"));
    of_type(&map_type, at, "object", check);
    if map_type.is_set() {
        check.one_of(&map_type, &["atomic", "granular"]);
    }
    let items = at.get("items");
    if of_type(&list_type, at, "array", check) && list_type.str() == "set" && items.is_set() {
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (list, map) = (items.get("x-kubernetes-list-type"), items.get("x-kubernetes-map-type"));
        match items.get("type").str() {
            "array" if list.is_set() && list.str() != "atomic" => check.invalid(&list, detail),
            "object" if map.str() != "atomic" => check.invalid(&map, detail),
            _ => {}
        }
    }
    if list_type.is_set() {
        check.one_of(&list_type, &["atomic", "map", "set"]);
    }
    let keys = at.get("x-kubernetes-list-map-keys");
    if !keys.is_empty() && list_type.str() != "map" {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        if list_type.is_set() { check.invalid(&list_type, detail) } else { check.required(&list_type, detail) }
    }
    if list_type.str() == "map" {
        map_list(&keys, &items, check);
    }
    if matches!(list_type.str(), "map" | "set") && items.get("nullable").flag() {
        check.forbidden(&items.get("nullable"), "cannot be nullable in a list of type map or set");
    }
}

fn map_list(keys: &At, items: &At, check: &mut Check) {
    if keys.is_empty() {
        check.required(keys, "must not be empty if x-kubernetes-list-type is map");
    }
    if !items.is_set() {
        return check.required(items, "must have a schema if x-kubernetes-list-type is map");
    }
    if !items.value.is_object() {
        return check.invalid(items, "must only have a single schema if x-kubernetes-list-type is map");
    }
    if items.get("type").str() != "object" {
        check.invalid(&items.get("type"), "must be object if parent array's x-kubernetes-list-type is map");
    }
    let names: Vec<&str> = keys.strings().collect();
    let required: Vec<&str> = items.get("required").strings().collect();
    for (index, key) in names.iter().enumerate() {
        let property = items.get("properties").entry(key);
        if items.get("type").str() == "object" {
            if !property.is_set() {
                check.invalid(keys, "entries must all be names of item properties");
            } else if matches!(property.get("type").str(), "array" | "object") {
                check.invalid(
                    &property.get("type"),
                    "must be a scalar type if parent array's x-kubernetes-list-type is map",
                );
            }
            if names[..index].contains(key) {
                check.invalid(keys, "must not contain duplicate entries");
            }
        }
        if property.is_set() && !required.contains(key) && !property.get("default").is_set() {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            check.required(&property.get("default"), detail);
        }
        if property.get("nullable").flag() {
            check.forbidden(
                &property.get("nullable"),
                "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            );
        }
    }
}
