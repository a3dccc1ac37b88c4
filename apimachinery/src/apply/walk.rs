//! Walks over values by their schema: which fields a value sets, how two values differ, merging, removing.
//!
//! Follows upstream's structured-merge-diff: atomic places are one field, keyed lists are walked by key, structs field by
//! field. Values that do not fit their schema are treated as one field.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::FieldSet;
use crate::schema::{Kind, ListType, MapType, Slot, Special, Type};
use crate::structural::Schema;

/// How a place is walked.
#[derive(Clone, Copy)]
pub enum Shape<'t> {
    /// One field: scalars and what is owned whole.
    Leaf,
    /// A struct.
    Struct(&'t Type),
    /// A map with entries of their own.
    Map(&'t Slot),
    /// A list whose elements are identified by value.
    Set(&'t Slot),
    /// A list whose elements are identified by keys.
    Keyed(&'t Slot, &'t [&'static str]),
    /// An object or a list of a custom resource.
    Custom(&'t Schema),
    /// Of unknown shape: objects are maps, all else is one field.
    Deduced,
}

impl<'t> Shape<'t> {
    /// The shape of whole objects.
    pub fn root(ty: &'t Type) -> Self {
        ty.custom.as_deref().map_or(Self::Struct(ty), Self::custom)
    }

    fn custom(schema: &'t Schema) -> Self {
        let granular = |list_type: ListType| matches!(list_type, ListType::Set | ListType::Map);
        match schema.ty.as_str() {
            _ if schema.typed.is_some() => schema.typed.map_or(Self::Leaf, Self::Struct),
            "object" if !schema.atomic_map => Self::Custom(schema),
            "array" if schema.list_type.is_some_and(granular) => Self::Custom(schema),
            "" if schema.is_open() => Self::Deduced,
            _ => Self::Leaf,
        }
    }

    /// The shape of a slot.
    pub fn of(slot: &'t Slot) -> Self {
        match &slot.kind {
            Kind::Ref(ty) if ty.special == Special::No => match (slot.map_type, ty.map_type) {
                (MapType::Granular, _) | (MapType::Unset, MapType::Unset | MapType::Granular) => Self::Struct(ty),
                _ => Self::Leaf,
            },
            Kind::Map(entry) if slot.map_type != MapType::Atomic => Self::Map(entry),
            Kind::List(element) => match slot.list_type {
                ListType::Set => Self::Set(element),
                ListType::Map => Self::Keyed(element, &slot.list_keys),
                ListType::Unset | ListType::Atomic => Self::Leaf,
            },
            _ => Self::Leaf,
        }
    }

    fn is_object(self) -> bool {
        match self {
            Self::Custom(schema) => schema.ty == "object",
            _ => matches!(self, Self::Struct(_) | Self::Map(_) | Self::Deduced),
        }
    }

    fn is_list(self) -> bool {
        match self {
            Self::Custom(schema) => schema.ty == "array",
            _ => matches!(self, Self::Set(_) | Self::Keyed(..)),
        }
    }

    /// A member that is a field of a struct, not an entry of a map.
    fn has_field(self, name: &str) -> bool {
        match self {
            Self::Struct(ty) => ty.field(name).is_some(),
            Self::Custom(schema) => schema.properties.contains_key(name),
            _ => false,
        }
    }

    /// The shape of a member of an object.
    fn member(self, name: &str) -> Shape<'t> {
        match self {
            Self::Struct(ty) => ty.field(name).map_or(Self::Leaf, |field| Self::of(&field.slot)),
            Self::Map(entry) => Self::of(entry),
            Self::Custom(schema) => schema.member(name).map_or(Self::Deduced, Self::custom),
            Self::Deduced => Self::Deduced,
            _ => Self::Leaf,
        }
    }

    fn element(self) -> Shape<'t> {
        match self {
            Self::Set(slot) | Self::Keyed(slot, _) => Self::of(slot),
            Self::Custom(schema) => schema.items.as_deref().map_or(Self::Leaf, Self::custom),
            _ => Self::Leaf,
        }
    }

    /// The path element of a list's element; `Err` names the missing key.
    fn identify(self, item: &Value) -> Result<String, &'t str> {
        let mut identity = BTreeMap::new();
        let mut add = |key: &'t str, default: &dyn Fn() -> Option<Value>| {
            let given = item.get(key).filter(|v| !v.is_null()).map(Cow::Borrowed);
            identity.insert(key, given.or_else(|| default().map(Cow::Owned)).ok_or(key)?);
            Ok::<(), &'t str>(())
        };
        match self {
            Self::Keyed(slot, keys) => keys.iter().try_for_each(|key| {
                add(key, &|| match &slot.kind {
                    Kind::Ref(ty) => ty.field(key).and_then(|field| field.slot.default.to_value()),
                    _ => None,
                })
            })?,
            Self::Custom(schema) if schema.list_type == Some(ListType::Map) => {
                let default = |key: &str| schema.items.as_ref()?.properties.get(key)?.default.clone();
                schema.list_keys.iter().try_for_each(|key| add(key, &|| default(key)))?;
            }
            _ => return Ok(format!("v:{item}")),
        }
        let mut element = b"k:".to_vec();
        // Neither of the two can fail: strings as keys, and JSON is UTF-8.
        let _ = serde_json::to_writer(&mut element, &identity);
        Ok(String::from_utf8(element).unwrap_or_default())
    }

    /// Elements with their identities; those without one are left out.
    fn elements(self, items: &[Value]) -> Vec<(String, &Value)> {
        items.iter().filter_map(|item| Some((self.identify(item).ok()?, item))).collect()
    }
}

/// The path element of a field or a map key.
fn field_element(name: &str) -> String {
    ["f:", name].concat()
}

fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object).filter(|map| !map.is_empty())
}

