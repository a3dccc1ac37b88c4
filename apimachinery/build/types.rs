//! `types.json` → one static per type, one per distinct value description.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::{Fallible, flag, list, text};

/// Emits the value descriptions that several fields share only once.
#[derive(Default)]
struct Slots {
    seen: HashMap<String, usize>,
    code: String,
}

impl Slots {
    /// The name of the static that describes a field's value (or an element's).
    fn name(&mut self, ty: &str, facts: &Value, index: &HashMap<&str, usize>) -> Fallible<String> {
        let kind = self.kind(ty, &facts["items"], index)?;
        let default = match &facts["def"] {
            Value::Null => "N".to_owned(),
            Value::String(s) => format!("DefaultValue::Str({s:?})"),
            Value::Bool(b) => format!("DefaultValue::Bool({b})"),
            Value::Number(n) => format!("DefaultValue::Int({n})"),
            Value::Object(o) if o.is_empty() => "DefaultValue::EmptyObject".to_owned(),
            other => return Err(format!("default {other} of {ty}").into()),
        };
        let list_type = match text(facts, "list") {
            "" => "Unset",
            "atomic" => "Atomic",
            "set" => "Set",
            "map" => "Map",
            other => return Err(format!("list type {other}").into()),
        };
        let map_type = match text(facts, "map") {
            "" => "Unset",
            "atomic" => "Atomic",
            "granular" => "Granular",
            other => return Err(format!("map type {other}").into()),
        };
        let body = format!(
            "slot({kind}, {default}, {}, ListType::{list_type}, {}, MapType::{map_type})",
            crate::strings(list(facts, "enum")),
            crate::strings(list(facts, "keys")),
        );
        let next = self.seen.len();
        let number = *self.seen.entry(body.clone()).or_insert(next);
        if number == next {
            writeln!(self.code, "static S{number}: Slot = {body};")?;
        }
        Ok(format!("S{number}"))
    }

    fn kind(&mut self, ty: &str, items: &Value, index: &HashMap<&str, usize>) -> Fallible<String> {
        if let Some(name) = ty.strip_prefix("ref:") {
            let number = index.get(name).ok_or_else(|| format!("no type {name}"))?;
            return Ok(format!("Kind::Ref(Held::Static(&T{number}))"));
        }
        for (prefix, variant) in [("list<", "List"), ("map<string,", "Map"), ("wrapped<list<", "WrappedList")] {
            let Some(inner) = ty.strip_prefix(prefix) else { continue };
            let inner = inner.strip_suffix(if variant == "WrappedList" { ">>" } else { ">" }).ok_or("unclosed type")?;
            let name = self.name(inner, items, index)?;
            return Ok(format!("Kind::{variant}(Held::Static(&{name}))"));
        }
        let mut chars = ty.chars();
        let first = chars.next().ok_or("empty type")?.to_ascii_uppercase();
        Ok(format!("Kind::{first}{}", chars.as_str()))
    }
}

fn special(name: &str) -> Fallible<&'static str> {
    Ok(match name {
        "" => "No",
        "json" => "Json",
        "schemaOrArray" => "SchemaOrArray",
        "schemaOrBool" => "SchemaOrBool",
        "schemaOrStringArray" => "SchemaOrStringArray",
        other => return Err(format!("special {other}").into()),
    })
}

fn unions(ty: &Value) -> String {
    let mut out = String::from("&[");
    for union in list(ty, "unions") {
        let members = union["fields-to-discriminateBy"].as_object();
        let pairs: Vec<String> =
            members.into_iter().flatten().map(|(k, v)| format!("({k:?}, {:?})", v.as_str().unwrap_or(""))).collect();
        out += &format!("({:?}, &[{}]), ", text(union, "discriminator"), pairs.join(", "));
    }
    out + "]"
}

