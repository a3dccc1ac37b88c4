//! Names, functions and types: finds what every identifier and call means, and refuses what cannot work, as cel-go's checker.

use std::sync::Arc;

use super::functions::{self, Function, Overload};
use super::parse::{Comprehension, Expr, Fault, Fold, Literal, Node, Pos, qualified};
use super::types::{Env, Type};

/// What an identifier turned out to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resolved {
    /// The n-th name of the environment.
    Var(usize),
    /// The n-th variable of the open macros.
    Local(usize),
    /// `variables.NAME`, the n-th.
    Variable(usize),
    /// A type as a value.
    TypeName(&'static str),
}

/// Types that can be named.
const TYPE_NAMES: [&str; 14] = [
    "bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint", "net.IP", "net.CIDR",
    "google.protobuf.Duration", "google.protobuf.Timestamp",
];

/// Checks a tree and resolves its names in place.
pub(super) fn check(env: &Env, expr: &mut Expr) -> Result<Type, Fault> {
    Checker { env, locals: Vec::new(), mixed: false }.expr(expr)
}

struct Checker<'e> {
    env: &'e Env,
    locals: Vec<(String, Type)>,
    /// Within the arguments of `format`, whose lists may hold values of several types.
    mixed: bool,
}

fn fault<T>(pos: Pos, what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(pos, what.into()))
}

fn undeclared<T>(pos: Pos, name: &str) -> Result<T, Fault> {
    fault(pos, format!("undeclared reference to '{name}' (in container '')"))
}

