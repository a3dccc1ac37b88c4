//! Sets of field paths, in the form that `fieldsV1` has on the wire.
//!
//! A set is a tree. An edge is a path element as text: `f:name` (a field or map key), `k:{…}` (an element of a keyed list),
//! `v:…` (an element of a set), `i:n` (a position).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Levels of nesting that are read from the wire.
const MAX_DEPTH_LEVELS: usize = 128;

/// A set of field paths below some place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// The place itself is in the set.
    pub member: bool,
    /// What is below, by path element.
    pub children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Only the place itself.
    pub fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    /// The set of the paths given as `metadata.labels`-like field names.
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let mut node = &mut set;
            for name in path.split('.') {
                node = node.children.entry(format!("f:{name}")).or_default();
            }
            node.member = true;
        }
        set
    }

    /// Reads `fieldsV1`; `None` when it is malformed.
    pub fn from_value(value: &Value) -> Option<Self> {
        Self::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Option<Self> {
        let map = value.as_object().filter(|_| depth < MAX_DEPTH_LEVELS)?;
        let mut set = Self::default();
        for (element, below) in map {
            if element == "." {
                set.member = true;
                continue;
            }
            let kind = element.get(..2)?;
            if !matches!(kind, "f:" | "k:" | "v:" | "i:") {
                return None;
            }
            let mut child = Self::read(below, depth + 1)?;
            // An element with nothing below is itself the member.
            child.member |= below.as_object().is_some_and(Map::is_empty);
            set.children.insert(element.clone(), child);
        }
        Some(set)
    }

    /// The form of `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (element, child) in &self.children {
            let mut below = child.to_value();
            if child.member
                && !child.children.is_empty()
                && let Value::Object(below) = &mut below
            {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            map.insert(element.clone(), below);
        }
        Value::Object(map)
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    /// Adds a child unless it is empty.
    pub fn attach(&mut self, element: &str, child: Self) {
        if !child.is_empty() {
            self.children.insert(element.to_owned(), child);
        }
    }

    /// What is in either.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.member |= other.member;
        for (element, theirs) in &other.children {
            match self.children.remove(element) {
                Some(ours) => self.children.insert(element.clone(), ours.union(theirs)),
                None => self.children.insert(element.clone(), theirs.clone()),
            };
        }
        self
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut result = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (element, ours) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                result.attach(element, ours.intersection(theirs));
            }
        }
        result
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.subtract(other, false)
    }

    /// The same, and a member of the other takes everything below it away.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        self.subtract(other, true)
    }

    fn subtract(&self, other: &Self, recursive: bool) -> Self {
        let mut result = Self { member: self.member && !other.member, children: BTreeMap::new() };
        for (element, ours) in &self.children {
            match other.children.get(element) {
                None => result.attach(element, ours.clone()),
                Some(theirs) if recursive && theirs.member => {}
                Some(theirs) => result.attach(element, ours.subtract(theirs, recursive)),
            }
        }
        result
    }

    /// Every path as people read it: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut String, paths: &mut Vec<String>) {
        if self.member {
            paths.push(prefix.clone());
        }
        for (element, child) in &self.children {
            let length = prefix.len();
            prefix.push_str(&readable(element));
            child.collect(prefix, paths);
            prefix.truncate(length);
        }
    }
}

fn readable(element: &str) -> String {
    let (kind, rest) = element.split_at(element.len().min(2));
    match kind {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let parts: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", parts.join(","))
        }
        _ => format!("[{rest}]"),
    }
}
