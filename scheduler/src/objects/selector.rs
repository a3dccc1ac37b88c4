//! Label and node selectors, as they appear in specs, and how they match.
//!
//! Follows upstream: `NotIn` and `DoesNotExist` hold for an absent key; `Gt`/`Lt` compare integers and fail on anything
//! else; a node selector is the OR of its terms and an empty term matches nothing.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A requirement of a label selector or of a node selector term.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// Label key, or field name in `matchFields`.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
    pub operator: String,
    /// Operands.
    #[serde(default)]
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether a value (or its absence) satisfies the requirement. An unknown operator matches nothing.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        match (self.operator.as_str(), value) {
            ("In", Some(v)) => listed(v),
            ("NotIn", Some(v)) => !listed(v),
            ("Exists", Some(_)) | ("NotIn" | "DoesNotExist", None) => true,
            ("Gt", Some(v)) => self.compare(v, |a, b| a > b),
            ("Lt", Some(v)) => self.compare(v, |a, b| a < b),
            _ => false,
        }
    }

    fn compare(&self, value: &str, holds: fn(i64, i64) -> bool) -> bool {
        match (value.parse(), self.values.first().map(|v| v.parse())) {
            (Ok(a), Some(Ok(b))) => holds(a, b),
            _ => false,
        }
    }
}

/// A label selector. As a field it is optional: an absent selector matches nothing, an empty one everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LabelSelector {
    /// Equality requirements.
    pub match_labels: Labels,
    /// Set requirements, all of which must hold.
    pub match_expressions: Vec<Requirement>,
}

impl LabelSelector {
    /// A selector of equalities only.
    pub fn of_labels(labels: Labels) -> Self {
        Self { match_labels: labels, match_expressions: Vec::new() }
    }

    /// True when it selects everything.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether the labels satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.match_expressions.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
    }

    /// Adds `key in (value)` or `key notin (value)` for each key that the labels have: what `matchLabelKeys` and
    /// `mismatchLabelKeys` mean. Doing it again changes nothing, so it is safe after the API server did it.
    pub fn merge_keys(&mut self, keys: &[String], labels: &Labels, operator: &str) {
        for key in keys {
            if let Some(value) = labels.get(key) {
                let wanted = Requirement { key: key.clone(), operator: operator.into(), values: vec![value.clone()] };
                if !self.match_expressions.contains(&wanted) {
                    self.match_expressions.push(wanted);
                }
            }
        }
    }
}

/// One alternative of a node selector: all of its requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct NodeSelectorTerm {
    /// Requirements on labels.
    pub match_expressions: Vec<Requirement>,
    /// Requirements on fields; `metadata.name` is the only one there is.
    pub match_fields: Vec<Requirement>,
}

impl NodeSelectorTerm {
    /// Whether a node of this name and these labels satisfies the term.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.match_expressions.is_empty() && self.match_fields.is_empty() {
            return false;
        }
        self.match_expressions.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
            && self.match_fields.iter().all(|r| r.key == "metadata.name" && r.matches(Some(name)))
    }

    /// The node names that this term allows, when it is restricted by name; `None` when it is not.
    pub fn names(&self) -> Option<Vec<&str>> {
        let field = |r: &&Requirement| r.key == "metadata.name" && r.operator == "In";
        let mut fields = self.match_fields.iter().filter(field);
        let mut names: Vec<&str> = fields.next()?.values.iter().map(String::as_str).collect();
        for r in fields {
            names.retain(|n| r.values.iter().any(|v| v == n));
        }
        Some(names)
    }
}

/// A node selector: at least one term must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSelector {
    /// The alternatives.
    #[serde(default)]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

impl NodeSelector {
    /// Whether a node of this name and these labels satisfies one of the terms.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector_terms.iter().any(|t| t.matches(name, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(op: &str, values: &[&str]) -> Requirement {
        Requirement { key: "k".into(), operator: op.into(), values: values.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn operators() {
        for (op, values, present, absent) in [
            ("In", vec!["5"], true, false),
            ("NotIn", vec!["5"], false, true),
            ("Exists", vec![], true, false),
            ("DoesNotExist", vec![], false, true),
            ("Gt", vec!["4"], true, false),
            ("Lt", vec!["4"], false, false),
            ("Gt", vec!["x"], false, false),
            ("Near", vec!["5"], false, false),
        ] {
            let r = requirement(op, &values);
            assert_eq!(r.matches(Some("5")), present, "{op} present");
            assert_eq!(r.matches(None), absent, "{op} absent");
        }
    }

    #[test]
    fn merging_keys_twice_is_merging_once() {
        let labels = Labels::from([("k".to_string(), "v".to_string())]);
        let mut s = LabelSelector::default();
        s.merge_keys(&["k".into(), "absent".into()], &labels, "In");
        let once = s.clone();
        s.merge_keys(&["k".into()], &labels, "In");
        assert_eq!(s, once);
        assert_eq!(s.match_expressions.len(), 1);
    }
}