impl Checker<'_> {
    fn resolve(&self, name: &str) -> Option<(Resolved, Type)> {
        if let Some(at) = self.locals.iter().rposition(|(local, _)| local == name) {
            return Some((Resolved::Local(at), self.locals[at].1.clone()));
        }
        if let Some(at) = self.env.vars.iter().rposition(|(var, _)| var == name) {
            return Some((Resolved::Var(at), self.env.vars[at].1.clone()));
        }
        TYPE_NAMES.iter().find(|known| **known == name).map(|known| (Resolved::TypeName(known), Type::Type))
    }

    fn expr(&mut self, expr: &mut Expr) -> Result<Type, Fault> {
        let pos = expr.pos;
        match &mut expr.node {
            Node::Literal(literal) => Ok(of_literal(literal)),
            Node::Ident(name) => match self.resolve(name) {
                Some((resolved, ty)) => {
                    expr.node = Node::Resolved(resolved);
                    Ok(ty)
                }
                None => undeclared(pos, name),
            },
            Node::Resolved(_) | Node::Apply(..) => Ok(Type::Dyn),
            Node::Select { .. } => self.select(expr),
            Node::Index { operand, index, optional } => {
                let (on, by) = (self.expr(operand)?, self.expr(index)?);
                element(pos, &on, &by, *optional)
            }
            Node::Call { .. } => self.call(expr),
            Node::And(parts) | Node::Or(parts) => {
                for part in parts {
                    self.wanted(part, &Type::Bool)?;
                }
                Ok(Type::Bool)
            }
            Node::Ternary(parts) => {
                let [condition, then, other] = &mut **parts;
                self.wanted(condition, &Type::Bool)?;
                let (a, b) = (self.expr(then)?, self.expr(other)?);
                match join(&a, &b) {
                    Some(ty) => Ok(ty),
                    None => fault(pos, no_overload("_?_:_", None, &[Type::Bool, a, b])),
                }
            }
            Node::List(items) => {
                let mut ty = None;
                for (item, optional) in items {
                    let found = self.maybe_optional(item, *optional)?;
                    ty = Some(self.same_as_before(item.pos, ty, found)?);
                }
                Ok(ty.unwrap_or(Type::Dyn).list())
            }
            Node::Map(entries) => self.map(entries),
            Node::Struct(name, fields) => {
                let name = name.clone();
                self.structure(pos, &name, fields)
            }
            Node::Comprehension(parts) => self.comprehension(parts),
            Node::OptMap(parts, flat) => {
                let (flat, (operand, var, body)) = (*flat, &mut **parts);
                let inner = match self.expr(operand)? {
                    Type::Optional(inner) => (*inner).clone(),
                    Type::Dyn => Type::Dyn,
                    other => return fault(pos, format!("expected type 'optional_type' but found '{other}'")),
                };
                let result = self.scoped(&[(var.clone(), inner)], body)?;
                Ok(if flat { result } else { result.optional() })
            }
            Node::Bind(parts) => {
                let (var, value, body) = &mut **parts;
                let ty = self.expr(value)?;
                self.scoped(&[(var.clone(), ty)], body)
            }
        }
    }

    fn wanted(&mut self, expr: &mut Expr, wanted: &Type) -> Result<(), Fault> {
        let pos = expr.pos;
        let found = self.expr(expr)?;
        if wanted.accepts(&found) {
            return Ok(());
        }
        fault(pos, format!("expected type '{wanted}' but found '{found}'"))
    }

    fn maybe_optional(&mut self, expr: &mut Expr, optional: bool) -> Result<Type, Fault> {
        let pos = expr.pos;
        match self.expr(expr)? {
            Type::Optional(inner) if optional => Ok((*inner).clone()),
            Type::Dyn => Ok(Type::Dyn),
            other if optional => fault(pos, format!("expected type 'optional_type({other})' but found '{other}'")),
            other => Ok(other),
        }
    }

    fn scoped(&mut self, vars: &[(String, Type)], body: &mut Expr) -> Result<Type, Fault> {
        let before = self.locals.len();
        self.locals.extend_from_slice(vars);
        let result = self.expr(body);
        self.locals.truncate(before);
        result
    }

    fn select(&mut self, expr: &mut Expr) -> Result<Type, Fault> {
        if let Some(name) = qualified(expr) {
            // The longest name that means something is meant; of those with dots only types and variables do.
            if let Some(variable) = name.strip_prefix("variables.").filter(|_| self.resolve("variables").is_none())
                && !variable.contains('.')
            {
                let Some(at) = self.env.variables.iter().position(|(known, _)| known == variable) else {
                    return fault(expr.pos, format!("undefined field '{variable}'"));
                };
                expr.node = Node::Resolved(Resolved::Variable(at));
                return Ok(self.env.variables[at].1.clone());
            }
            if let Some((resolved, ty)) = self.resolve(&name) {
                expr.node = Node::Resolved(resolved);
                return Ok(ty);
            }
        }
        let pos = expr.pos;
        let Node::Select { operand, field, optional, test } = &mut expr.node else { return Ok(Type::Dyn) };
        let on = self.expr(operand)?;
        if !on.has_fields() {
            return fault(pos, format!("type '{on}' does not support field selection"));
        }
        let Some(ty) = on.field(field) else { return fault(pos, format!("undefined field '{field}'")) };
        Ok(match ty {
            _ if *test => Type::Bool,
            ty if *optional && !matches!(ty, Type::Optional(_)) => ty.optional(),
            ty => ty,
        })
    }

    /// Literals hold values of one type.
    fn same_as_before(&self, pos: Pos, before: Option<Type>, found: Type) -> Result<Type, Fault> {
        let Some(before) = before else { return Ok(found) };
        match join(&before, &found) {
            Some(ty) => Ok(ty),
            None if self.mixed => Ok(Type::Dyn),
            None => fault(pos, format!("expected type '{before}' but found '{found}'")),
        }
    }

    fn map(&mut self, entries: &mut [(Expr, Expr, bool)]) -> Result<Type, Fault> {
        let (mut keys, mut values) = (None, None);
        for (key, value, optional) in entries {
            let found = self.expr(key)?;
            if !matches!(found, Type::Dyn | Type::Bool | Type::Int | Type::Uint | Type::String) {
                return fault(key.pos, format!("unsupported map key type: {found}"));
            }
            keys = Some(self.same_as_before(key.pos, keys, found)?);
            let found = self.maybe_optional(value, *optional)?;
            values = Some(self.same_as_before(value.pos, values, found)?);
        }
        Ok(Type::Map(Arc::new(keys.unwrap_or(Type::Dyn)), Arc::new(values.unwrap_or(Type::Dyn))))
    }

    fn structure(&mut self, pos: Pos, name: &str, fields: &mut [(String, Expr, bool)]) -> Result<Type, Fault> {
        let object = name == "Object" || name.starts_with("Object.");
        if !self.env.patches || !(object || name == PATCH) {
            return undeclared(pos, name);
        }
        for (field, value, optional) in fields {
            let at = value.pos;
            let found = self.maybe_optional(value, *optional)?;
            if name == PATCH {
                let wanted = match field.as_str() {
                    "op" | "path" | "from" => Type::String,
                    "value" => Type::Dyn,
                    _ => return fault(at, format!("undefined field '{field}'")),
                };
                if !wanted.accepts(&found) {
                    return fault(
                        at,
                        format!("expected type of field '{field}' is '{wanted}' but provided type is '{found}'"),
                    );
                }
            }
        }
        Ok(Type::Opaque(if object { OBJECT } else { PATCH }))
    }

    fn comprehension(&mut self, parts: &mut Comprehension) -> Result<Type, Fault> {
        let pos = parts.range.pos;
        let (first, second) = match self.expr(&mut parts.range)? {
            Type::List(item) if parts.vars.len() == 2 => (Type::Int, (*item).clone()),
            Type::List(item) => ((*item).clone(), Type::Dyn),
            Type::Map(key, value) => ((*key).clone(), (*value).clone()),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            other => {
                let why = "cannot be range of a comprehension (must be list, map, or dynamic)";
                return fault(pos, format!("expression of type '{other}' {why}"));
            }
        };
        let vars: Vec<(String, Type)> = parts.vars.iter().cloned().zip([first.clone(), second]).collect();
        if let Some(filter) = &mut parts.filter {
            let at = filter.pos;
            let found = self.scoped(&vars, filter)?;
            bool_or_dyn(at, &found)?;
        }
        let at = parts.body.pos;
        let body = self.scoped(&vars, &mut parts.body)?;
        Ok(match parts.fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => {
                bool_or_dyn(at, &body)?;
                Type::Bool
            }
            Fold::Filter => {
                bool_or_dyn(at, &body)?;
                first.list()
            }
            Fold::Map | Fold::TransformList => body.list(),
            Fold::TransformMap => Type::Map(Arc::new(first), Arc::new(body)),
            Fold::TransformMapEntry if matches!(body, Type::Map(..) | Type::Dyn) => body,
            Fold::TransformMapEntry => return fault(at, format!("expected type 'map' but found '{body}'")),
        })
    }

    fn call(&mut self, expr: &mut Expr) -> Result<Type, Fault> {
        let pos = expr.pos;
        let Node::Call { function, target, args } = &mut expr.node else { return Ok(Type::Dyn) };
        let name = std::mem::take(function);
        let mut args = std::mem::take(args);
        let mut target = target.take();
        // A name with dots may be a function's.
        let global = target.as_ref().and_then(|target| qualified(target)).filter(|name| self.resolve(name).is_none());
        let global = global.and_then(|space| functions::find(&format!("{space}.{name}")));
        let found = match global {
            Some(function) => {
                target = None;
                Some(function)
            }
            None => functions::find(&name),
        };
        let Some(function) = found else { return undeclared(pos, &name) };
        let member = target.is_some();
        if let Some(target) = target {
            args.insert(0, *target);
        }
        let mut types = Vec::with_capacity(args.len());
        let mixed = self.mixed;
        self.mixed |= function.name == "format";
        for arg in &mut args {
            types.push(self.expr(arg)?);
        }
        self.mixed = mixed;
        let result = result_of(function, member, &types);
        let Some(ty) = result else {
            let (on, rest) = if member { (types.first(), &types[1..]) } else { (None, &types[..]) };
            return fault(pos, no_overload(shown(function.name), on, rest));
        };
        function.check_literals(&args)?;
        expr.node = Node::Apply(function, args);
        Ok(ty)
    }
}