fn list(value: Option<&Value>) -> Option<&Vec<Value>> {
    value.and_then(Value::as_array).filter(|items| !items.is_empty())
}

/// Fits where an object (or a list) is expected.
fn fits(value: Option<&Value>, is: fn(&Value) -> bool) -> bool {
    value.is_none_or(|v| v.is_null() || is(v))
}

/// Which fields differ between two values.
#[derive(Default)]
pub struct Comparison {
    /// Only in the second.
    pub added: FieldSet,
    /// In both, with different values.
    pub modified: FieldSet,
    /// Only in the first.
    pub removed: FieldSet,
}

impl Comparison {
    /// Takes over what differs below an element; most elements are alike, and then not even named.
    fn attach(&mut self, element: impl Fn() -> String, child: Self) {
        let Self { added, modified, removed } = child;
        for (set, below) in [(&mut self.added, added), (&mut self.modified, modified), (&mut self.removed, removed)] {
            if !below.is_empty() {
                set.attach(element(), below);
            }
        }
    }
}

/// What a value adds where nothing stood: itself and all that is in it.
fn added(shape: Shape<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::leaf();
    match value {
        Value::Object(map) if shape.is_object() => {
            set.reserve(map.len());
            for (key, item) in map {
                set.attach(field_element(key), added(shape.member(key), item));
            }
        }
        Value::Array(items) if shape.is_list() => {
            set.reserve(items.len());
            for (id, item) in shape.elements(items) {
                set.attach(id, added(shape.element(), item));
            }
        }
        _ => {}
    }
    set
}

/// Compares two values of a shape.
pub fn compare(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let mut result = Comparison::default();
    let Some(before) = old else {
        result.added = new.map(|value| added(shape, value)).unwrap_or_default();
        return result;
    };
    if Some(before) == new {
        return result;
    }
    if shape.is_object() && fits(old, Value::is_object) && fits(new, Value::is_object) {
        let (olds, news) = (object(old), object(new));
        if olds.is_some() || news.is_some() {
            let empty = Map::new();
            let (olds, news) = (olds.unwrap_or(&empty), news.unwrap_or(&empty));
            for key in olds.keys().chain(news.keys().filter(|key| !olds.contains_key(*key))) {
                let child = compare(shape.member(key), olds.get(key), news.get(key));
                result.attach(|| field_element(key), child);
            }
            result.removed.member = new.is_none();
            return result;
        }
    }
    if shape.is_list() && fits(old, Value::is_array) && fits(new, Value::is_array) {
        let (olds, news) = (list(old), list(new));
        if olds.is_some() || news.is_some() {
            let olds = olds.map(|items| shape.elements(items)).unwrap_or_default();
            let news = news.map(|items| shape.elements(items)).unwrap_or_default();
            for (id, item) in &olds {
                let other = news.iter().find(|(other, _)| other == id).map(|(_, item)| *item);
                result.attach(|| id.clone(), compare(shape.element(), Some(*item), other));
            }
            for (id, item) in news.iter().filter(|(id, _)| !olds.iter().any(|(other, _)| other == id)) {
                result.attach(|| id.clone(), compare(shape.element(), None, Some(*item)));
            }
            result.removed.member = new.is_none();
            return result;
        }
    }
    match (old, new) {
        (_, None) => result.removed.member = true,
        _ => result.modified.member = true,
    }
    result
}

