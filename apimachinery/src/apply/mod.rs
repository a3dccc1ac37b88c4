//! Server-side apply and field ownership (`metadata.managedFields`).
//!
//! [`update`] records who changed what by an ordinary write; [`apply`] merges a configuration into an object, removes what
//! its manager no longer asks for, and finds conflicts with other managers. Pure: the caller gives the time, and brings the
//! result back to its type with `codec::conform`. Follows upstream's field manager; sets recorded under another version
//! of the kind are taken as they are, without conversion.

mod set;
#[cfg(test)]
mod tests;
mod walk;

use std::borrow::Cow;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::codec;
use crate::meta;
use crate::schema::Type;
use crate::status::{Cause, Details, Status};
use crate::time;

pub use set::FieldSet;
use walk::Shape;

/// Managers of ordinary writes that are kept apart; older ones share an entry.
pub const MAX_UPDATE_MANAGERS: usize = 10;
/// The subresource whose writes are recorded without a time.
pub const SCALE: &str = "scale";
/// The manager of what was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The manager of the oldest ordinary writes.
const ANCIENT_CHANGES: &str = "ancient-changes";

/// What nobody owns: the server sets it, or it is the object's identity.
static UNOWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_fields(&[
        "apiVersion", "kind", "metadata", "metadata.name", "metadata.namespace", "metadata.creationTimestamp",
        "metadata.selfLink", "metadata.uid", "metadata.clusterName", "metadata.generation", "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

/// Who writes, how and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or what the user agent says.
    pub manager: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
    /// Subresource written through; empty for the object.
    pub subresource: &'a str,
    /// Fields that no manager owns through this endpoint, like `status` or `metadata.deletionTimestamp`.
    pub reset_fields: &'a [&'a str],
    /// When.
    pub now: Timestamp,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    applied: bool,
    api_version: String,
    subresource: String,
    time: Option<String>,
    fields: FieldSet,
}

impl Entry {
    fn of(writer: &Writer, applied: bool, fields: FieldSet) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            applied,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            // Upstream tells no time of what came through a Scale.
            time: (writer.subresource != SCALE).then(|| time::format_time(writer.now)),
            fields,
        }
    }

    /// The same manager: appliers keep their identity when they change the version.
    fn is_same(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.applied == other.applied
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }

    /// The order of entries in the list.
    fn rank(&self) -> impl Ord + '_ {
        (!self.applied, &self.time, &self.manager, &self.api_version, &self.subresource)
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        let applied = match text("operation").as_str() {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        Some(Self {
            manager: text("manager"),
            applied,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: value.get("time").and_then(Value::as_str).map(str::to_owned),
            fields: value.get("fieldsV1").map_or_else(|| Some(FieldSet::default()), FieldSet::from_value)?,
        })
    }

    fn write(self) -> Value {
        let operation = if self.applied { "Apply" } else { "Update" };
        let texts = [
            ("manager", Some(self.manager)),
            ("operation", Some(operation.to_owned())),
            ("apiVersion", Some(self.api_version)),
            ("fieldsType", Some("FieldsV1".to_owned())),
            ("time", self.time),
            ("subresource", Some(self.subresource).filter(|name| !name.is_empty())),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), Value::String(text?))));
        Value::Object(texts.chain([("fieldsV1".to_owned(), self.fields.into_value())]).collect())
    }
}

