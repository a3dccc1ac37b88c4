//! Sets of field paths, in the form that `fieldsV1` has on the wire.
//!
//! A set is a tree. An edge is a path element as text: `f:name` (a field or map key), `k:{…}` (an element of a keyed list),
//! `v:…` (an element of a set), `i:n` (a position).

use serde_json::{Map, Value};

/// Levels of nesting that are read from the wire.
const MAX_DEPTH_LEVELS: usize = 128;

/// A set of field paths below some place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// The place itself is in the set.
    pub member: bool,
    /// What is below, in the order of path elements. Most places have few: a sorted list is smaller and quicker than a map.
    pub(super) children: Vec<(String, FieldSet)>,
}

impl FieldSet {
    /// Only the place itself.
    pub fn leaf() -> Self {
        Self { member: true, children: Vec::new() }
    }

    /// Makes room for so many children.
    pub(super) fn reserve(&mut self, children: usize) {
        self.children.reserve_exact(children);
    }

    fn find(&self, element: &str) -> Result<usize, usize> {
        // Walks go in order, so that most elements belong at the end.
        match self.children.last() {
            Some((last, _)) if last.as_str() < element => Err(self.children.len()),
            _ => self.children.binary_search_by(|(other, _)| other.as_str().cmp(element)),
        }
    }

    /// What is below a path element.
    pub fn child(&self, element: &str) -> Option<&Self> {
        self.find(element).ok().map(|at| &self.children[at].1)
    }

    /// What is below, by path element.
    pub fn children(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.children.iter().map(|(element, child)| (element.as_str(), child))
    }

    fn child_mut(&mut self, element: String) -> &mut Self {
        let at = self.find(&element).unwrap_or_else(|at| {
            self.children.insert(at, (element, Self::default()));
            at
        });
        &mut self.children[at].1
    }

    /// The set of the paths given as `metadata.labels`-like field names.
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let mut node = &mut set;
            for name in path.split('.') {
                node = node.child_mut(format!("f:{name}"));
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
            *set.child_mut(element.clone()) = child;
        }
        Some(set)
    }

    /// The form of `fieldsV1`.
    pub fn into_value(self) -> Value {
        Value::Object(self.children.into_iter().map(|(element, child)| (element, child.into_member())).collect())
    }

    /// The same of a place below another, where a dot stands for itself.
    fn into_member(self) -> Value {
        let itself = (self.member && !self.children.is_empty()).then(|| (".".to_owned(), Value::Object(Map::new())));
        let below = self.children.into_iter().map(|(element, child)| (element, child.into_member()));
        Value::Object(itself.into_iter().chain(below).collect())
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.iter().all(|(_, child)| child.is_empty())
    }

    /// Puts a child in unless it is empty.
    pub fn attach(&mut self, element: String, child: Self) {
        if !child.is_empty() {
            *self.child_mut(element) = child;
        }
    }

    /// What is in either.
    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        self.member |= other.member;
        if self.children.is_empty() {
            self.children = other.children;
            return self;
        }
        for (element, theirs) in other.children {
            let ours = self.child_mut(element);
            *ours = std::mem::take(ours).union(theirs);
        }
        self
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut result = Self { member: self.member && other.member, children: Vec::new() };
        for (element, ours) in &self.children {
            if let Some(theirs) = other.child(element) {
                result.attach(element.clone(), ours.intersection(theirs));
            }
        }
        result
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        self.subtract(other, false);
        self
    }

    /// The same, and a member of the other takes everything below it away.
    #[must_use]
    pub fn recursive_difference(mut self, other: &Self) -> Self {
        self.subtract(other, true);
        self
    }

    fn subtract(&mut self, other: &Self, recursive: bool) {
        self.member &= !other.member;
        for (element, theirs) in &other.children {
            let Ok(at) = self.find(element) else { continue };
            let ours = &mut self.children[at].1;
            if recursive && theirs.member {
                *ours = Self::default();
            } else {
                ours.subtract(theirs, recursive);
            }
            if ours.is_empty() {
                self.children.remove(at);
            }
        }
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
