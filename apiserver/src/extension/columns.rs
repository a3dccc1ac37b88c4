//! Cells of custom tables: `additionalPrinterColumns`, and the JSON paths that they are written in.
//!
//! Understands what upstream's paths are used for: members with dots or in brackets, positions, slices of everything, and
//! filters that compare a member with a constant. What is not understood is refused by [`Path::parse`].

use apimachinery::meta;
use serde_json::Value;

use super::age;
use crate::resources::check::At;
use crate::resources::{Column, HookContext, printing};

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    Index(i64),
    /// `[a:b]`
    Slice(Option<i64>, Option<i64>),
    All,
    /// Members of any depth.
    Descend(String),
    /// The elements whose member (a path) compares to a constant, or exists when there is none.
    Filter(Path, Option<(Comparison, Value)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A JSON path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path(Vec<Step>);

/// Up to an unescaped delimiter; a backslash takes the next character as it is.
fn name(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (out, &text[at..]),
            _ => out.push(c),
        }
    }
    (out, "")
}

/// What stands between brackets, and what follows.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            (_, Some(open)) if c == open => quote = None,
            (_, Some(_)) => {}
            ('\'' | '"', None) => quote = Some(c),
            ('[' | '(', None) => depth += 1,
            (']', None) if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            (']' | ')', None) => depth -= 1,
            _ => {}
        }
    }
    None
}

fn constant(text: &str) -> Option<Value> {
    let quoted = |quote| text.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    match quoted('\'').or_else(|| quoted('"')) {
        Some(text) => Some(text.into()),
        None => serde_json::from_str(text).ok(),
    }
}

fn step_in_brackets(inner: &str) -> Option<Step> {
    let inner = inner.trim();
    if let Some(filter) = inner.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return filter_step(filter.trim());
    }
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(Value::String(name)) = constant(inner).filter(Value::is_string) {
        return Some(Step::Member(name));
    }
    match inner.split_once(':') {
        Some((from, to)) => {
            let bound = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
            Some(Step::Slice(bound(from)?, bound(to)?))
        }
        None => inner.parse().ok().map(Step::Index),
    }
}

fn filter_step(filter: &str) -> Option<Step> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    let operators =
        [("==", Equal), ("!=", NotEqual), ("<=", LessOrEqual), (">=", GreaterOrEqual), ("<", Less), (">", Greater)];
    let found = operators.iter().find_map(|(sign, operator)| filter.split_once(sign).map(|parts| (parts, *operator)));
    let path = |text: &str| text.trim().strip_prefix('@').and_then(Path::parse);
    match found {
        Some(((left, right), operator)) => Some(Step::Filter(path(left)?, Some((operator, constant(right.trim())?)))),
        None => Some(Step::Filter(path(filter)?, None)),
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            _ => left.as_f64().zip(right.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        };
        match self {
            Self::Equal => left == right || order.is_some_and(std::cmp::Ordering::is_eq),
            Self::NotEqual => !Self::Equal.holds(left, right),
            Self::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Self::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

fn descend<'v>(value: &'v Value, name: &str, found: &mut Vec<&'v Value>) {
    if let Some(member) = value.get(name) {
        found.push(member);
    }
    let members = value.as_object().into_iter().flat_map(|map| map.values());
    for below in members.chain(value.as_array().into_iter().flatten()) {
        descend(below, name, found);
    }
}

impl Step {
    fn apply<'v>(&self, value: &'v Value, found: &mut Vec<&'v Value>) {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let position = |at: i64| {
            let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
            usize::try_from(if at < 0 { at + len } else { at }).unwrap_or_default().min(items.len())
        };
        match self {
            Self::Member(name) => found.extend(value.get(name)),
            Self::Index(at) => found.extend(items.get(position(*at))),
            Self::Slice(from, to) => {
                let (from, to) = (from.map_or(0, position), to.map_or(items.len(), position));
                found.extend(items.get(from..to).into_iter().flatten());
            }
            Self::All => found.extend(items.iter().chain(value.as_object().into_iter().flat_map(|map| map.values()))),
            Self::Descend(name) => descend(value, name, found),
            Self::Filter(path, wanted) => found.extend(items.iter().filter(|item| {
                let got = path.find(item);
                match wanted {
                    None => !got.is_empty(),
                    Some((comparison, constant)) => got.first().is_some_and(|value| comparison.holds(value, constant)),
                }
            })),
        }
    }
}

