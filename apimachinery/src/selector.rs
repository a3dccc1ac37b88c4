//! Label selectors (text and object form) and field selectors.
//!
//! Guarantees: the text form accepts upstream's grammar and prints back sorted by key. Matching allocates nothing.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::{Map, Value};

use crate::field::{FieldError, Path};
use crate::validation;

/// Labels of an object, in whatever they are kept.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for HashMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

/// The value of `metadata.labels`; null and absent labels are no labels.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl<L: Labels + ?Sized> Labels for Option<&L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.and_then(|labels| labels.label(key))
    }
}

/// Why a selector is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

impl From<FieldError> for SelectorError {
    fn from(error: FieldError) -> Self {
        Self(error.to_string())
    }
}

/// What a requirement asks of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of these.
    In(Vec<String>),
    /// The label is absent or its value is none of these.
    NotIn(Vec<String>),
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The value is a greater number.
    Gt(i64),
    /// The value is a smaller number.
    Lt(i64),
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// What is asked.
    pub operator: Operator,
}

impl Requirement {
    /// Whether the labels meet it.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let value = labels.label(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.iter().any(|x| x == v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt(bound) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *bound),
            Operator::Lt(bound) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *bound),
        }
    }

    /// Upstream's rules for keys and values; errors name `key`, `values` and `values[0][KEY]`.
    fn checked(key: &str, operator: Operator) -> Result<Self, SelectorError> {
        check_key(key, Path::new("key"))?;
        if let Operator::In(values) | Operator::NotIn(values) = &operator {
            let path = Path::new("values");
            if values.is_empty() {
                let why = "for 'in', 'notin' operators, values set can't be empty";
                return Err(FieldError::invalid(path, Value::Array(Vec::new()), why).into());
            }
            for (index, value) in values.iter().enumerate() {
                let messages = validation::label_value(value);
                if !messages.is_empty() {
                    let path = path.index(index).key(key);
                    return Err(FieldError::invalid(path, value.as_str(), messages.join("; ")).into());
                }
            }
        }
        Ok(Self { key: key.to_owned(), operator })
    }
}

fn check_key(key: &str, path: Path) -> Result<(), FieldError> {
    let messages = validation::qualified_name(key);
    if messages.is_empty() { Ok(()) } else { Err(FieldError::invalid(path, key, messages.join("; "))) }
}

/// A conjunction of requirements; the empty one matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LabelSelector {
    /// Sorted by key.
    pub requirements: Vec<Requirement>,
    /// Matches no object at all (a null selector object).
    nothing: bool,
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches nothing, as an absent selector object does.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// Parses the text of `labelSelector=`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: tokens(text), at: 0 };
        let mut requirements = Vec::new();
        while parser.peek() != Token::End {
            if !parser.at_requirement() {
                return Err(unexpected(parser.peek(), "!, identifier, or 'end of string'"));
            }
            let parsed = parser.requirement();
            requirements.push(parsed.map_err(|why| SelectorError(format!("unable to parse requirement: {why}")))?);
            match parser.next() {
                Token::End => break,
                Token::Comma if parser.at_requirement() => {}
                Token::Comma => return Err(unexpected(parser.peek(), "identifier after ','")),
                other => return Err(unexpected(other, "',' or 'end of string'")),
            }
        }
        Ok(Self::from_requirements(requirements))
    }

    /// From `metav1.LabelSelector` (`matchLabels`, `matchExpressions`); null matches nothing, `{}` everything.
    pub fn from_value(value: &Value) -> Result<Self, SelectorError> {
        let Some(object) = value.as_object() else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in object.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::checked(key, Operator::In(vec![value]))?);
        }
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let part = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let values = || {
                let list = expression.get("values").and_then(Value::as_array);
                list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
            };
            let operator = match part("operator") {
                "In" => Operator::In(values()),
                "NotIn" => Operator::NotIn(values()),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("\"{other}\" is not a valid label selector operator")));
                }
            };
            requirements.push(Requirement::checked(part("key"), operator)?);
        }
        Ok(Self::from_requirements(requirements))
    }

    /// From a plain map (`spec.selector` of a Service): every entry must match.
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirement = |(key, value): (&str, &str)| Requirement {
            key: key.to_owned(),
            operator: Operator::In(vec![value.to_owned()]),
        };
        Self::from_requirements(labels.into_iter().map(requirement).collect())
    }

    fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Whether the labels meet every requirement.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// `true` when every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, operator }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::In(values) => write!(f, "{key} in ({})", sorted(values))?,
                Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", sorted(values))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::Gt(bound) => write!(f, "{key}>{bound}")?,
                Operator::Lt(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

fn sorted(values: &[String]) -> String {
    let mut values: Vec<&str> = values.iter().map(String::as_str).collect();
    values.sort_unstable();
    values.join(",")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    Open,
    Close,
    Comma,
    End,
}

impl<'a> Token<'a> {
    /// As it stands in the selector.
    fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Symbol(text) => text,
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::End => "",
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let is_symbol = |c: char| matches!(c, '=' | '!' | '<' | '>');
    let is_mark = |c: char| matches!(c, '(' | ')' | ',');
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if is_mark(first) {
            first.len_utf8()
        } else if is_symbol(first) {
            rest.find(|c| !is_symbol(c)).unwrap_or(rest.len())
        } else {
            rest.find(|c: char| is_symbol(c) || is_mark(c) || c.is_ascii_whitespace()).unwrap_or(rest.len())
        };
        // A lone non-ASCII blank is not skipped by the search above; take it as a word of its own.
        let end = if end == 0 { first.len_utf8() } else { end };
        let (token, tail) = rest.split_at(end);
        out.push(match first {
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            c if is_symbol(c) => Token::Symbol(token),
            _ => Token::Word(token),
        });
        rest = tail.trim_start();
    }
    out
}

