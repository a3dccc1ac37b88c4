//! Running a checked tree. Every step costs what it costs upstream, and a program that has spent its budget stops.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;

use super::check::Resolved;
use super::parse::{Comprehension, Expr, Fold, Literal, Node};
use super::types::{DYN, Type};
use super::value::{Key, Text, Tree, Val, lift};
use super::{Error, Program};
use crate::functions::authorizer::Authorizer;

/// What the names of an expression stand for during one evaluation (or several over the same objects).
#[derive(Default)]
pub struct Bindings<'a> {
    given: Vec<(&'a str, Given<'a>)>,
    variables: &'a [Program],
    results: RefCell<Vec<Option<Result<Val<'a>, Error>>>>,
}

#[derive(Clone)]
enum Given<'a> {
    Json(&'a Value),
    Optional(Option<&'a Value>),
    Val(Val<'a>),
}

impl<'a> Bindings<'a> {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// A JSON value, seen through the type its name was declared with.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: &'a Value) -> Self {
        self.given.push((name, Given::Json(value)));
        self
    }

    /// A value put together from parts that JSON cannot say.
    #[must_use]
    pub fn with_tree(mut self, name: &'a str, tree: &Tree<'a>) -> Self {
        self.given.push((name, Given::Val(tree.val())));
        self
    }

    /// A value that may be there: the name is an optional.
    #[must_use]
    pub fn with_optional(mut self, name: &'a str, value: Option<&'a Value>) -> Self {
        self.given.push((name, Given::Optional(value)));
        self
    }

    /// One who can be asked what the user may do.
    #[must_use]
    pub fn with_authorizer(mut self, name: &'a str, authorizer: &'a dyn Authorizer) -> Self {
        self.given.push((name, Given::Val(super::functions::authorizer::root(authorizer))));
        self
    }

    /// Another name, for what the user may do with the request's resource.
    #[must_use]
    pub fn with_resource_authorizer(
        mut self,
        name: &'a str,
        authorizer: &'a dyn Authorizer,
        resource: [&str; 5],
    ) -> Self {
        self.given.push((name, Given::Val(super::functions::authorizer::resource(authorizer, resource))));
        self
    }

    /// The programs of `variables.NAME`, run once when first used.
    #[must_use]
    pub fn variables(mut self, programs: &'a [Program]) -> Self {
        self.variables = programs;
        self.results = RefCell::new(vec![None; programs.len()]);
        self
    }
}

/// One evaluation.
pub(super) struct Run<'r, 'a> {
    pub(super) program: &'a Program,
    pub(super) bindings: &'r Bindings<'a>,
    pub(super) locals: Vec<Val<'a>>,
    /// Cost units that may still be spent.
    pub(super) left: u64,
}

/// Upstream's price of making a list, a map, a struct.
const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;
const STRUCT_COST: u64 = 40;

impl<'a> Run<'_, 'a> {
    pub(super) fn spend(&mut self, units: u64) -> Result<(), Error> {
        self.left = self.left.checked_sub(units).ok_or(Error::CostExceeded)?;
        Ok(())
    }

    pub(super) fn eval(&mut self, expr: &'a Expr) -> Result<Val<'a>, Error> {
        match &expr.node {
            Node::Literal(literal) => Ok(of_literal(literal)),
            Node::Resolved(resolved) => self.name(*resolved),
            Node::Ident(name) => Err(Error::Runtime(format!("no such attribute: {name}"))),
            Node::Select { operand, field, optional, test } => self.select(operand, field, *optional, *test),
            Node::Index { operand, index, optional } => self.index(operand, index, *optional),
            Node::Apply(function, args) => {
                let args = args.iter().map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
                self.spend(function.cost.units(&args))?;
                (function.run)(&args)
            }
            Node::Call { function, .. } => Err(Error::no_overload(function)),
            Node::And(parts) => self.logical(parts, false),
            Node::Or(parts) => self.logical(parts, true),
            Node::Ternary(parts) => match self.eval(&parts[0])? {
                Val::Bool(true) => self.eval(&parts[1]),
                Val::Bool(false) => self.eval(&parts[2]),
                _ => Err(Error::no_overload("_?_:_")),
            },
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Struct(name, fields) => self.structure(name, fields),
            Node::Comprehension(parts) => self.comprehension(parts),
            Node::OptMap(parts, flat) => {
                let Val::Optional(inner) = self.eval(&parts.0)? else { return Err(Error::no_overload("optMap")) };
                let Some(inner) = inner else { return Ok(Val::Optional(None)) };
                let result = self.scoped(&[(*inner).clone()], &parts.2)?;
                Ok(if *flat { result } else { result.some() })
            }
            Node::Bind(parts) => {
                let value = self.eval(&parts.1)?;
                self.scoped(&[value], &parts.2)
            }
        }
    }

    fn scoped(&mut self, vars: &[Val<'a>], body: &'a Expr) -> Result<Val<'a>, Error> {
        let before = self.locals.len();
        self.locals.extend_from_slice(vars);
        let result = self.eval(body);
        self.locals.truncate(before);
        result
    }

    fn name(&mut self, resolved: Resolved) -> Result<Val<'a>, Error> {
        self.spend(1)?;
        match resolved {
            Resolved::Local(at) => {
                self.locals.get(at).cloned().ok_or_else(|| Error::Runtime("no such attribute".into()))
            }
            Resolved::Var(at) => {
                let (name, ty) = &self.program.env.vars[at];
                match self.bindings.given.iter().rev().find(|(given, _)| given == name) {
                    Some((_, Given::Json(value))) => Ok(lift(value, ty)),
                    Some((_, Given::Optional(value))) => {
                        let inner = if let Type::Optional(inner) = ty { inner } else { DYN };
                        Ok(Val::Optional(value.map(|value| Rc::new(lift(value, inner)))))
                    }
                    Some((_, Given::Val(val))) => Ok(val.clone()),
                    None => Err(Error::Runtime(format!("no such attribute(s): {name}"))),
                }
            }
            Resolved::TypeName(name) => Ok(Val::Type(name.into())),
            Resolved::Variable(at) => self.variable(at),
        }
    }

    fn variable(&mut self, at: usize) -> Result<Val<'a>, Error> {
        let known = self.bindings.results.borrow().get(at).cloned();
        let (Some(known), Some(program)) = (known, self.bindings.variables.get(at)) else {
            return Err(Error::Runtime("no such variable".to_owned()));
        };
        if let Some(known) = known {
            return known;
        }
        let mut run = Run { program, bindings: self.bindings, locals: Vec::new(), left: self.left };
        let result = run.eval(&program.expr);
        self.left = run.left;
        if let Some(slot) = self.bindings.results.borrow_mut().get_mut(at) {
            *slot = Some(result.clone());
        }
        result
    }

    fn select(&mut self, operand: &'a Expr, field: &str, optional: bool, test: bool) -> Result<Val<'a>, Error> {
        let on = self.eval(operand)?;
        self.spend(u64::from(!test))?;
        let (on, wrapped) = match on {
            Val::Optional(None) if test => return Ok(Val::Bool(false)),
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => ((*inner).clone(), true),
            on => (on, false),
        };
        if !matches!(on, Val::Map(_) | Val::JsonMap(..) | Val::Struct(..)) {
            return Err(Error::Runtime(format!("no such key: {field}")));
        }
        match on.field(field) {
            found if test => Ok(Val::Bool(found.is_some())),
            found if optional || wrapped => Ok(Val::Optional(found.map(Rc::new))),
            Some(found) => Ok(found),
            None => Err(Error::Runtime(format!("no such key: {field}"))),
        }
    }

    fn index(&mut self, operand: &'a Expr, index: &'a Expr, optional: bool) -> Result<Val<'a>, Error> {
        let (on, by) = (self.eval(operand)?, self.eval(index)?);
        self.spend(1)?;
        let (on, wrapped) = match on {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => ((*inner).clone(), true),
            on => (on, false),
        };
        match on.element(&by)? {
            found if optional || wrapped => Ok(Val::Optional(found.map(Rc::new))),
            Some(found) => Ok(found),
            None if matches!(by, Val::Int(_)) => Err(Error::Runtime("index out of bounds".to_owned())),
            None => {
                Err(Error::Runtime(format!("no such key: {}", Key::of(&by).map_or_else(String::new, |k| k.text()))))
            }
        }
    }

    /// `&&` and `||`: an operand that decides makes errors of the others not matter.
    fn logical(&mut self, parts: &'a [Expr], decides: bool) -> Result<Val<'a>, Error> {
        let mut failed = None;
        for part in parts {
            match self.eval(part) {
                Ok(Val::Bool(value)) if value == decides => return Ok(Val::Bool(decides)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => failed = failed.or(Some(Error::no_overload(if decides { "_||_" } else { "_&&_" }))),
                Err(Error::CostExceeded) => return Err(Error::CostExceeded),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Val::Bool(!decides)), Err)
    }

    /// The value, unless it is marked optional and absent.
    fn maybe(&mut self, expr: &'a Expr, optional: bool) -> Result<Option<Val<'a>>, Error> {
        match self.eval(expr)? {
            Val::Optional(inner) if optional => Ok(inner.map(|inner| (*inner).clone())),
            _ if optional => Err(Error::no_overload("optional entry")),
            val => Ok(Some(val)),
        }
    }

    fn list(&mut self, items: &'a [(Expr, bool)]) -> Result<Val<'a>, Error> {
        self.spend(LIST_COST)?;
        let mut out = Vec::with_capacity(items.len());
        for (item, optional) in items {
            out.extend(self.maybe(item, *optional)?);
        }
        Ok(Val::list(out))
    }

    fn map(&mut self, entries: &'a [(Expr, Expr, bool)]) -> Result<Val<'a>, Error> {
        self.spend(MAP_COST)?;
        let mut out = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = Key::of(&self.eval(key)?).ok_or_else(|| Error::Runtime("unsupported key type".to_owned()))?;
            let Some(value) = self.maybe(value, *optional)? else { continue };
            if out.insert(key.clone(), value).is_some() {
                return Err(Error::Runtime(format!("Failed with repeated key: {}", key.text())));
            }
        }
        Ok(Val::Map(Rc::new(out)))
    }

    fn structure(&mut self, name: &'a str, fields: &'a [(String, Expr, bool)]) -> Result<Val<'a>, Error> {
        self.spend(STRUCT_COST)?;
        let mut out = BTreeMap::new();
        for (field, value, optional) in fields {
            let Some(value) = self.maybe(value, *optional)? else { continue };
            // A nested object is named after the path at which it stands.
            if let Val::Struct(nested, _) = first_struct(&value)
                && *nested != format!("{name}.{field}")
                && name.starts_with("Object")
            {
                let wanted = format!("{name}.{field}");
                return Err(Error::Runtime(format!(
                    "unexpected type name {nested:?}, expected {wanted:?}, which matches field name path from root Object type"
                )));
            }
            out.insert(Key::Str(Text::Borrowed(field)), value);
        }
        Ok(Val::Struct(name, Rc::new(out)))
    }

    fn comprehension(&mut self, parts: &'a Comprehension) -> Result<Val<'a>, Error> {
        let range = self.eval(&parts.range)?;
        let two = parts.vars.len() == 2;
        let rounds: Vec<(Val<'a>, Val<'a>)> = if let Some(items) = range.items() {
            let numbered = (0..).map(Val::Int).zip(items);
            numbered.map(|(at, item)| if two { (at, item) } else { (item, Val::Null) }).collect()
        } else if let Some(entries) = range.entries() {
            entries.into_iter().map(|(key, value)| (key.val(), value)).collect()
        } else {
            return Err(Error::no_overload("comprehension"));
        };
        let mut folded = Folded { fold: parts.fold, found: 0, failed: None, list: Vec::new(), map: BTreeMap::new() };
        for (first, second) in rounds {
            let vars = [first, second];
            let vars = if two { &vars[..] } else { &vars[..1] };
            // The accumulator and the loop's condition.
            self.spend(1)?;
            if let Some(filter) = &parts.filter {
                match self.scoped(vars, filter)? {
                    Val::Bool(true) => {}
                    Val::Bool(false) => continue,
                    _ => return Err(Error::no_overload("_?_:_")),
                }
            }
            let result = self.scoped(vars, &parts.body);
            if let Some(decided) = folded.take(vars, result)? {
                return Ok(decided);
            }
        }
        folded.finish()
    }
}

fn first_struct<'v, 'a>(value: &'v Val<'a>) -> &'v Val<'a> {
    match value {
        Val::List(items) => items.first().unwrap_or(value),
        _ => value,
    }
}

fn of_literal(literal: &Literal) -> Val<'_> {
    match literal {
        Literal::Null => Val::Null,
        Literal::Bool(b) => Val::Bool(*b),
        Literal::Int(i) => Val::Int(*i),
        Literal::Uint(u) => Val::Uint(*u),
        Literal::Double(d) => Val::Double(*d),
        Literal::Str(text) => Val::Str(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Val::Bytes((&**bytes).into()),
    }
}

/// What a macro has found so far.
struct Folded<'a> {
    fold: Fold,
    found: usize,
    failed: Option<Error>,
    list: Vec<Val<'a>>,
    map: BTreeMap<Key<'a>, Val<'a>>,
}

impl<'a> Folded<'a> {
    /// Takes one round's result; `Some` when nothing later can change the outcome.
    fn take(&mut self, vars: &[Val<'a>], result: Result<Val<'a>, Error>) -> Result<Option<Val<'a>>, Error> {
        let key = || vars.first().and_then(Key::of).ok_or_else(|| Error::Runtime("unsupported key type".to_owned()));
        match (self.fold, result) {
            (_, Err(Error::CostExceeded)) => return Err(Error::CostExceeded),
            (Fold::All, Ok(Val::Bool(false))) => return Ok(Some(Val::Bool(false))),
            (Fold::Exists, Ok(Val::Bool(true))) => return Ok(Some(Val::Bool(true))),
            (Fold::All | Fold::Exists, Err(error)) => {
                self.failed.get_or_insert(error);
            }
            (_, Err(error)) => return Err(error),
            (Fold::ExistsOne, Ok(Val::Bool(true))) => self.found += 1,
            (Fold::Filter, Ok(Val::Bool(true))) => self.list.extend(vars.first().cloned()),
            (Fold::All | Fold::Exists | Fold::ExistsOne | Fold::Filter, Ok(Val::Bool(_))) => {}
            (Fold::All | Fold::Exists | Fold::ExistsOne | Fold::Filter, Ok(_)) => {
                return Err(Error::no_overload("_&&_"));
            }
            (Fold::Map | Fold::TransformList, Ok(val)) => self.list.push(val),
            (Fold::TransformMap, Ok(val)) => {
                self.map.insert(key()?, val);
            }
            (Fold::TransformMapEntry, Ok(val)) => {
                for (key, val) in val.entries().ok_or_else(|| Error::no_overload("transformMapEntry"))? {
                    if self.map.insert(key.clone(), val).is_some() {
                        return Err(Error::Runtime(format!("insert failed: key {} already exists", key.text())));
                    }
                }
            }
        }
        Ok(None)
    }

    fn finish(self) -> Result<Val<'a>, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        Ok(match self.fold {
            Fold::All => Val::Bool(true),
            Fold::Exists => Val::Bool(false),
            Fold::ExistsOne => Val::Bool(self.found == 1),
            Fold::Map | Fold::Filter | Fold::TransformList => Val::list(self.list),
            Fold::TransformMap | Fold::TransformMapEntry => Val::Map(Rc::new(self.map)),
        })
    }
}