/// The type of `JSONPatch{}`.
pub(super) const PATCH: &str = "JSONPatch";
/// The type of every `Object…{}`.
pub(super) const OBJECT: &str = "Object";

fn of_literal(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::Str(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

/// How cel-go names operators.
fn shown(name: &str) -> &str {
    match name {
        "in" => "@in",
        "-_" => "-_",
        "!" => "!_",
        "==" => "_==_",
        "!=" => "_!=_",
        "<" => "_<_",
        "<=" => "_<=_",
        ">" => "_>_",
        ">=" => "_>=_",
        "+" => "_+_",
        "-" => "_-_",
        "*" => "_*_",
        "/" => "_/_",
        "%" => "_%_",
        other => other,
    }
}

fn no_overload(name: &str, on: Option<&Type>, args: &[Type]) -> String {
    let args = args.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let on = on.map_or_else(String::new, |on| format!("{on}."));
    format!("found no matching overload for '{name}' applied to '{on}({args})'")
}

fn bool_or_dyn(pos: Pos, found: &Type) -> Result<(), Fault> {
    if Type::Bool.accepts(found) { Ok(()) } else { fault(pos, format!("expected type 'bool' but found '{found}'")) }
}

/// The type that stands for both.
fn join(a: &Type, b: &Type) -> Option<Type> {
    match (a, b) {
        (Type::Dyn, _) | (_, Type::Dyn) => Some(Type::Dyn),
        (Type::Null, other) if other.accepts(&Type::Null) => Some(other.clone()),
        _ => a.accepts(b).then(|| a.clone()),
    }
}

fn element(pos: Pos, on: &Type, by: &Type, optional: bool) -> Result<Type, Fault> {
    let found = match on {
        Type::Dyn => Some(Type::Dyn),
        Type::List(item) => Type::Int.accepts(by).then(|| (**item).clone()),
        Type::Map(key, value) => key.accepts(by).then(|| (**value).clone()),
        Type::Optional(inner) => {
            let inner = element(pos, inner, by, false)?;
            return Ok(if matches!(inner, Type::Optional(_)) { inner } else { inner.optional() });
        }
        _ => None,
    };
    match found {
        Some(ty) if optional => Ok(ty.optional()),
        Some(ty) => Ok(ty),
        None => fault(pos, no_overload(if optional { "_[?_]" } else { "_[_]" }, None, &[on.clone(), by.clone()])),
    }
}

/// The result's type, dynamic when several overloads with different results fit.
fn result_of(function: &Function, member: bool, args: &[Type]) -> Option<Type> {
    let mut result: Option<Type> = None;
    for overload in function.overloads.iter().filter(|o| o.member == member) {
        let Some(found) = apply(overload, args) else { continue };
        result = Some(match result {
            Some(before) if before.to_string() != found.to_string() => Type::Dyn,
            _ => found,
        });
    }
    result
}

fn apply(overload: &Overload, args: &[Type]) -> Option<Type> {
    if overload.args.len() != args.len() {
        return None;
    }
    let mut bound: [Option<Type>; 2] = [None, None];
    overload
        .args
        .iter()
        .zip(args)
        .all(|(wanted, found)| unify(wanted, found, &mut bound))
        .then(|| substitute(&overload.result, &bound))
}

fn slot(name: u8) -> usize {
    usize::from(name == b'B')
}

fn unify(wanted: &Type, found: &Type, bound: &mut [Option<Type>; 2]) -> bool {
    match (wanted, found) {
        (Type::Param(name), _) => {
            let known = &mut bound[slot(*name)];
            match known.as_ref().map_or(Some(found.clone()), |known| join(known, found)) {
                Some(joined) => {
                    *known = Some(joined);
                    true
                }
                None => false,
            }
        }
        (_, Type::Dyn) => true,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => unify(a, b, bound),
        (Type::Map(ak, av), Type::Map(bk, bv)) => unify(ak, bk, bound) && unify(av, bv, bound),
        _ => wanted.accepts(found),
    }
}

fn substitute(ty: &Type, bound: &[Option<Type>; 2]) -> Type {
    match ty {
        Type::Param(name) => bound[slot(*name)].clone().unwrap_or(Type::Dyn),
        Type::List(item) => substitute(item, bound).list(),
        Type::Optional(inner) => substitute(inner, bound).optional(),
        Type::Map(key, value) => Type::Map(Arc::new(substitute(key, bound)), Arc::new(substitute(value, bound))),
        other => other.clone(),
    }
}
