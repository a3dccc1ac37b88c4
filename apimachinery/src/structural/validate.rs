//! Values against their schema, with upstream's error types and paths.
//!
//! Ratcheting: with an old value, what is unchanged is not looked at. Elements correlate by their keys in lists of type map
//! only; members correlate by name.

use serde_json::{Map, Value};

use super::{Schema, formats};
use crate::field::{ErrorList, ErrorType, FieldError, Path};
use crate::schema::ListType;

/// The name of a JSON type as schemas spell it.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() && number.as_f64().is_some_and(|n| n.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn push(errors: &mut ErrorList, ty: ErrorType, path: &Path, bad_value: &Value, detail: String) {
    errors.push(FieldError { ty, path: path.clone(), bad_value: bad_value.clone(), detail });
}

/// The identity of an element of a list of type map.
fn identity(keys: &[String], item: &Value) -> Vec<Value> {
    keys.iter().map(|key| item.get(key).cloned().unwrap_or_default()).collect()
}

impl Schema {
    /// Whether a value has the declared type; null is another matter.
    pub fn admits_type(&self, value: &Value) -> bool {
        let given = type_of(value);
        match self.ty.as_str() {
            "" if self.int_or_string => matches!(given, "integer" | "string"),
            "" => true,
            "number" => matches!(given, "integer" | "number"),
            declared => declared == given,
        }
    }

    /// Adds what is wrong with a value.
    pub fn validate(&self, value: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
        if old == Some(value) || (value.is_null() && self.nullable) {
            return;
        }
        if !self.admits_type(value) {
            let declared = if self.int_or_string { "integer or string" } else { &self.ty };
            let detail = format!("{path} in body must be of type {declared}: \"{}\"", type_of(value));
            return push(errors, ErrorType::TypeInvalid, path, &type_of(value).into(), detail);
        }
        let checks = &self.checks;
        if !checks.enumeration.is_empty() && !checks.enumeration.contains(value) {
            let known: Vec<String> = checks.enumeration.iter().map(Value::to_string).collect();
            let detail = format!("supported values: {}", known.join(", "));
            push(errors, ErrorType::NotSupported, path, value, detail);
        }
        match value {
            Value::String(text) => self.validate_text(text, value, path, errors),
            Value::Number(_) => self.validate_number(value, path, errors),
            Value::Array(items) => self.validate_list(items, value, old, path, errors),
            Value::Object(map) => self.validate_object(map, value, old, path, errors),
            _ => {}
        }
        self.validate_junctors(value, old, path, errors);
    }

    /// The length against the bounds that begin at `at` in the table of lengths.
    fn validate_length(&self, length: usize, at: usize, value: &Value, path: &Path, errors: &mut ErrorList) {
        let length = length as u64;
        let unit = ["chars long", "items", "properties"][at / 2];
        if let Some(min) = self.checks.lengths[at].filter(|min| length < *min) {
            let detail = format!("{path} in body should have at least {min} {unit}");
            push(errors, ErrorType::Invalid, path, value, detail);
        }
        if let Some(max) = self.checks.lengths[at + 1].filter(|max| length > *max) {
            let ty = if at == 0 { ErrorType::TooLong } else { ErrorType::TooMany };
            let detail = format!("must have at most {max} {unit}");
            push(errors, ty, path, &length.into(), detail);
        }
    }