fn managed_fields(object: &Value) -> &[Value] {
    let list = object.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

/// The entries of an object; one that cannot be read makes all of them void.
fn read_entries(object: &Value) -> Option<Vec<Entry>> {
    managed_fields(object).iter().map(Entry::read).collect()
}

fn write_entries(object: &mut Value, mut entries: Vec<Entry>) {
    if entries.is_empty() {
        meta::metadata_mut(object).remove("managedFields");
        return;
    }
    entries.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let list: Vec<Value> = entries.into_iter().map(Entry::write).collect();
    meta::metadata_mut(object).insert("managedFields".to_owned(), list.into());
}

/// The object without `managedFields`.
fn without_entries(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// What stands before the first write: the kind and its always written fields.
fn blank(ty: &Type, object: &Value) -> Value {
    let mut blank = Map::new();
    for key in ["apiVersion", "kind"] {
        if let Some(value) = object.get(key) {
            blank.insert(key.to_owned(), value.clone());
        }
    }
    let mut blank = Value::Object(blank);
    codec::canonicalize(ty, &mut blank);
    blank
}

/// Records an ordinary write (create, update, patch) in `metadata.managedFields` of the new object. `live` is the object
/// before the write, `None` on create. Both in canonical form.
pub fn update(ty: &Type, live: Option<&Value>, object: &mut Value, writer: &Writer) {
    let given = managed_fields(object);
    let reset = matches!(given, [only] if only.as_object().is_some_and(Map::is_empty));
    let of_live = || live.and_then(read_entries).unwrap_or_default();
    let entries = if !writer.subresource.is_empty() {
        of_live()
    } else if reset {
        Vec::new()
    } else {
        read_entries(object).filter(|entries| !entries.is_empty()).unwrap_or_else(of_live)
    };
    let tracked = !entries.is_empty() || live.is_none_or(|live| meta::uid(live).is_empty());
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if !tracked {
        return;
    }
    // What `live` says of its managers differs too, but nobody owns that.
    let before = live.map_or_else(|| Cow::Owned(blank(ty, object)), Cow::Borrowed);
    let mut entries = record(ty, &before, object, entries, writer);
    cap(&mut entries);
    write_entries(object, entries);
}

/// What a write sets and what it removes, without what the endpoint resets.
fn changes(ty: &Type, before: &Value, after: &Value, ignored: &FieldSet) -> (FieldSet, FieldSet) {
    let compared = walk::compare(Shape::root(ty), Some(before), Some(after));
    let written = compared.modified.union(compared.added);
    (written.recursive_difference(ignored), compared.removed.recursive_difference(ignored))
}

/// The entries after a write by `writer` that turned `before` into `after`.
fn record(ty: &Type, before: &Value, after: &Value, mut entries: Vec<Entry>, writer: &Writer) -> Vec<Entry> {
    let (written, removed) = changes(ty, before, after, &FieldSet::of_fields(writer.reset_fields));
    for entry in &mut entries {
        entry.fields = std::mem::take(&mut entry.fields).difference(&written).difference(&removed);
    }
    let owned = written.difference(&UNOWNED);
    if !owned.is_empty() {
        let mut own = Entry::of(writer, false, owned);
        if let Some(at) = entries.iter().position(|entry| entry.is_same(&own)) {
            own.fields = own.fields.union(entries.swap_remove(at).fields);
        }
        entries.push(own);
    }
    entries.retain(|entry| !entry.fields.is_empty());
    entries
}

/// Joins the oldest ordinary writers of a version until few enough are left.
fn cap(entries: &mut Vec<Entry>) {
    let count = |entries: &[Entry]| entries.iter().filter(|e| !e.applied).count();
    while count(entries) > MAX_UPDATE_MANAGERS {
        let mut updates: Vec<usize> = (0..entries.len()).filter(|at| !entries[*at].applied).collect();
        updates.sort_by_key(|at| (entries[*at].time.clone(), entries[*at].manager.clone()));
        let same_version = |a: usize, b: usize| entries[a].api_version == entries[b].api_version;
        let pair = updates.iter().enumerate().find_map(|(position, second)| {
            updates[..position].iter().find(|first| same_version(**first, *second)).map(|first| (*first, *second))
        });
        let Some((first, second)) = pair else { return };
        let joined = Entry {
            manager: ANCIENT_CHANGES.to_owned(),
            subresource: String::new(),
            fields: entries[second].fields.clone().union(entries[first].fields.clone()),
            ..entries[second].clone()
        };
        entries.remove(first.max(second));
        entries.remove(first.min(second));
        entries.push(joined);
    }
}

/// Applies a configuration.
///
/// Answers the merged object with its `managedFields`, not yet conformed to the type. `live` is `None` when the object is
/// to be created.
///
/// # Errors
/// `400` when the configuration carries managedFields; `409` with one cause per field that another manager owns with
/// another value, unless `force`; `500` without a reason, as upstream answers, when it does not fit the type.
pub fn apply(ty: &Type, live: Option<&Value>, config: &Value, force: bool, writer: &Writer) -> Result<Value, Status> {
    if !managed_fields(config).is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let shape = Shape::root(ty);
    let misfit = walk::misfit(shape, config).or_else(|| {
        let checked = codec::conform(ty, config.clone(), codec::FieldValidation::Ignore);
        checked.err().map(|status| format!(": {}", status.message))
    });
    if let Some(why) = misfit {
        let message =
            format!("failed to create typed patch object ({}; {}): {why}", meta::name(config), meta::kind(config));
        return Err(Status::failure(500, "", message));
    }
    let before = live.map_or_else(|| blank(ty, config), without_entries);
    let mut entries = live.and_then(read_entries).unwrap_or_default();
    if entries.is_empty() && live.is_some() {
        let first = Writer { manager: BEFORE_FIRST_APPLY, ..*writer };
        entries = record(ty, &blank(ty, config), &before, entries, &first);
    }
    let ignored = FieldSet::of_fields(writer.reset_fields);
    let set = walk::field_set(shape, config).recursive_difference(&ignored);
    let mut own = Entry::of(writer, true, set);
    let previous = entries.iter().position(|entry| entry.is_same(&own)).map(|at| entries.swap_remove(at));
    let mut merged = walk::merge(shape, Some(&before), Some(config));
    if let Some(previous) = &previous {
        merged = prune(shape, &merged, &previous.fields, &own, &entries);
    }
    let (written, removed) = changes(ty, &before, &merged, &ignored);
    let conflicts: Vec<(&Entry, FieldSet)> = entries
        .iter()
        .map(|entry| (entry, entry.fields.intersection(&written)))
        .filter(|(_, fields)| !fields.is_empty())
        .collect();
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    for entry in &mut entries {
        entry.fields = std::mem::take(&mut entry.fields).difference(&written).difference(&removed);
    }
    own.fields = own.fields.difference(&UNOWNED);
    if merged == before {
        // Nothing changed in the object: the time stays (or stays out), so that the write can be seen to change nothing.
        own.time = previous.and_then(|previous| previous.time);
    }
    entries.push(own);
    entries.retain(|entry| !entry.fields.is_empty());
    write_entries(&mut merged, entries);
    Ok(merged)
}

/// Lays a configuration over an object without recording who owns what, as mutating admission policies do.
///
/// # Errors
/// It does not fit the type, or would replace a list, map or struct that is only ever replaced whole.
pub fn overlay(ty: &Type, live: &Value, config: &Value) -> Result<Value, String> {
    let shape = Shape::Struct(ty);
    if let Some(why) = walk::misfit(shape, config) {
        return Err(format!("failed to convert patch object to typed object: {why}"));
    }
    if let Some(path) = walk::atomic(shape, config) {
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {path}"));
    }
    Ok(walk::merge(shape, Some(live), Some(config)))
}

/// Removes what the manager applied before and no longer does, unless another manager owns it.
fn prune(shape: Shape<'_>, merged: &Value, last: &FieldSet, own: &Entry, others: &[Entry]) -> Value {
    let named = |set: &FieldSet| walk::with_named_fields(shape, set);
    let named_last = named(last);
    let pruned = walk::remove(shape, merged, &named_last);
    let managed = others.iter().fold(own.fields.clone(), |all, entry| all.union(entry.fields.clone()));
    let all = named(&walk::field_set(shape, merged));
    let kept = named(&walk::field_set(shape, &pruned));
    // What somebody owns comes back, with what is needed to hold it.
    let gone = all.clone().difference(&kept.union(named(&managed)));
    let pruned = walk::remove(shape, merged, &gone);
    // What nobody owned and this manager did not apply either must not vanish with its parent.
    let kept = named(&walk::field_set(shape, &pruned));
    let gone = all.difference(&kept).intersection(&named_last);
    walk::remove(shape, merged, &gone)
}

fn conflict(conflicts: &[(&Entry, FieldSet)]) -> Status {
    let mut causes = Vec::new();
    for (entry, fields) in conflicts {
        let subresource = match entry.subresource.as_str() {
            "" => String::new(),
            name => format!(" with subresource \"{name}\""),
        };
        let message = format!("conflict with \"{}\"{subresource} using {}", entry.manager, entry.api_version);
        causes.extend(fields.paths().into_iter().map(|field| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: message.clone(),
            field,
        }));
    }
    let lines: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
    let plural = if lines.len() == 1 { "conflict" } else { "conflicts" };
    let message = format!("Apply failed with {} {plural}: {}", lines.len(), lines.join("\n"));
    let mut status = Status::failure(409, "Conflict", message);
    status.details = Some(Box::new(Details { causes, ..Details::default() }));
    status
}
