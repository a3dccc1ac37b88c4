//! What an expression may cost at most on a value of a schema, before any value is seen.
//!
//! Never more than upstream estimates, so that nothing is refused here which upstream takes: sizes that are not known count
//! as one.

use serde_json::Value;

use super::check::Resolved;
use super::functions::Cost;
use super::parse::{Comprehension, Expr, Fold, Literal, Node};
use super::{Program, escape};

/// Largest request whose values a rule may see.
const MAX_REQUEST_BYTES: u64 = 3 << 20;
/// What a macro spends on each element besides its body, at least.
const PER_ELEMENT_UNITS: u64 = 3;

/// Most elements, entries or bytes that a value of a schema can have; 1 for what has none.
fn max_size(schema: &Value) -> u64 {
    let bound = |name: &str| schema[name].as_u64();
    let room = MAX_REQUEST_BYTES - 2;
    match schema["type"].as_str() {
        Some("string") if schema["enum"].is_array() => {
            let words = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
            words.map(|word| word.len() as u64).max().unwrap_or(1)
        }
        Some("string") if schema["format"].as_str().is_none_or(str::is_empty) => {
            bound("maxLength").map_or(room, |runes| runes.saturating_mul(4))
        }
        Some("array") => bound("maxItems").unwrap_or_else(|| most_values(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            bound("maxProperties").unwrap_or_else(|| room / (min_bytes(&schema["additionalProperties"]) + 6))
        }
        _ => 1,
    }
}

/// Most values of a schema that one request can hold.
pub fn most_values(schema: &Value) -> u64 {
    (MAX_REQUEST_BYTES - 2) / (min_bytes(schema) + 1)
}

/// Fewest bytes of a value in JSON.
fn min_bytes(schema: &Value) -> u64 {
    match schema["type"].as_str() {
        Some("boolean") => 4,
        Some("integer" | "number") => 1,
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let given = required.filter(|name| schema["properties"][name]["default"].is_null());
            2 + given.map(|name| name.len() as u64 + 4 + min_bytes(&schema["properties"][name])).sum::<u64>()
        }
        _ => 2,
    }
}

impl Program {
    /// Most units that one evaluation takes when the values of the environment's names are of this schema.
    pub fn worst_cost(&self, schema: &Value) -> u64 {
        let mut estimate = Estimate { schema, locals: Vec::new(), units: 0 };
        estimate.visit(&self.expr);
        estimate.units
    }
}

/// What is known of a value.
#[derive(Clone, Copy)]
struct Bound<'s> {
    schema: Option<&'s Value>,
    size: u64,
}

impl<'s> Bound<'s> {
    const UNKNOWN: Self = Self { schema: None, size: 1 };

    fn of(schema: Option<&'s Value>) -> Self {
        Self { schema, size: schema.map_or(1, max_size) }
    }

    fn is_list(self) -> bool {
        self.schema.is_some_and(|schema| schema["type"] == "array")
    }

    fn element(self) -> Self {
        let schema =
            self.schema.map(|schema| if self.is_list() { &schema["items"] } else { &schema["additionalProperties"] });
        Self::of(schema.filter(|schema| schema.is_object()))
    }

    fn field(self, name: &str) -> Self {
        let Some(schema) = self.schema else { return Self::UNKNOWN };
        let properties = schema["properties"].as_object().into_iter().flatten();
        let known = properties.into_iter().find(|(json, _)| escape(json).as_deref() == Some(name));
        known.map_or_else(|| self.element(), |(_, property)| Self::of(Some(property)))
    }

    /// Text by tenths, lists by elements.
    fn scan(self) -> u64 {
        if self.is_list() { self.size } else { self.size / 10 }
    }
}

struct Estimate<'s> {
    schema: &'s Value,
    locals: Vec<Bound<'s>>,
    units: u64,
}

impl<'s> Estimate<'s> {
    fn spend(&mut self, units: u64) {
        self.units = self.units.saturating_add(units);
    }

    /// What a part costs by itself, and what it gives.
    fn apart(&mut self, expr: &Expr) -> (u64, Bound<'s>) {
        let before = std::mem::take(&mut self.units);
        let bound = self.visit(expr);
        (std::mem::replace(&mut self.units, before), bound)
    }