impl Path {
    /// Reads a path that begins with a dot or a bracket.
    pub fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                let (member, after) = name(after);
                steps.push(Step::Descend(member));
                rest = after;
            } else if let Some(after) = rest.strip_prefix('.') {
                let (member, after) = name(after);
                match member.as_str() {
                    "*" => steps.push(Step::All),
                    // `.` alone is the object, `.[0]` a position in it.
                    "" if after.is_empty() || after.starts_with('[') => {}
                    "" => return None,
                    _ => steps.push(Step::Member(member)),
                }
                rest = after;
            } else {
                let (inner, after) = bracketed(rest.strip_prefix('[')?)?;
                steps.push(step_in_brackets(inner)?);
                rest = after;
            }
        }
        Some(Self(steps))
    }

    /// Everything in an object that the path leads to.
    pub fn find<'v>(&self, object: &'v Value) -> Vec<&'v Value> {
        let mut values = vec![object];
        for step in &self.0 {
            let mut found = Vec::new();
            for value in values {
                step.apply(value, &mut found);
            }
            values = found;
        }
        values
    }
}

/// The columns of a version, and where their cells come from.
pub fn of(declared: &Value) -> (Vec<Column>, Vec<Path>) {
    let mut columns = vec![Column { name: "Name".into(), ty: "string".into(), format: "name".into(), ..age() }];
    let mut paths = Vec::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for column in declared.as_array().into_iter().flatten() {
        columns.push(Column {
            name: text(&column["name"]).into(),
            ty: text(&column["type"]).into(),
            format: text(&column["format"]).into(),
            description: text(&column["description"]).into(),
            priority: column["priority"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or_default(),
        });
        paths.push(Path::parse(column["jsonPath"].as_str().unwrap_or_default()).unwrap_or_default());
    }
    if paths.is_empty() {
        columns.push(age());
        paths.extend(Path::parse(".metadata.creationTimestamp"));
    }
    (columns, paths)
}

/// The cells of an object.
pub fn cells(object: &Value, cx: &HookContext) -> Vec<Value> {
    let mut cells = vec![meta::name(object).into()];
    if let Some(served) = cx.resource.version(cx.version)
        && let Some(custom) = &served.custom
    {
        let columns = served.columns.iter().skip(1).zip(&custom.cells);
        cells.extend(columns.map(|(column, path)| cell(&column.ty, &path.find(object), cx)));
    }
    cells
}

fn cell(ty: &str, found: &[&Value], cx: &HookContext) -> Value {
    let Some(first) = found.first() else { return Value::Null };
    match ty {
        "string" => match first {
            Value::String(text) => text.as_str().into(),
            Value::Null => "<nil>".into(),
            other => other.to_string().into(),
        },
        "integer" => first
            .as_i64()
            .map_or_else(|| first.as_f64().map_or(Value::Null, |number| (number.trunc() as i64).into()), Value::from),
        "number" => first.as_f64().map_or(Value::Null, |_| (*first).clone()),
        "boolean" => first.as_bool().map_or(Value::Null, Value::from),
        "date" if first.is_string() => match printing::since(&At::root(first), cx.request.now) {
            unknown if unknown == printing::UNKNOWN => "<invalid>".into(),
            age => age.into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_what_they_say() {
        let object = json!({"a": {"b.c": 1, "l": [{"t": "x", "v": 1}, {"t": "y", "v": 2}], "m": {"k": "z"}}});
        let cases = [
            (".a.m.k", json!(["z"])),
            (".a['b.c']", json!([1])),
            (r".a.b\.c", json!([1])),
            (".a.l[0].v", json!([1])),
            (".a.l[-1].t", json!(["y"])),
            (".a.l[*].v", json!([1, 2])),
            (".a.l[0:1].v", json!([1])),
            (r#".a.l[?(@.t=="y")].v"#, json!([2])),
            (".a.l[?(@.v>=2)].t", json!(["y"])),
            (".a.l[?(@.none)].t", json!([])),
            ("..k", json!(["z"])),
            (".none.x", json!([])),
        ];
        for (path, expected) in cases {
            assert_eq!(json!(Path::parse(path).unwrap().find(&object)), expected, "{path}");
        }
        for bad in ["a", ".a[", ".a[?(x)]"] {
            assert_eq!(Path::parse(bad), None, "{bad}");
        }
    }
}
