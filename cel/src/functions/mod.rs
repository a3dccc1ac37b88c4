//! The libraries: one table row per function says its signatures, its price and what it does; checking, pricing and running
//! all follow the table.

pub mod authorizer;
mod collections;
mod core;
pub(crate) mod kubernetes;
mod network;
mod strings;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use apimachinery::quantity::Quantity;

use super::Error;
use super::parse::{Expr, Fault, Literal, Node};
use super::types::Type;
use super::value::Val;

pub(super) type Outcome<'a> = Result<Val<'a>, Error>;
type Run = for<'a> fn(&[Val<'a>]) -> Outcome<'a>;

/// Name, signatures separated by `|`, price, what it does. A signature is `target.(arguments)result` or
/// `(arguments)result`; `num` stands for each kind of number, `A` and `B` for any type.
pub(super) type Row = (&'static str, &'static str, Cost, Run);

/// One way to call a function.
#[derive(Debug)]
pub(super) struct Overload {
    pub(super) member: bool,
    /// The target first.
    pub(super) args: Vec<Type>,
    pub(super) result: Type,
}

/// A function.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) overloads: Vec<Overload>,
    pub(super) cost: Cost,
    pub(super) run: Run,
}

/// What a call costs, in upstream's units.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cost {
    /// One.
    One,
    /// The first argument is looked through.
    Scan,
    /// Twice.
    Scan2,
    /// Both are looked through together.
    Both,
    /// The shorter of both is.
    Shorter,
    /// The second is looked through.
    ScanSecond,
    /// Each element of the second.
    Elements,
    /// Each element of one with each of the other.
    Pairs,
    /// The first with a regular expression.
    Regex,
    /// An authorization check.
    Check,
}

impl Cost {
    pub(super) fn units(self, args: &[Val<'_>]) -> u64 {
        let size = |at: usize| args.get(at).map_or(1, size);
        let tenth = |size: u64| size.div_ceil(10);
        match self {
            Self::One => 1,
            Self::Scan => scan(args.first()),
            Self::Scan2 => tenth(2 * size(0)),
            Self::Both => match args.first() {
                Some(Val::Str(_) | Val::Bytes(_)) => tenth(size(0) + size(1)),
                _ => 1,
            },
            Self::Shorter => tenth(size(0).min(size(1))).max(1),
            Self::ScanSecond => tenth(size(1)),
            Self::Elements => match args.get(1) {
                Some(Val::List(_) | Val::JsonList(..)) => size(1).max(1),
                _ => 1,
            },
            Self::Pairs => size(0).saturating_mul(size(1)).max(1),
            Self::Regex => tenth(size(0) + 1).saturating_mul(size(1).div_ceil(4)),
            Self::Check => 350_000,
        }
    }
}

fn size(val: &Val<'_>) -> u64 {
    val.len().map_or(1, |len| u64::try_from(len).unwrap_or(u64::MAX))
}

/// Text by tenths, lists by elements.
fn scan(val: Option<&Val<'_>>) -> u64 {
    match val {
        Some(val @ (Val::List(_) | Val::JsonList(..))) => size(val),
        Some(val) => size(val).div_ceil(10),
        None => 1,
    }
}

/// Values of the libraries' own types.
#[derive(Clone, Debug)]
pub(crate) enum Opaque<'a> {
    Quantity(Quantity),
    Url(http::Uri),
    Ip(IpAddr),
    Cidr(network::Cidr),
    Semver(kubernetes::Semver),
    Format(&'static kubernetes::Format),
    Authorizer(Box<authorizer::Asker<'a>>),
    Decision(authorizer::Decision),
}

impl Opaque<'_> {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Quantity(_) => QUANTITY,
            Self::Url(_) => URL,
            Self::Ip(_) => IP,
            Self::Cidr(_) => CIDR,
            Self::Semver(_) => SEMVER,
            Self::Format(_) => FORMAT,
            Self::Authorizer(asker) => asker.type_name(),
            Self::Decision(_) => authorizer::DECISION,
        }
    }

    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a == b,
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            _ => false,
        }
    }

    /// The text that `string()` and JSON show.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Quantity(quantity) => Some(quantity.to_string()),
            Self::Url(url) => Some(url.to_string()),
            Self::Ip(ip) => Some(ip.to_string()),
            Self::Cidr(cidr) => Some(cidr.to_string()),
            _ => None,
        }
    }
}

pub(super) const QUANTITY: &str = "kubernetes.Quantity";
const URL: &str = "kubernetes.URL";
const IP: &str = "net.IP";
const CIDR: &str = "net.CIDR";
const SEMVER: &str = "kubernetes.Semver";
const FORMAT: &str = "kubernetes.NamedFormat";