    fn scoped(&mut self, locals: &[Bound<'s>], body: &Expr) -> (u64, Bound<'s>) {
        let before = self.locals.len();
        self.locals.extend_from_slice(locals);
        let result = self.apart(body);
        self.locals.truncate(before);
        result
    }

    fn visit(&mut self, expr: &Expr) -> Bound<'s> {
        match &expr.node {
            Node::Literal(literal) => Bound { schema: None, size: literal_size(literal) },
            Node::Resolved(resolved) => {
                self.spend(1);
                match resolved {
                    Resolved::Var(_) => Bound::of(Some(self.schema)),
                    Resolved::Local(at) => self.locals.get(*at).copied().unwrap_or(Bound::UNKNOWN),
                    Resolved::Variable(_) | Resolved::TypeName(_) => Bound::UNKNOWN,
                }
            }
            Node::Select { operand, field, .. } => {
                let on = self.visit(operand);
                on.field(field)
            }
            Node::Index { operand, index, .. } => {
                self.visit(index);
                self.visit(operand).element()
            }
            Node::Apply(function, args) => {
                let args: Vec<Bound<'s>> = args.iter().map(|arg| self.visit(arg)).collect();
                self.spend(units(function.cost, &args));
                Bound::UNKNOWN
            }
            Node::Ternary(parts) => {
                let [condition, then, other] = &**parts;
                self.visit(condition);
                let ((a, yes), (b, no)) = (self.apart(then), self.apart(other));
                self.spend(a.max(b));
                if yes.size < no.size { yes } else { no }
            }
            Node::Comprehension(parts) => self.comprehension(parts),
            Node::OptMap(parts, _) => {
                let inner = self.visit(&parts.0);
                let (cost, result) = self.scoped(&[inner], &parts.2);
                self.spend(cost);
                result
            }
            Node::Bind(parts) => {
                let value = self.visit(&parts.1);
                let (cost, result) = self.scoped(&[value], &parts.2);
                self.spend(cost);
                result
            }
            Node::Ident(_) | Node::Call { .. } => Bound::UNKNOWN,
            Node::And(parts) | Node::Or(parts) => self.all(parts.iter()),
            Node::List(items) => self.all(items.iter().map(|(item, _)| item)),
            Node::Map(entries) => self.all(entries.iter().flat_map(|(key, value, _)| [key, value])),
            Node::Struct(_, fields) => self.all(fields.iter().map(|(_, value, _)| value)),
        }
    }

    fn all<'e>(&mut self, parts: impl Iterator<Item = &'e Expr>) -> Bound<'s> {
        for part in parts {
            self.visit(part);
        }
        Bound::UNKNOWN
    }

    fn comprehension(&mut self, parts: &Comprehension) -> Bound<'s> {
        let range = self.visit(&parts.range);
        let item = range.element();
        let locals = match (range.is_list(), parts.vars.len()) {
            (true, 2) => vec![Bound::UNKNOWN, item],
            (true, _) => vec![item],
            (false, _) => vec![Bound::UNKNOWN, item],
        };
        let locals = &locals[..parts.vars.len().min(locals.len())];
        let mut each = PER_ELEMENT_UNITS;
        for part in parts.filter.iter().chain([&parts.body]) {
            each = each.saturating_add(self.scoped(locals, part).0);
        }
        self.spend(each.saturating_mul(range.size));
        match parts.fold {
            Fold::Filter => range,
            Fold::Map | Fold::TransformList => Bound { schema: None, size: range.size },
            _ => Bound::UNKNOWN,
        }
    }
}

fn literal_size(literal: &Literal) -> u64 {
    match literal {
        Literal::Str(text) => text.len() as u64,
        Literal::Bytes(bytes) => bytes.len() as u64,
        _ => 1,
    }
}

fn units(cost: Cost, args: &[Bound<'_>]) -> u64 {
    let arg = |at: usize| args.get(at).copied().unwrap_or(Bound::UNKNOWN);
    let (first, second) = (arg(0), arg(1));
    let units = match cost {
        Cost::One | Cost::Both => 1,
        Cost::Scan => first.scan(),
        Cost::Scan2 => first.scan().saturating_mul(2),
        Cost::Shorter => first.size.min(second.size) / 10,
        Cost::ScanSecond => second.scan(),
        Cost::Elements => second.size,
        Cost::Pairs => first.size.saturating_mul(second.size),
        Cost::Regex => (first.size / 10).saturating_mul(second.size.div_ceil(4)),
        Cost::Check => 350_000,
    };
    units.max(1)
}