fn unexpected(token: Token<'_>, expected: &str) -> SelectorError {
    SelectorError(format!("found '{}', expected: {expected}", token.text()))
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    /// Whether a requirement begins here.
    fn at_requirement(&self) -> bool {
        matches!(self.peek(), Token::Word(_) | Token::Symbol("!"))
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek() == Token::Symbol("!");
        if absent {
            self.at += 1;
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(unexpected(other, "identifier")),
        };
        // The words that came before the operator's are judged first, and upstream gives this error no path.
        check_key(key, Path::new("<nil>"))?;
        if absent {
            return Requirement::checked(key, Operator::DoesNotExist);
        }
        let operator = match self.peek() {
            Token::End | Token::Comma => return Requirement::checked(key, Operator::Exists),
            Token::Word("in") => {
                self.at += 1;
                Operator::In(self.values()?)
            }
            Token::Word("notin") => {
                self.at += 1;
                Operator::NotIn(self.values()?)
            }
            Token::Symbol("=" | "==") => Operator::In(vec![self.single()?]),
            Token::Symbol("!=") => Operator::NotIn(vec![self.single()?]),
            Token::Symbol(">") => Operator::Gt(self.number()?),
            Token::Symbol("<") => Operator::Lt(self.number()?),
            other => return Err(unexpected(other, "in, notin, =, ==, !=, gt, lt")),
        };
        Requirement::checked(key, operator)
    }

    /// The value after a comparison; none means the empty value.
    fn single(&mut self) -> Result<String, SelectorError> {
        self.at += 1;
        match self.peek() {
            Token::Word(value) => {
                self.at += 1;
                Ok(value.to_owned())
            }
            Token::End | Token::Comma => Ok(String::new()),
            other => Err(unexpected(other, "identifier")),
        }
    }

    fn number(&mut self) -> Result<i64, SelectorError> {
        let text = self.single()?;
        text.parse().map_err(|_| {
            let why = "for 'Gt', 'Lt' operators, the value must be an integer";
            FieldError::invalid(Path::new("values").index(0), text, why).into()
        })
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Open => {}
            // Without a comma, as upstream says it.
            other => return Err(SelectorError(format!("found '{}' expected: '('", other.text()))),
        }
        if !matches!(self.peek(), Token::Word(_) | Token::Comma | Token::Close) {
            return Err(unexpected(self.peek(), "',', ')' or identifier"));
        }
        let mut values = Vec::new();
        let mut expects_value = true;
        loop {
            match self.next() {
                Token::Word(value) if expects_value => {
                    values.push(value.to_owned());
                    expects_value = false;
                }
                separator @ (Token::Comma | Token::Close) => {
                    if expects_value {
                        values.push(String::new());
                    }
                    if separator == Token::Close {
                        return Ok(values);
                    }
                    expects_value = true;
                }
                other if expects_value => return Err(unexpected(other, "',', or identifier")),
                other => return Err(unexpected(other, "',' or ')'")),
            }
        }
    }
}

/// How a field selector compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldOperator {
    /// `=` or `==`.
    Eq,
    /// `!=`.
    Ne,
}

/// One requirement of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Field path, e.g. `spec.nodeName`.
    pub field: String,
    /// How it compares.
    pub operator: FieldOperator,
    /// What it compares with.
    pub value: String,
}

