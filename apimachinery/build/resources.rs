//! `resources.json`, `fields.json` and `tables.json` → one static row per served resource.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::{Fallible, flag, list, strings, text};

type Facts<'a> = HashMap<(&'a str, &'a str, &'a str), &'a Value>;

fn by_resource<'a>(rows: &'a [Value]) -> Facts<'a> {
    rows.iter().map(|r| ((text(r, "group"), text(r, "version"), text(r, "resource")), r)).collect()
}

/// What the storage of a resource or subresource does, as a `Behaviour` literal.
fn behaviour(facts: &Value, group: &str, version: &str) -> String {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    format!(
        "Behaviour {{ does: {}, connect_methods: {}, allow_create_on_update: {}, allow_unconditional_update: {}, \
         return_deleted_object: {}, reset_fields: {}, generation_after_create: {}, generation_bumped_by: {}, \
         generation_not_bumped_by: {}, update_keeps_old: {}, create_clears: {} }}",
        strings(list(facts, "does")),
        strings(list(facts, "connectMethods")),
        flag(facts, "allowCreateOnUpdate"),
        flag(facts, "allowUnconditionalUpdate"),
        flag(facts, "returnDeletedObject"),
        strings(list(&facts["resetFields"], &api_version)),
        facts["generationAfterCreate"].as_i64().unwrap_or_default(),
        strings(list(facts, "generationBumpedBy")),
        strings(list(facts, "generationNotBumpedBy")),
        strings(list(facts, "updateKeepsOld")),
        strings(list(facts, "createClears")),
    )
}

fn field_selectors(facts: &Value) -> String {
    let mut rows = String::from("&[");
    for (name, rule) in facts["fieldSelectors"].as_object().into_iter().flatten() {
        rows += &match rule.as_str() {
            Some("ok") => format!("({name:?}, Selectable::Field), "),
            Some("rejected") => continue,
            _ => format!("({name:?}, Selectable::Alias({:?})), ", rule.as_str().unwrap_or_default()),
        };
    }
    for (name, target) in facts["fieldSelectorAliases"].as_object().into_iter().flatten() {
        rows += &format!("({name:?}, Selectable::Alias({:?})), ", target.as_str().unwrap_or_default());
    }
    for name in list(facts, "fieldSelectorsAcceptedButValueless") {
        rows += &format!("({:?}, Selectable::Valueless), ", name.as_str().unwrap_or_default());
    }
    rows + "]"
}

fn columns(table: Option<&&Value>) -> String {
    let mut rows = String::from("&[");
    for column in table.map(|t| list(t, "columns")).unwrap_or_default() {
        let part = |i: usize| column[i].as_str().unwrap_or_default();
        let priority = column[3].as_i64().unwrap_or_default();
        rows += &format!(
            "Column {{ name: {:?}, ty: {:?}, format: {:?}, priority: {priority} }}, ",
            part(0),
            part(1),
            part(2)
        );
    }
    rows + "]"
}

fn subresources(row: &Value, fields: &Facts) -> String {
    let (group, version, plural) = (text(row, "group"), text(row, "version"), text(row, "resource"));
    let mut rows = String::from("&[");
    for sub in list(row, "subresources") {
        let name = text(sub, "name");
        let (mut sub_group, mut sub_version) = (text(sub, "group"), text(sub, "version"));
        if sub_version.is_empty() {
            (sub_group, sub_version) = (group, version);
        }
        let path = format!("{plural}/{name}");
        let facts = fields.get(&(group, version, path.as_str())).copied().unwrap_or(&Value::Null);
        rows += &format!(
            "SubresourceFacts {{ name: {name:?}, group: {sub_group:?}, version: {sub_version:?}, kind: {:?}, verbs: {}, behaviour: {} }}, ",
            text(sub, "kind"),
            strings(list(sub, "verbs")),
            behaviour(facts, group, version),
        );
    }
    rows + "]"
}

fn row(row: &Value, fields: &Facts, tables: &Facts) -> Fallible<String> {
    let key = (text(row, "group"), text(row, "version"), text(row, "resource"));
    let facts = fields.get(&key).copied().unwrap_or(&Value::Null);
    let collection = match text(facts, "defaultGC") {
        "Background" | "DeleteDependents" | "" => "Background",
        "OrphanDependents" => "Orphan",
        "Unsupported" => "Unsupported",
        other => return Err(format!("defaultGC {other}").into()),
    };
    let stored_as = text(row, "storedAs");
    let (stored_version, stored_kind) = stored_as.rsplit_once('/').unwrap_or_default();
    Ok(format!(
        " ResourceFacts {{ group: {:?}, version: {:?}, plural: {:?}, singular: {:?}, kind: {:?}, namespaced: {}, verbs: {}, \
         short_names: {}, categories: {}, storage_version_hash: {:?}, etcd_prefix: {:?}, stored_api_version: {stored_version:?}, \
         stored_kind: {stored_kind:?}, stored_as_json: {}, selectable_fields: {}, indexed_fields: {}, default_collection: DefaultCollection::{collection}, \
         graceful_delete: {}, ttl: {}, finishes_deletion_on_update: {}, columns: {}, behaviour: {}, subresources: {} }},\n",
        key.0,
        key.1,
        key.2,
        text(row, "singular"),
        text(row, "kind"),
        flag(row, "namespaced"),
        strings(list(row, "verbs")),
        strings(list(row, "shortNames")),
        strings(list(row, "categories")),
        text(row, "storageVersionHash"),
        text(row, "etcdPrefix"),
        text(row, "storedEncoding") == "json",
        field_selectors(facts),
        strings(list(facts, "indexedFields")),
        flag(facts, "gracefulDelete"),
        flag(facts, "ttl"),
        flag(facts, "deleteDuringUpdateWhenNoFinalizers"),
        columns(tables.get(&key)),
        behaviour(facts, key.0, key.1),
        subresources(row, fields),
    ))
}

/// The file that `resources` includes.
pub fn generate(resources: &Value, fields: &Value, tables: &Value) -> Fallible<String> {
    let fields = by_resource(list(fields, "resources"));
    let tables = by_resource(list(tables, "tables"));
    let rows = list(resources, "resources");
    let mut out = String::new();
    writeln!(out, "static ROWS: [ResourceFacts; {}] = [", rows.len())?;
    for resource in rows {
        out += &row(resource, &fields, &tables)?;
    }
    let groups = list(resources, "groups");
    writeln!(out, "];\nstatic GROUP_ROWS: [GroupFacts; {}] = [", groups.len())?;
    for group in groups {
        let mut priorities = String::from("&[");
        for version in list(group, "versions").iter().filter_map(Value::as_str) {
            let priority = group["versionPriority"][version].as_i64();
            priorities += &format!("({version:?}, {priority:?}), ");
        }
        writeln!(
            out,
            " GroupFacts {{ group: {:?}, preferred: {:?}, group_priority_minimum: {:?}, versions: {priorities}] }},",
            text(group, "group"),
            text(group, "preferred"),
            group["groupPriorityMinimum"].as_i64(),
        )?;
    }
    Ok(out + "];\n")
}
