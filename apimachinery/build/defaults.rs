//! `defaults.json` → a tree of default actions per kind; equal subtrees (pod templates) are shared.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde_json::Value;

use crate::{Fallible, flag, list, text};

/// What `defaults.json` cannot say because it depends on a sibling: path suffix → condition (`Rule` in `codec::defaults`).
const CONDITIONS: &[(&str, &str)] = &[
    ("strategy.rollingUpdate", "Rule::When(\"type\", \"RollingUpdate\")"),
    ("updateStrategy.rollingUpdate", "Rule::When(\"type\", \"RollingUpdate\")"),
    ("spec.internalTrafficPolicy", "Rule::WhenNot(\"type\", \"ExternalName\")"),
    ("spec.completions", "Rule::Unless(\"parallelism\")"),
    ("spec.backoffLimit", "Rule::Unless(\"backoffLimitPerIndex\")"),
    ("spec.podReplacementPolicy", "Rule::Unless(\"podFailurePolicy\")"),
    ("spec.policyTypes", "Rule::Unless(\"egress\")"),
    ("exactly.count", "Rule::When(\"allocationMode\", \"ExactCount\")"),
    ("firstAvailable[].count", "Rule::When(\"allocationMode\", \"ExactCount\")"),
    ("imagePullPolicy", "Rule::ImageTag(\"image\")"),
    ("image.pullPolicy", "Rule::ImageTag(\"reference\")"),
];

/// Defaults that are no constants: the moment of writing, or a random sample that the probe took for one.
const NOT_STATIC: &[&str] = &["timeAdded", "allocationMultiplier"];

/// Where a sibling's presence chooses between two values.
const CHOICES: &[(&str, &str, &str)] = &[
    ("spec.policyTypes", "egress", r#"["Ingress","Egress"]"#),
    ("spec.podReplacementPolicy", "podFailurePolicy", r#""Failed""#),
    ("spec.backoffLimit", "backoffLimitPerIndex", "2147483647"),
];

/// Embedded objects that name their kind: upstream's conversion sets it.
const EMBEDDED_KINDS: &[(&str, &str, &str)] = &[
    ("StatefulSet", "spec.volumeClaimTemplates[].apiVersion", "v1"),
    ("StatefulSet", "spec.volumeClaimTemplates[].kind", "PersistentVolumeClaim"),
];

#[derive(Default)]
struct Node {
    value: Option<Value>,
    /// Made when absent, because an empty object gets it too.
    create: bool,
    /// The field is a pointer: zero is a value, not an absence.
    pointer: bool,
    path: String,
    children: BTreeMap<String, Node>,
}

impl Node {
    fn add(&mut self, path: &str, value: &Value, create: bool) {
        let mut node = self;
        let mut walked = String::new();
        for name in path.split('.') {
            if !walked.is_empty() {
                walked.push('.');
            }
            walked += name;
            node = node.children.entry(name.to_owned()).or_default();
            node.create |= create;
            node.path.clone_from(&walked);
        }
        if node.value.is_none() {
            node.value = Some(value.clone());
        }
    }

    /// Looks up which fields are pointers.
    fn learn(&mut self, name: &str, types: &HashMap<&str, &Value>) {
        for (key, child) in &mut self.children {
            let plain = key.trim_end_matches("[]");
            let Some(field) = find(name, plain, types) else { continue };
            child.pointer = flag(field, "ptr");
            let inner = text(field, "t").trim_start_matches("list<").trim_end_matches('>');
            if let Some(next) = inner.strip_prefix("ref:") {
                child.learn(next, types);
            }
        }
    }
}

fn find<'a>(type_name: &str, field: &str, types: &HashMap<&str, &'a Value>) -> Option<&'a Value> {
    let ty = types.get(type_name)?;
    list(ty, "fields").iter().find_map(|f| {
        if flag(f, "inline") {
            return find(text(f, "t").strip_prefix("ref:")?, field, types);
        }
        (text(f, "n") == field).then_some(f)
    })
}

#[derive(Default)]
struct Trees {
    seen: HashMap<String, usize>,
    code: String,
}

impl Trees {
    fn emit(&mut self, node: &Node) -> Fallible<String> {
        let mut rows = String::new();
        // `type` decides about its siblings, so it comes first.
        let mut children: Vec<_> = node.children.iter().collect();
        children.sort_by_key(|(name, _)| (!matches!(name.as_str(), "type" | "allocationMode"), *name));
        for (name, child) in children {
            if let Some((_, sibling, value)) = CHOICES.iter().find(|(suffix, ..)| child.path == *suffix) {
                writeln!(
                    rows,
                    " entry({name:?}, true, false, Rule::If({sibling:?}), DefaultValue::Json({value:?}), &[]),"
                )?;
            }
            let rule =
                CONDITIONS.iter().find(|(suffix, _)| child.path.ends_with(suffix)).map_or("Rule::Always", |r| r.1);
            let value = match &child.value {
                None => "DefaultValue::No".to_owned(),
                Some(Value::String(s)) => format!("DefaultValue::Str({s:?})"),
                Some(Value::Bool(b)) => format!("DefaultValue::Bool({b})"),
                Some(Value::Number(n)) => format!("DefaultValue::Int({n})"),
                Some(Value::Object(o)) if o.is_empty() => "DefaultValue::EmptyObject".to_owned(),
                Some(other) => format!("DefaultValue::Json({:?})", other.to_string()),
            };
            let below = self.emit(child)?;
            let plain = name.trim_end_matches("[]");
            writeln!(rows, " entry({plain:?}, {}, {}, {rule}, {value}, {below}),", child.create, child.pointer)?;
        }
        if rows.is_empty() {
            return Ok("&[]".to_owned());
        }
        let next = self.seen.len();
        let number = *self.seen.entry(rows.clone()).or_insert(next);
        if number == next {
            let count = rows.lines().count();
            writeln!(self.code, "static D{number}: [Entry; {count}] = [\n{rows}];")?;
        }
        Ok(format!("&D{number}"))
    }
}

/// The file that `codec::defaults` includes.
pub fn generate(types: &Value, defaults: &Value) -> Fallible<String> {
    let by_name: HashMap<&str, &Value> = list(types, "types").iter().map(|t| (text(t, "name"), t)).collect();
    let mut trees = Trees::default();
    let mut kinds = Vec::new();
    for kind in list(defaults, "kinds") {
        let key = (text(kind, "group"), text(kind, "version"), text(kind, "kind"));
        let mut root = Node::default();
        for (section, create) in [("whenEmpty", true), ("whenParentPresent", false)] {
            for (path, value) in kind[section].as_object().into_iter().flatten() {
                if !NOT_STATIC.iter().any(|suffix| path.ends_with(suffix)) {
                    root.add(path, value, create);
                }
            }
        }
        for (_, path, value) in EMBEDDED_KINDS.iter().filter(|(name, ..)| *name == key.2) {
            root.add(path, &Value::from(*value), false);
        }
        let ty = list(types, "types").iter().find(|t| {
            list(t, "gvk").iter().any(|g| (&g[0], &g[1], &g[2]) == (&kind["group"], &kind["version"], &kind["kind"]))
        });
        root.learn(ty.map(|t| text(t, "name")).unwrap_or_default(), &by_name);
        kinds.push((key, trees.emit(&root)?));
    }
    kinds.sort();
    let mut out = trees.code;
    writeln!(out, "static DEFAULTS: [(KindName, &[Entry]); {}] = [", kinds.len())?;
    for ((group, version, kind), root) in kinds {
        writeln!(out, " (({group:?}, {version:?}, {kind:?}), {root}),")?;
    }
    Ok(out + "];\n")
}