/// A conjunction of field requirements; the empty one matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// In the order given.
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parses the text of `fieldSelector=`; `\\`, `\,` and `\=` are escapes in values.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let invalid = || SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'"));
            let at = term.find(['=', '!']).ok_or_else(invalid)?;
            let (field, rest) = term.split_at(at);
            let (operator, value) = if let Some(value) = rest.strip_prefix("!=") {
                (FieldOperator::Ne, value)
            } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
                (FieldOperator::Eq, value)
            } else {
                return Err(invalid());
            };
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                operator,
                value: unescape(value).ok_or_else(invalid)?,
            });
        }
        Ok(Self { requirements })
    }

    /// Whether every requirement holds of what `get` answers (absent fields count as empty).
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| {
            let equal = get(&r.field).unwrap_or_default() == r.value;
            equal == (r.operator == FieldOperator::Eq)
        })
    }

    /// The value that a field must have, when the selector says so.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        let equal = |r: &&FieldRequirement| r.operator == FieldOperator::Eq && r.field == field;
        self.requirements.iter().find(equal).map(|r| r.value.as_str())
    }

    /// `true` when every object matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, r) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if r.operator == FieldOperator::Eq { "=" } else { "!=" };
            let value = r.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", r.field)?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// `None` when an escape is unknown or a bare `,` or `=` stands in the value.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            _ => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn label_text_form() {
        let labels = json!({"app": "web", "tier": "front", "n": "5", "empty": ""});
        for (text, matches) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app!=web", false),
            ("x!=web", true),
            ("app in (web, db)", true),
            ("app notin (web)", false),
            ("x notin (web)", true),
            ("app", true),
            ("!app", false),
            ("!x", true),
            ("n>4", true),
            ("n>5", false),
            ("n<6", true),
            ("empty=", true),
            ("app=,tier=front", false),
            ("empty in (,a)", true),
            ("in=in", false),
        ] {
            let selector = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.matches(&labels), matches, "{text}");
        }
        for bad in [
            "=", "a=b,", "a in b", "a in (b", "a in b)", "a=b c", "a===b", "-a=b", "a=b/c", "a>x", "(a)", "!", ",a",
            "a=(b)",
        ] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(LabelSelector::parse("z, a in (y,x),!b").unwrap().to_string(), "a in (x,y),!b,z");
    }

    #[test]
    fn errors_say_what_was_found_and_where() {
        for (text, why) in [
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (=", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
            ("a in (b,=", "unable to parse requirement: found '=', expected: ',', or identifier"),
            ("a===b", "unable to parse requirement: found '===', expected: in, notin, =, ==, !=, gt, lt"),
            ("a=b,", "found '', expected: identifier after ','"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err().to_string(), why, "{text}");
        }
        let of = |text: &str| LabelSelector::parse(text).unwrap_err().to_string();
        assert!(of("-a=b").starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part"));
        assert!(of("a in (b,c d/e)").contains("expected: ',' or ')'"));
        assert!(of("a=b/c").starts_with("unable to parse requirement: values[0][a]: Invalid value: \"b/c\": a valid"));
    }

    #[test]
    fn label_object_form() {
        let selector = LabelSelector::from_value(&json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d"]}]})).unwrap();
        assert!(selector.matches(&json!({"a": "b"})));
        assert!(!selector.matches(&json!({"a": "b", "c": "d"})));
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(&json!({})));
        assert!(LabelSelector::from_value(&json!({})).unwrap().is_everything());
        assert!(LabelSelector::from_value(&json!({"matchExpressions": [{"key": "c", "operator": "In"}]})).is_err());
    }

    #[test]
    fn field_text_form() {
        let selector = FieldSelector::parse(r"metadata.name=a\,b,spec.nodeName!=n").unwrap();
        assert_eq!(selector.required_value("metadata.name"), Some("a,b"));
        assert!(selector.matches(|f| (f == "metadata.name").then_some("a,b")));
        assert_eq!(selector.to_string(), r"metadata.name=a\,b,spec.nodeName!=n");
        assert!(FieldSelector::parse("nonsense").is_err());
        assert!(FieldSelector::parse("a=b=c").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = (LabelSelector::parse(&text), FieldSelector::parse(&text));
        }

        #[test]
        fn text_form_round_trips(text in "(!?[a-c]|[a-c](=|!=)[a-z0-9]{0,3}|[a-c] (in|notin) \\([a-z]{1,2}(,[a-z]{1,2}){0,2}\\)|[a-c]>[0-9])(,[d-f](=[a-z])?){0,2}") {
            let first = LabelSelector::parse(&text).unwrap();
            let second = LabelSelector::parse(&first.to_string()).unwrap();
            prop_assert_eq!(first.to_string(), second.to_string());
        }

        #[test]
        fn matching_is_what_the_words_say(
            labels in prop::collection::btree_map("[a-c]", "[x-z1-3]?", 0..3),
            terms in prop::collection::vec(("[a-d]", 0..8usize, prop::collection::vec("[x-z]", 1..3), 0..4i64), 0..4),
        ) {
            let mut wanted = true;
            let mut text = Vec::new();
            for (key, operator, values, bound) in &terms {
                let label = labels.get(key);
                let (first, list, number) = (&values[0], values.join(","), label.and_then(|l| l.parse::<i64>().ok()));
                let (holds, term) = match operator {
                    0 => (label == Some(first), format!("{key}={first}")),
                    1 => (label != Some(first), format!("{key}!={first}")),
                    2 => (label.is_some_and(|l| values.contains(l)), format!("{key} in ({list})")),
                    3 => (label.is_none_or(|l| !values.contains(l)), format!("{key} notin ({list})")),
                    4 => (label.is_some(), key.clone()),
                    5 => (label.is_none(), format!("!{key}")),
                    6 => (number.is_some_and(|n| n > *bound), format!("{key}>{bound}")),
                    _ => (number.is_some_and(|n| n < *bound), format!("{key} < {bound}")),
                };
                wanted &= holds;
                text.push(term);
            }
            let text = text.join(",");
            let selector = LabelSelector::parse(&text).unwrap();
            prop_assert_eq!(selector.matches(&json!(labels)), wanted, "{}", text);
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap().matches(&json!(labels)), wanted);
        }
    }
}
