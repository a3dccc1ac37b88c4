//! Which objects have a label, or a value of the indexed field: what makes a list by selector cost what it finds.
//!
//! Part of a cache's persistent state: a snapshot's index is exactly of its objects.

use std::borrow::Cow;
use std::sync::Arc;

use imbl::HashMap;

use super::cache::Map;
use super::entry::{Entry, FieldRef, Filter};

/// The objects of each term. A term is `key\0value\0` of a label, or `\0value` of the indexed field.
#[derive(Clone, Debug, Default)]
pub struct Terms(HashMap<Arc<str>, Map>);

fn of_field(value: &str) -> String {
    ["\0", value].concat()
}

/// The terms of an object.
fn of(entry: &Entry, indexed: Option<usize>) -> impl Iterator<Item = Cow<'_, str>> {
    let field = indexed.map(|index| entry.field(index)).filter(|value| !value.is_empty());
    entry.label_terms().map(Cow::Borrowed).chain(field.map(|value| Cow::Owned(of_field(value))))
}

impl Terms {
    /// Takes an object in, in place of what was there before.
    pub fn put(&mut self, entry: &Arc<Entry>, previous: Option<&Entry>, indexed: Option<usize>) {
        for term in previous.into_iter().flat_map(|previous| of(previous, indexed)) {
            if !of(entry, indexed).any(|kept| kept == term) {
                self.forget(&term, &entry.key);
            }
        }
        for term in of(entry, indexed) {
            if let Some(objects) = self.0.get_mut(&*term) {
                objects.insert(Arc::clone(&entry.key), Arc::clone(entry));
            } else {
                self.0.insert(Arc::from(&*term), Map::unit(Arc::clone(&entry.key), Arc::clone(entry)));
            }
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, entry: &Entry, indexed: Option<usize>) {
        for term in of(entry, indexed) {
            self.forget(&term, &entry.key);
        }
    }

    fn forget(&mut self, term: &str, key: &str) {
        let Some(objects) = self.0.get_mut(term) else { return };
        objects.remove(key);
        if objects.is_empty() {
            self.0.remove(term);
        }
    }

    /// The objects whose indexed field has this value.
    pub fn with_field(&self, value: &str) -> Map {
        self.0.get(of_field(value).as_str()).cloned().unwrap_or_default()
    }

    /// The fewest objects among which are all that a filter selects; `None` when that takes all of them.
    pub fn narrowed(&self, filter: &Filter, indexed: Option<FieldRef>) -> Option<Map> {
        let field = indexed.and_then(|field| filter.required(field)).filter(|value| !value.is_empty()).map(of_field);
        let labels = filter.required_labels().map(|(key, value)| [key, "\0", value, "\0"].concat());
        let found = labels.chain(field).map(|term| self.0.get(term.as_str()));
        found.min_by_key(|objects| objects.map_or(0, Map::len)).map(|objects| objects.cloned().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::selector::{FieldSelector, LabelSelector};

    use super::super::probe::{FieldPath, Probe, Zero};
    use super::*;

    fn entry(key: &str, label: &str, node: &str) -> Arc<Entry> {
        let field = FieldPath { name: "node".to_owned(), paths: vec!["node".to_owned()], zero: Zero::Empty };
        let json = format!(r#"{{"metadata":{{"labels":{{"app":"{label}","all":""}}}},"node":"{node}"}}"#);
        Arc::new(Entry::new(key.into(), json.as_bytes(), 1, &Probe::new(vec![field])).unwrap())
    }

    fn found(terms: &Terms, labels: &str, fields: &str) -> Option<Vec<String>> {
        let fields = FieldSelector::parse(fields).unwrap();
        let labels = LabelSelector::parse(labels).unwrap();
        let filter = Filter::new(labels, &fields, |_| Some(FieldRef::Field(0))).unwrap();
        let objects = terms.narrowed(&filter, Some(FieldRef::Field(0)))?;
        Some(objects.keys().map(ToString::to_string).collect())
    }

    #[test]
    fn objects_are_found_by_what_they_are_and_no_longer_by_what_they_were() {
        let mut terms = Terms::default();
        let (a, b) = (entry("a", "x", "n1"), entry("b", "y", ""));
        terms.put(&a, None, Some(0));
        terms.put(&b, None, Some(0));
        let list = |keys: &[&str]| Some(keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>());
        assert_eq!(found(&terms, "all=", ""), list(&["a", "b"]));
        assert_eq!(found(&terms, "all=,app=y", ""), list(&["b"]));
        assert_eq!(found(&terms, "app=z", ""), list(&[]));
        assert_eq!(found(&terms, "", "node=n1"), list(&["a"]));
        for unlisted in ["app!=x", "app in (x,y)", "app", ""] {
            assert_eq!(found(&terms, unlisted, "node="), None);
        }
        let moved = entry("a", "y", "n2");
        terms.put(&moved, Some(&a), Some(0));
        assert_eq!(found(&terms, "app=y", ""), list(&["a", "b"]));
        assert_eq!((found(&terms, "app=x", ""), found(&terms, "", "node=n1")), (list(&[]), list(&[])));
        terms.remove(&moved, Some(0));
        terms.remove(&b, Some(0));
        assert!(terms.0.is_empty());
    }
}