fn fields(ty: &Value, slots: &mut Slots, index: &HashMap<&str, usize>) -> Fallible<String> {
    let is_json = ["io.k8s.apiextensions-apiserver.", "io.k8s.kube-aggregator."];
    let is_json = is_json.iter().any(|prefix| text(ty, "name").starts_with(prefix));
    let mut rows = String::new();
    for field in list(ty, "fields") {
        let slot = slots.name(text(field, "t"), field, index)?;
        let wire = match text(field, "wt") {
            "" => "None",
            "varint" => "Varint",
            "fixed64" => "Fixed64",
            "bytes" => "Bytes",
            other => return Err(format!("wire type {other}").into()),
        };
        let omit = match text(field, "omit") {
            "" if is_json => "Kept",
            "" => "Never",
            "omitempty" => "Empty",
            "omitzero" => "Zero",
            // Our own words, both `omitempty` in upstream's JSON: defaulting tells an empty list from none; the field
            // belongs to a feature that is off, and the server does not take it.
            "omitnil" => "Nil",
            "off" => "Off",
            other => return Err(format!("omit {other}").into()),
        };
        let strategy = text(field, "ps");
        let bits = u8::from(flag(field, "inline"))
            | u8::from(flag(field, "ptr")) << 1
            | u8::from(flag(field, "req")) << 2
            | u8::from(strategy.contains("merge")) << 3
            | u8::from(strategy.contains("retainKeys")) << 4
            | u8::from(strategy == "replace") << 5;
        writeln!(
            rows,
            " field({:?}, {}, Wire::{wire}, {bits}, Omit::{omit}, {:?}, &{slot}),",
            text(field, "n"),
            field["pb"].as_u64().unwrap_or_default(),
            text(field, "pmk"),
        )?;
    }
    Ok(rows)
}

/// The file that `schema` includes.
pub fn generate(types: &Value) -> Fallible<String> {
    let types = list(types, "types");
    let index: HashMap<&str, usize> = types.iter().enumerate().map(|(i, t)| (text(t, "name"), i)).collect();
    let mut slots = Slots::default();
    let mut out = String::new();
    let mut names = Vec::new();
    let mut kinds = Vec::new();
    for (number, ty) in types.iter().enumerate() {
        let rows = fields(ty, &mut slots, &index)?;
        let mut gvk = Vec::new();
        for entry in list(ty, "gvk") {
            let part = |i: usize| entry[i].as_str().unwrap_or_default();
            kinds.push((part(0), part(1), part(2), number));
            gvk.push(format!("gvk({:?}, {:?}, {:?})", part(0), part(1), part(2)));
        }
        names.push((text(ty, "name"), number));
        let published = text(ty, "openapi") != "none";
        let wire_only = text(ty, "group") == "wire-only";
        writeln!(out, "static G{number}: [Gvk; {}] = [{}];", gvk.len(), gvk.join(", "))?;
        let count = list(ty, "fields").len();
        writeln!(out, "static F{number}: [Field; {count}] = [\n{rows}];")?;
        writeln!(out, "static K{number}: [u16; {count}] = marks(&F{number});")?;
        writeln!(out, "static P{number}: [u16; {count}] = order(&F{number});")?;
        writeln!(
            out,
            "static T{number}: Type = Type {{ name: Held::Static({:?}), gvk: Held::Static(&G{number}), fields: Held::Static(&F{number}), marks: &K{number}, order: &P{number}, \
             map_type: MapType::{}, special: Special::{}, unions: {}, proto: {}, published: {}, custom: None }};",
            text(ty, "name"),
            if text(ty, "map") == "atomic" { "Atomic" } else { "Unset" },
            special(text(ty, "special"))?,
            unions(ty),
            flag(ty, "proto"),
            published && !wire_only,
        )?;
    }
    names.sort_unstable();
    kinds.sort_unstable();
    kinds.dedup_by_key(|(g, v, k, _)| (*g, *v, *k));
    out += &slots.code;
    writeln!(out, "static BY_NAME: [(&str, &Type); {}] = [", names.len())?;
    for (name, number) in names {
        writeln!(out, " ({name:?}, &T{number}),")?;
    }
    writeln!(out, "];\nstatic BY_KIND: [((&str, &str, &str), &Type); {}] = [", kinds.len())?;
    for (group, version, kind, number) in kinds {
        writeln!(out, " (({group:?}, {version:?}, {kind:?}), &T{number}),")?;
    }
    Ok(out + "];\n")
}