    fn validate_text(&self, text: &str, value: &Value, path: &Path, errors: &mut ErrorList) {
        self.validate_length(text.chars().count(), 0, value, path, errors);
        if let Some(pattern) = self.checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            push(errors, ErrorType::Invalid, path, value, format!("{path} in body should match '{pattern}'"));
        }
        let format = &self.checks.format;
        if !format.is_empty() && !formats::matches(format, text) {
            push(errors, ErrorType::TypeInvalid, path, value, format!("{path} in body must be of type {format}"));
        }
    }

    fn validate_number(&self, value: &Value, path: &Path, errors: &mut ErrorList) {
        let checks = &self.checks;
        let number = value.as_f64().unwrap_or_default();
        let mut refuse = |detail: String| push(errors, ErrorType::Invalid, path, value, detail);
        if let Some(min) = checks.minimum
            && (number < min || (checks.exclusive_minimum && number <= min))
        {
            let or_equal = if checks.exclusive_minimum { "" } else { " or equal to" };
            refuse(format!("{path} in body should be greater than{or_equal} {min}"));
        }
        if let Some(max) = checks.maximum
            && (number > max || (checks.exclusive_maximum && number >= max))
        {
            let or_equal = if checks.exclusive_maximum { "" } else { " or equal to" };
            refuse(format!("{path} in body should be less than{or_equal} {max}"));
        }
        // For an integer the factor loses its fraction, and a factor of nothing fits nothing.
        let factor = checks.multiple_of.map(|factor| if value.is_i64() { factor.trunc() } else { factor });
        if let Some(factor) = factor
            && (factor <= 0.0 || (number / factor).fract() != 0.0)
        {
            refuse(format!("{path} in body should be a multiple of {factor}"));
        }
        let fits = match checks.format.as_str() {
            "int32" => value.as_i64().is_none_or(|n| i32::try_from(n).is_ok()),
            "int64" => !value.is_u64() || value.is_i64(),
            _ => true,
        };
        if !fits {
            refuse(format!("{path} in body must be of type {}", checks.format));
        }
    }

    fn validate_list(&self, items: &[Value], value: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
        self.validate_length(items.len(), 2, value, path, errors);
        for (index, item) in items.iter().enumerate() {
            let before = &items[..index];
            let twice = match self.list_type {
                Some(ListType::Set) => before.contains(item),
                Some(ListType::Map) => {
                    let own = identity(&self.list_keys, item);
                    before.iter().any(|other| identity(&self.list_keys, other) == own)
                }
                _ => false,
            };
            if twice {
                errors.push(FieldError::duplicate(path.index(index), item.clone()));
            }
            if let Some(schema) = &self.items {
                schema.validate(item, self.old_item(item, old), &path.index(index), errors);
            }
        }
    }

    /// The element of the old list that an element is the same one as.
    pub fn old_item<'o>(&self, item: &Value, old: Option<&'o Value>) -> Option<&'o Value> {
        let old = old.and_then(Value::as_array).filter(|_| self.list_type == Some(ListType::Map))?;
        let own = identity(&self.list_keys, item);
        old.iter().find(|other| identity(&self.list_keys, other) == own)
    }

    fn validate_object(
        &self,
        map: &Map<String, Value>,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        errors: &mut ErrorList,
    ) {
        self.validate_length(map.len(), 4, value, path, errors);
        for name in self.checks.required.iter().filter(|name| !map.contains_key(*name)) {
            errors.push(FieldError::required(path.child(name), ""));
        }
        if self.embedded {
            for name in ["apiVersion", "kind"] {
                if map.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
                    errors.push(FieldError::required(path.child(name), "must not be empty"));
                }
            }
        }
        for (name, item) in map {
            let below = path.child(name);
            if let Some(schema) = self.member(name) {
                schema.validate(item, old.and_then(|old| old.get(name)), &below, errors);
            }
        }
    }

    fn validate_junctors(&self, value: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
        let checks = &self.checks;
        for schema in &checks.all_of {
            schema.validate(value, old, path, errors);
        }
        let outcomes = |schemas: &[Self]| -> Vec<ErrorList> {
            let outcome = |schema: &Self| {
                let mut errors = ErrorList::new();
                schema.validate(value, None, path, &mut errors);
                errors
            };
            schemas.iter().map(outcome).collect()
        };
        // Errors of the junctors themselves have no place upstream. What is nearest to right tells most.
        let nearest = |outcomes: Vec<ErrorList>| outcomes.into_iter().min_by_key(Vec::len).unwrap_or_default();
        if !checks.any_of.is_empty() {
            let outcomes = outcomes(&checks.any_of);
            if outcomes.iter().all(|errors| !errors.is_empty()) {
                let detail = format!("{path} in body must validate at least one schema (anyOf)");
                push(errors, ErrorType::Invalid, &Path::root(), value, detail);
                errors.extend(nearest(outcomes));
            }
        }
        if !checks.one_of.is_empty() {
            let outcomes = outcomes(&checks.one_of);
            let valid = outcomes.iter().filter(|errors| errors.is_empty()).count();
            if valid != 1 {
                let found = if valid == 0 { "none valid".to_owned() } else { format!("{valid} valid alternatives") };
                let detail = format!("{path} in body must validate one and only one schema (oneOf). Found {found}");
                push(errors, ErrorType::Invalid, &Path::root(), value, detail);
                if valid == 0 {
                    errors.extend(nearest(outcomes));
                }
            }
        }
        if let Some(not) = &checks.not {
            let outcomes = outcomes(std::slice::from_ref(&**not));
            if outcomes.iter().all(Vec::is_empty) {
                let detail = format!("{path} in body must not validate the schema (not)");
                push(errors, ErrorType::Invalid, &Path::root(), value, detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::parse(&json!({"type": "object", "required": ["r"], "properties": {
            "i": {"type": "integer", "minimum": 2, "maximum": 9, "exclusiveMaximum": true},
            "n": {"type": "number", "multipleOf": 0.5},
            "s": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
            "e": {"type": "string", "enum": ["a", "b"]},
            "f": {"type": "string", "format": "date-time"},
            "z": {"type": "string", "nullable": true},
            "x": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "maxItems": 2, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
            "emb": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "one": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            "not": {"type": "object", "not": {"required": ["a"]}},
            "m": {"type": "object", "additionalProperties": {"type": "integer"}}}}))
    }

    #[test]
    fn types_and_places_of_errors() {
        use ErrorType::{Duplicate, Invalid, NotSupported, Required, TooLong, TooMany, TypeInvalid};
        let cases: [(Value, &[(ErrorType, &str)]); 17] = [
            (json!({"r": 1, "i": 2, "n": 1.5, "s": "ab", "e": "a", "z": null, "x": "1"}), &[]),
            (json!({}), &[(Required, "r")]),
            (json!({"i": 1}), &[(Invalid, "i")]),
            (json!({"i": 9}), &[(Invalid, "i")]),
            (json!({"i": 2.5}), &[(TypeInvalid, "i")]),
            (json!({"i": 3.0, "n": 1.3}), &[(Invalid, "n")]),
            (json!({"s": "ABCD"}), &[(TooLong, "s"), (Invalid, "s")]),
            (json!({"s": null}), &[(TypeInvalid, "s")]),
            (json!({"e": "c"}), &[(NotSupported, "e")]),
            (json!({"f": "yesterday"}), &[(TypeInvalid, "f")]),
            (json!({"x": true}), &[(TypeInvalid, "x")]),
            (json!({"set": ["a", "a"]}), &[(Duplicate, "set[1]")]),
            (
                json!({"map": [{"k": "a"}, {"k": "b", "v": "x"}, {"k": "a"}]}),
                &[(TooMany, "map"), (TypeInvalid, "map[1].v"), (Duplicate, "map[2]")],
            ),
            (json!({"emb": {"kind": "K"}}), &[(Required, "emb.apiVersion")]),
            (json!({"one": {"a": 1, "b": 1}}), &[(Invalid, "")]),
            (json!({"not": {"a": 1}}), &[(Invalid, "")]),
            (json!({"m": {"k": "x"}}), &[(TypeInvalid, "m.k")]),
        ];
        for (mut value, expected) in cases {
            if expected != [(Required, "r")] {
                value["r"] = json!(1);
            }
            let mut errors = ErrorList::new();
            schema().validate(&value, None, &Path::root(), &mut errors);
            let got: Vec<_> = errors.iter().map(|e| (e.ty, e.path.to_string())).collect();
            let expected: Vec<_> = expected.iter().map(|(ty, path)| (*ty, (*path).to_owned())).collect();
            assert_eq!(got, expected, "{value}");
        }
    }

    #[test]
    fn what_is_unchanged_may_stay() {
        let old = json!({"r": 1, "s": "ABC", "map": [{"k": "a", "v": "bad"}]});
        let new = json!({"r": 2, "s": "ABC", "map": [{"k": "b"}, {"k": "a", "v": "bad"}]});
        let mut errors = ErrorList::new();
        schema().validate(&new, Some(&old), &Path::root(), &mut errors);
        assert_eq!(errors, []);
    }
}