/// The fields that a value sets.
pub fn field_set(shape: Shape<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match value {
        Value::Object(map) if shape.is_object() => {
            for (key, item) in map {
                let mut child = field_set(shape.member(key), item);
                // Map entries are owned as such; fields of structs only through what is in them.
                child.member |= item.is_null() || item.as_object().is_some_and(Map::is_empty) || !shape.has_field(key);
                set.attach(field_element(key), child);
            }
        }
        Value::Array(items) if shape.is_list() => {
            for (id, item) in shape.elements(items) {
                let mut child = field_set(shape.element(), item);
                child.member = true;
                set.attach(id, child);
            }
        }
        Value::Null if shape.is_object() || shape.is_list() => {}
        _ => set.member = true,
    }
    set
}

/// The first value with the second laid over it.
pub fn merge(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> Value {
    if shape.is_object() && fits(old, Value::is_object) && fits(new, Value::is_object) {
        let (olds, news) = (object(old), object(new));
        if olds.is_some() || news.is_some() {
            let mut result = olds.cloned().unwrap_or_default();
            for (key, item) in news.into_iter().flatten() {
                let merged = merge(shape.member(key), olds.and_then(|m| m.get(key)), Some(item));
                result.insert(key.clone(), merged);
            }
            return Value::Object(result);
        }
    }
    if shape.is_list() && fits(old, Value::is_array) && fits(new, Value::is_array) {
        let olds = list(old).map(|items| shape.elements(items)).unwrap_or_default();
        let news = list(new).map(|items| shape.elements(items)).unwrap_or_default();
        if !olds.is_empty() || !news.is_empty() {
            return Value::Array(merge_lists(shape, &olds, &news));
        }
    }
    new.or(old).cloned().unwrap_or_default()
}

/// Interleaves two lists: elements of the second keep their order, those only in the first keep their place between them.
fn merge_lists(shape: Shape<'_>, olds: &[(String, &Value)], news: &[(String, &Value)]) -> Vec<Value> {
    let find = |list: &[(String, &Value)], id: &str| list.iter().position(|(other, _)| other == id);
    let mut shared = news.iter().filter(|(id, _)| find(olds, id).is_some()).map(|(id, _)| id.as_str());
    let mut next_shared = shared.next();
    let mut result = Vec::with_capacity(olds.len().max(news.len()));
    let mut taken: Vec<&str> = Vec::new();
    let (mut left, mut right) = (0, 0);
    while left < olds.len() || right < news.len() {
        if let (Some((l, _)), Some((r, _))) = (olds.get(left), news.get(right))
            && l != r
            && find(news, l).is_some()
            && next_shared.is_some_and(|next| next != l)
        {
            // Shared, but it comes later in the second list.
            left += 1;
            continue;
        }
        let same = matches!((olds.get(left), news.get(right)), (Some((l, _)), Some((r, _))) if l == r);
        if let Some((id, item)) = olds.get(left).filter(|_| !same) {
            if find(news, id).is_none() {
                result.push((*item).clone());
                left += 1;
                continue;
            }
            if taken.contains(&id.as_str()) {
                left += 1;
            }
        }
        if let Some((id, item)) = news.get(right) {
            let old = find(olds, id).map(|at| olds[at].1);
            result.push(merge(shape.element(), old, Some(*item)));
            taken.push(id);
            right += 1;
            if same {
                left += 1;
            }
            if next_shared == Some(id.as_str()) {
                next_shared = shared.next();
            }
        }
    }
    result
}

/// A value without the fields of a set; what becomes empty turns to null.
pub fn remove(shape: Shape<'_>, value: &Value, set: &FieldSet) -> Value {
    match value {
        Value::Object(map) if shape.is_object() => {
            let mut result = Map::new();
            for (key, item) in map {
                match set.child(&field_element(key)) {
                    Some(below) if below.member => {}
                    Some(below) => {
                        result.insert(key.clone(), remove(shape.member(key), item, below));
                    }
                    None => {
                        result.insert(key.clone(), item.clone());
                    }
                }
            }
            if result.is_empty() { Value::Null } else { Value::Object(result) }
        }
        Value::Array(items) if shape.is_list() => {
            let mut result = Vec::new();
            for item in items {
                match shape.identify(item).ok().and_then(|id| set.child(&id)) {
                    Some(below) if below.member => {}
                    Some(below) => result.push(remove(shape.element(), item, below)),
                    None => result.push(item.clone()),
                }
            }
            if result.is_empty() { Value::Null } else { Value::Array(result) }
        }
        other => other.clone(),
    }
}

/// The set with every struct field on the way to a member made a member too.
pub fn with_named_fields(shape: Shape<'_>, set: &FieldSet) -> FieldSet {
    let mut result = FieldSet { member: set.member, ..FieldSet::default() };
    for (element, child) in set.children() {
        let (below, named) = match element.strip_prefix("f:") {
            Some(name) => (shape.member(name), shape.has_field(name)),
            None => (shape.element(), false),
        };
        let mut child = with_named_fields(below, child);
        child.member |= named;
        result.attach(element.to_owned(), child);
    }
    result
}

/// Why a configuration does not fit its type; `None` when it does.
pub fn misfit(shape: Shape<'_>, value: &Value) -> Option<String> {
    match value {
        Value::Object(map) if shape.is_object() => map.iter().find_map(|(key, item)| {
            let undeclared = match shape {
                Shape::Struct(ty) => ty.field(key).is_none(),
                Shape::Custom(schema) => schema.member(key).is_none() && !schema.preserve,
                _ => false,
            };
            if undeclared {
                return Some(format!(".{key}: field not declared in schema"));
            }
            if let Shape::Custom(schema) = shape
                && let Some(declared) = schema.member(key).filter(|member| !item.is_null() && !member.admits_type(item))
            {
                return Some(format!(".{key}: expected {}", declared.ty));
            }
            misfit(shape.member(key), item).map(|why| format!(".{key}{why}"))
        }),
        Value::Array(items) if shape.is_list() => {
            let mut seen: Vec<String> = Vec::new();
            items.iter().enumerate().find_map(|(index, item)| match shape.identify(item) {
                Err(key) => Some(format!(
                    ": element {index}: associative list with keys has an element that omits key field \"{key}\""
                )),
                Ok(id) if seen.contains(&id) => Some(format!(": duplicate entries for key {id}")),
                Ok(id) => {
                    let why = misfit(shape.element(), item).map(|why| format!("[{id}]{why}"));
                    seen.push(id);
                    why
                }
            })
        }
        Value::Null => None,
        _ if matches!(shape, Shape::Deduced) => None,
        _ if shape.is_object() => Some(": expected map".to_owned()),
        _ if shape.is_list() => Some(": expected list".to_owned()),
        _ => None,
    }
}

/// The path of a list, map or struct in the value that is one field by its schema.
pub fn atomic(shape: Shape<'_>, value: &Value) -> Option<String> {
    match (shape, value) {
        // What has no schema of its own may be set whole.
        (Shape::Struct(ty), Value::Object(map)) => map.iter().find_map(|(key, item)| {
            let kind = ty.field(key).map(|field| &field.slot.kind)?;
            let typed = matches!(kind, Kind::Ref(_) | Kind::Map(_) | Kind::List(_));
            let leaf = matches!(shape.member(key), Shape::Leaf) && typed && (item.is_object() || item.is_array());
            if leaf { Some(format!(".{key}")) } else { atomic(shape.member(key), item).map(|at| format!(".{key}{at}")) }
        }),
        (Shape::Map(_), Value::Object(map)) => {
            map.iter().find_map(|(key, item)| atomic(shape.member(key), item).map(|at| format!(".{key}{at}")))
        }
        (Shape::Set(_) | Shape::Keyed(..), Value::Array(items)) => {
            items.iter().enumerate().find_map(|(i, item)| atomic(shape.element(), item).map(|at| format!("[{i}]{at}")))
        }
        _ => None,
    }
}