static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let rows = [core::ROWS, strings::ROWS, collections::ROWS, kubernetes::ROWS, network::ROWS, authorizer::ROWS];
    let mut table = HashMap::new();
    for (name, signatures, cost, run) in rows.into_iter().flatten().copied() {
        let overloads = signatures.split('|').flat_map(overloads).collect();
        table.insert(name, Function { name, overloads, cost, run });
    }
    table
});

/// The function of this name.
pub(super) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

fn overloads(signature: &str) -> Vec<Overload> {
    if signature.contains("num") {
        let kinds = ["int", "uint", "double"];
        return kinds.iter().flat_map(|kind| overloads(&signature.replacen("num", kind, 1))).collect();
    }
    let (target, rest) = match signature.split_once(".(") {
        Some((target, rest)) => (Some(target), rest),
        None => (None, signature.strip_prefix('(').unwrap_or(signature)),
    };
    // The arguments end at the first bracket that was not opened among them.
    let mut open = 0;
    let end = rest.find(|c| {
        open += i32::from(c == '(') - i32::from(c == ')');
        open < 0
    });
    let (args, result) = rest.split_at(end.unwrap_or(rest.len()));
    let mut types: Vec<Type> = target.map(of_name).into_iter().collect();
    types.extend(split(args).into_iter().map(of_name));
    vec![Overload { member: target.is_some(), args: types, result: of_name(result.trim_start_matches(')')) }]
}

/// Splits at commas that are in no brackets.
fn split(text: &str) -> Vec<&str> {
    let mut open = 0;
    let parts = text.split(|c| {
        open += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && open == 0
    });
    parts.filter(|part| !part.is_empty()).collect()
}

fn of_name(name: &str) -> Type {
    if let Some((outer, inner)) = name.split_once('(') {
        let inner = split(inner.strip_suffix(')').unwrap_or(inner));
        let of = |at: usize| inner.get(at).map_or(Type::Dyn, |name| of_name(name));
        return match outer {
            "list" => of(0).list(),
            "optional" => of(0).optional(),
            _ => Type::Map(Arc::new(of(0)), Arc::new(of(1))),
        };
    }
    match name {
        "A" => Type::Param(b'A'),
        "B" => Type::Param(b'B'),
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "type" => Type::Type,
        "Quantity" => Type::Opaque(QUANTITY),
        "URL" => Type::Opaque(URL),
        "IP" => Type::Opaque(IP),
        "CIDR" => Type::Opaque(CIDR),
        "Semver" => Type::Opaque(SEMVER),
        "Format" => Type::Opaque(FORMAT),
        "Authorizer" => Type::Opaque(authorizer::AUTHORIZER),
        "PathCheck" => Type::Opaque(authorizer::PATH),
        "GroupCheck" => Type::Opaque(authorizer::GROUP),
        "ResourceCheck" => Type::Opaque(authorizer::RESOURCE),
        "Decision" => Type::Opaque(authorizer::DECISION),
        _ => Type::Dyn,
    }
}

impl Function {
    /// Refuses constant arguments that can never work.
    pub(super) fn check_literals(&self, args: &[Expr]) -> Result<(), Fault> {
        let literal = |at: usize| match args.get(at).map(|arg| (arg.pos, &arg.node)) {
            Some((pos, Node::Literal(Literal::Str(text)))) => Some((pos, text.as_str())),
            _ => None,
        };
        let wrong = match self.name {
            "matches" | "find" | "findAll" => {
                literal(1).filter(|(_, text)| strings::regex(text).is_err()).map(|(pos, _)| (pos, "matches"))
            }
            "duration" => literal(0)
                .filter(|(_, text)| apimachinery::time::parse_duration(text).is_none())
                .map(|(pos, _)| (pos, "duration")),
            "timestamp" => literal(0)
                .filter(|(_, text)| text.parse::<jiff::Timestamp>().is_err())
                .map(|(pos, _)| (pos, "timestamp")),
            _ => None,
        };
        wrong.map_or(Ok(()), |(pos, what)| Err(Fault(pos, format!("invalid {what} argument"))))
    }
}

fn opaque(opaque: Opaque<'_>) -> Val<'_> {
    Val::Opaque(std::rc::Rc::new(opaque))
}

fn runtime<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Runtime(why.into()))
}

fn none<'a>() -> Outcome<'a> {
    Err(Error::no_overload(""))
}

/// A length or position as CEL counts.
fn int<'a>(value: usize) -> Val<'a> {
    Val::Int(i64::try_from(value).unwrap_or(i64::MAX))
}
