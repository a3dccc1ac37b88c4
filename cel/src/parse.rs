//! From text to tree: CEL's grammar and its macros. Bounded in length and depth, so that nothing that walks a tree can
//! overflow the stack. Names are resolved by [`super::check`].

use std::sync::Arc;

use super::check::Resolved;
use super::functions::Function;

/// Longest expression, in bytes.
pub const MAX_SOURCE_BYTES: usize = 100_000;
/// Deepest nesting of a tree.
const MAX_DEPTH: usize = 160;

/// A place in the source, in bytes.
pub(super) type Pos = usize;

/// What was wrong, and where.
#[derive(Debug)]
pub(super) struct Fault(pub(super) Pos, pub(super) String);

/// A node and where it stands.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) pos: Pos,
    depth: usize,
    pub(super) node: Node,
}

#[derive(Debug)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(String),
    Bytes(Arc<[u8]>),
}

/// The comprehension macros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
}

#[derive(Debug)]
pub(super) struct Comprehension {
    pub(super) fold: Fold,
    pub(super) range: Expr,
    pub(super) vars: Vec<String>,
    pub(super) filter: Option<Expr>,
    pub(super) body: Expr,
}

#[derive(Debug)]
pub(super) enum Node {
    Literal(Literal),
    Ident(String),
    /// What an identifier turned out to be.
    Resolved(Resolved),
    /// What a call turned out to be; the target is the first argument.
    Apply(&'static Function, Vec<Expr>),
    Select {
        operand: Box<Expr>,
        field: String,
        optional: bool,
        test: bool,
    },
    Index {
        operand: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    Call {
        function: String,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Ternary(Box<[Expr; 3]>),
    /// Elements; the flag marks `?element`.
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr, bool)>),
    Struct(String, Vec<(String, Expr, bool)>),
    Comprehension(Box<Comprehension>),
    /// `optMap` and `optFlatMap`: operand, variable, body, and whether the body is optional itself.
    OptMap(Box<(Expr, String, Expr)>, bool),
    /// `cel.bind`.
    Bind(Box<(String, Expr, Expr)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Ident(String),
    /// An identifier in backquotes: only a field's name.
    Quoted(String),
    Int(u64),
    Uint(u64),
    Double(f64),
    Str(String),
    Bytes(Vec<u8>),
    Op(&'static str),
    End,
}

const OPERATORS: [&str; 28] = [
    "&&", "||", "<=", ">=", "==", "!=", "[?", ".?", "{", "}", "[", "]", "(", ")", ".", ",", "?", ":", "<", ">", "+",
    "-", "*", "/", "%", "!", "=", ";",
];
const RESERVED: [&str; 17] = [
    "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package",
    "namespace", "return", "var", "void", "while",
];

fn lex(source: &str) -> Result<Vec<(Pos, Token)>, Fault> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let bytes = source.as_bytes();
    while at < bytes.len() {
        let start = at;
        let byte = bytes[at];
        if byte.is_ascii_whitespace() {
            at += 1;
        } else if source[at..].starts_with("//") {
            at = source[at..].find('\n').map_or(bytes.len(), |end| at + end);
        } else if byte.is_ascii_digit() || byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
            let (token, end) = number(source, at)?;
            tokens.push((start, token));
            at = end;
        } else if let Some((token, end)) = text(source, at)? {
            tokens.push((start, token));
            at = end;
        } else if byte == b'`' {
            let end = source[at + 1..].find('`').ok_or_else(|| Fault(at, "unterminated identifier".into()))?;
            tokens.push((start, Token::Quoted(source[at + 1..at + 1 + end].to_owned())));
            at += end + 2;
        } else if byte.is_ascii_alphabetic() || byte == b'_' {
            while bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') {
                at += 1;
            }
            tokens.push((start, Token::Ident(source[start..at].to_owned())));
        } else if let Some(op) = OPERATORS.iter().find(|op| source[at..].starts_with(**op)) {
            tokens.push((start, Token::Op(op)));
            at += op.len();
        } else {
            return Err(Fault(at, format!("Syntax error: token recognition error at: '{}'", char_at(source, at))));
        }
    }
    tokens.push((source.len(), Token::End));
    Ok(tokens)
}

fn char_at(source: &str, at: usize) -> char {
    source.get(at..).and_then(|rest| rest.chars().next()).unwrap_or('?')
}

fn number(source: &str, start: usize) -> Result<(Token, usize), Fault> {
    let bad = || Fault(start, "invalid number literal".to_owned());
    let bytes = source.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let suffix = |at: usize| bytes.get(at).is_some_and(|b| b.eq_ignore_ascii_case(&b'u'));
    if source[start..].starts_with("0x") {
        let mut at = start + 2;
        while bytes.get(at).is_some_and(u8::is_ascii_hexdigit) {
            at += 1;
        }
        let value = u64::from_str_radix(&source[start + 2..at], 16).map_err(|_| bad())?;
        return Ok(if suffix(at) { (Token::Uint(value), at + 1) } else { (Token::Int(value), at) });
    }
    let mut at = digits(start);
    let mut double = false;
    if bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
        double = true;
        at = digits(at + 1);
    }
    if bytes.get(at).is_some_and(|b| b.eq_ignore_ascii_case(&b'e')) {
        let sign = usize::from(bytes.get(at + 1).is_some_and(|b| b"+-".contains(b)));
        if bytes.get(at + 1 + sign).is_some_and(u8::is_ascii_digit) {
            double = true;
            at = digits(at + 1 + sign);
        }
    }
    let written = &source[start..at];
    if double {
        return Ok((Token::Double(written.parse().map_err(|_| bad())?), at));
    }
    let value: u64 = written.parse().map_err(|_| bad())?;
    Ok(if suffix(at) { (Token::Uint(value), at + 1) } else { (Token::Int(value), at) })
}

/// A string or bytes literal, if one starts here.
fn text(source: &str, start: usize) -> Result<Option<(Token, usize)>, Fault> {
    let bytes = source.as_bytes();
    let (mut at, mut raw, mut is_bytes) = (start, false, false);
    while let Some(byte) = bytes.get(at) {
        match byte.to_ascii_lowercase() {
            b'r' if !raw => raw = true,
            b'b' if !is_bytes => is_bytes = true,
            _ => break,
        }
        at += 1;
    }
    let Some(quote @ (b'"' | b'\'')) = bytes.get(at).copied() else { return Ok(None) };
    let one = char::from(quote).to_string();
    let mark = if source[at..].starts_with(&one.repeat(3)) { one.repeat(3) } else { one };
    at += mark.len();
    let unterminated = || Fault(start, "Syntax error: unterminated string".to_owned());
    let mut out: Vec<u8> = Vec::new();
    loop {
        let rest = source.get(at..).filter(|rest| !rest.is_empty()).ok_or_else(unterminated)?;
        if rest.starts_with(&mark) {
            at += mark.len();
            break;
        }
        let c = char_at(source, at);
        if c == '\\' && !raw {
            at = escape(source, at, is_bytes, &mut out)?;
            continue;
        }
        if c == '\\' {
            // A raw string keeps the backslash and what follows it.
            out.push(b'\\');
            at += 1;
            continue;
        }
        if (c == '\n' || c == '\r') && mark.len() == 1 {
            return Err(unterminated());
        }
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        at += c.len_utf8();
    }
    if is_bytes {
        return Ok(Some((Token::Bytes(out), at)));
    }
    let text = String::from_utf8(out).map_err(|_| Fault(start, "invalid UTF-8 in string literal".to_owned()))?;
    Ok(Some((Token::Str(text), at)))
}

fn escape(source: &str, at: usize, is_bytes: bool, out: &mut Vec<u8>) -> Result<usize, Fault> {
    let bad = || Fault(at, "invalid escape sequence".to_owned());
    let kind = *source.as_bytes().get(at + 1).ok_or_else(bad)?;
    let simple = match kind {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'\\' | b'?' | b'"' | b'\'' | b'`' => kind,
        _ => 0,
    };
    if simple != 0 {
        out.push(simple);
        return Ok(at + 2);
    }
    let (from, width, radix) = match kind {
        b'x' | b'X' => (at + 2, 2, 16),
        b'u' if !is_bytes => (at + 2, 4, 16),
        b'U' if !is_bytes => (at + 2, 8, 16),
        b'0'..=b'3' => (at + 1, 3, 8),
        _ => return Err(bad()),
    };
    let digits = source.get(from..from + width).ok_or_else(bad)?;
    let code = u32::from_str_radix(digits, radix).map_err(|_| bad())?;
    if is_bytes {
        out.push(u8::try_from(code).map_err(|_| bad())?);
    } else {
        out.extend_from_slice(char::from_u32(code).ok_or_else(bad)?.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(from + width)
}

/// Reads an expression.
pub(super) fn parse(source: &str) -> Result<Expr, Fault> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(Fault(
            0,
            format!("expression code point size exceeds limit: size: {}, limit {MAX_SOURCE_BYTES}", source.len()),
        ));
    }
    let mut parser = Parser { tokens: lex(source)?, at: 0, open: 0 };
    let expr = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected()),
    }
}

struct Parser {
    tokens: Vec<(Pos, Token)>,
    at: usize,
    /// Expressions that are open.
    open: usize,
}

const BINARY: [(&str, u8); 12] = [
    ("<", 1),
    ("<=", 1),
    (">", 1),
    (">=", 1),
    ("==", 1),
    ("!=", 1),
    ("in", 1),
    ("+", 2),
    ("-", 2),
    ("*", 3),
    ("/", 3),
    ("%", 3),
];

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(_, token)| token)
    }

    fn pos(&self) -> Pos {
        self.tokens.get(self.at).map_or(0, |(pos, _)| *pos)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn eat(&mut self, op: &str) -> bool {
        let found = matches!(self.peek(), Token::Op(o) if *o == op);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, op: &str) -> Result<(), Fault> {
        if self.eat(op) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn unexpected(&self) -> Fault {
        let what = match self.peek() {
            Token::End => "'<EOF>'".to_owned(),
            Token::Op(op) => format!("'{op}'"),
            Token::Ident(name) | Token::Quoted(name) => format!("'{name}'"),
            other => format!("{other:?}"),
        };
        Fault(self.pos(), format!("Syntax error: mismatched input {what}"))
    }

    fn make(&self, pos: Pos, below: usize, node: Node) -> Result<Expr, Fault> {
        if below >= MAX_DEPTH {
            return Err(Fault(pos, format!("expression is nested deeper than {MAX_DEPTH}")));
        }
        Ok(Expr { pos, depth: below + 1, node })
    }

    fn expression(&mut self) -> Result<Expr, Fault> {
        self.open += 1;
        if self.open > MAX_DEPTH / 2 {
            return Err(Fault(self.pos(), format!("expression is nested deeper than {MAX_DEPTH}")));
        }
        let condition = self.logical("||")?;
        let pos = self.pos();
        let result = if self.eat("?") {
            let then = self.logical("||")?;
            self.expect(":")?;
            let other = self.expression()?;
            let depth = condition.depth.max(then.depth).max(other.depth);
            self.make(pos, depth, Node::Ternary(Box::new([condition, then, other])))?
        } else {
            condition
        };
        self.open -= 1;
        Ok(result)
    }

    fn logical(&mut self, op: &'static str) -> Result<Expr, Fault> {
        let pos = self.pos();
        let operand = |parser: &mut Self| if op == "||" { parser.logical("&&") } else { parser.binary(1) };
        let mut operands = vec![operand(self)?];
        while self.eat(op) {
            operands.push(operand(self)?);
        }
        let depth = operands.iter().map(|e| e.depth).max().unwrap_or_default();
        match operands.len() {
            1 => operands.pop().ok_or_else(|| self.unexpected()),
            _ if op == "||" => self.make(pos, depth, Node::Or(operands)),
            _ => self.make(pos, depth, Node::And(operands)),
        }
    }

    fn binary(&mut self, level: u8) -> Result<Expr, Fault> {
        if level > 3 {
            return self.unary();
        }
        let mut left = self.binary(level + 1)?;
        loop {
            let op = match self.peek() {
                Token::Op(op) => *op,
                Token::Ident(word) if word == "in" => "in",
                _ => return Ok(left),
            };
            let Some((op, _)) = BINARY.iter().find(|(name, at)| *name == op && *at == level) else { return Ok(left) };
            let pos = self.pos();
            self.at += 1;
            let right = self.binary(level + 1)?;
            let depth = left.depth.max(right.depth);
            left = self.make(pos, depth, call(op, vec![left, right]))?;
        }
    }

    fn unary(&mut self) -> Result<Expr, Fault> {
        let pos = self.pos();
        let op = if self.eat("!") {
            "!"
        } else if self.eat("-") {
            "-"
        } else {
            return self.member();
        };
        let mut odd = true;
        while self.eat(op) {
            odd = !odd;
        }
        if op == "-"
            && odd
            && let Token::Int(value) = self.peek()
        {
            let value = 0_i64.checked_sub_unsigned(*value).ok_or_else(|| Fault(pos, "invalid int literal".into()))?;
            self.at += 1;
            let literal = self.make(pos, 0, Node::Literal(Literal::Int(value)))?;
            return self.members(literal);
        }
        let operand = self.member()?;
        if !odd {
            return Ok(operand);
        }
        let depth = operand.depth;
        self.make(pos, depth, call(if op == "-" { "-_" } else { "!" }, vec![operand]))
    }

    fn member(&mut self) -> Result<Expr, Fault> {
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut expr: Expr) -> Result<Expr, Fault> {
        loop {
            let pos = self.pos();
            let depth = expr.depth;
            let (dot, optional_dot) = (self.eat("."), self.eat(".?"));
            if dot || optional_dot {
                let (Token::Ident(field) | Token::Quoted(field)) = self.next() else {
                    self.at -= 1;
                    return Err(self.unexpected());
                };
                let open = self.pos();
                if dot && self.eat("(") {
                    let args = self.list_until(")")?;
                    expr = self.method(open, expr, field, args)?;
                } else {
                    let operand = Box::new(expr);
                    expr =
                        self.make(pos, depth, Node::Select { operand, field, optional: optional_dot, test: false })?;
                }
                continue;
            }
            let (plain, optional) = (self.eat("["), self.eat("[?"));
            if plain || optional {
                let index = self.expression()?;
                self.expect("]")?;
                let depth = depth.max(index.depth);
                let (operand, index) = (Box::new(expr), Box::new(index));
                expr = self.make(pos, depth, Node::Index { operand, index, optional })?;
                continue;
            }
            if matches!(self.peek(), Token::Op("{"))
                && let Some(name) = qualified(&expr)
            {
                self.at += 1;
                expr = self.structure(pos, name)?;
                continue;
            }
            return Ok(expr);
        }
    }

    fn structure(&mut self, pos: Pos, name: String) -> Result<Expr, Fault> {
        let mut fields = Vec::new();
        let mut depth = 0;
        while !self.eat("}") {
            let optional = self.eat("?");
            let (Token::Ident(field) | Token::Quoted(field)) = self.next() else {
                self.at -= 1;
                return Err(self.unexpected());
            };
            self.expect(":")?;
            let value = self.expression()?;
            depth = depth.max(value.depth);
            fields.push((field, value, optional));
            if !self.eat(",") && !matches!(self.peek(), Token::Op("}")) {
                return Err(self.unexpected());
            }
        }
        self.make(pos, depth, Node::Struct(name, fields))
    }

    fn list_until(&mut self, close: &str) -> Result<Vec<Expr>, Fault> {
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(self.expression()?);
            if !self.eat(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(items)
    }

    fn primary(&mut self) -> Result<Expr, Fault> {
        let pos = self.pos();
        let literal = match self.next() {
            Token::Int(value) => {
                Literal::Int(i64::try_from(value).map_err(|_| Fault(pos, "invalid int literal".into()))?)
            }
            Token::Uint(value) => Literal::Uint(value),
            Token::Double(value) => Literal::Double(value),
            Token::Str(value) => Literal::Str(value),
            Token::Bytes(value) => Literal::Bytes(value.into()),
            Token::Ident(name) => match name.as_str() {
                "true" => Literal::Bool(true),
                "false" => Literal::Bool(false),
                "null" => Literal::Null,
                _ => return self.named(pos, name),
            },
            Token::Op("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Op("[") => return self.list(pos, false),
            Token::Op("[?") => return self.list(pos, true),
            Token::Op("{") => return self.map(pos),
            // A leading dot makes a name absolute; there are no containers, so it means nothing.
            Token::Op(".") if matches!(self.peek(), Token::Ident(_)) => return self.primary(),
            _ => {
                self.at -= 1;
                return Err(self.unexpected());
            }
        };
        self.make(pos, 0, Node::Literal(literal))
    }

    fn named(&mut self, pos: Pos, name: String) -> Result<Expr, Fault> {
        if name == "in" || RESERVED.contains(&name.as_str()) {
            return Err(Fault(pos, format!("Syntax error: reserved identifier: {name}")));
        }
        let open = self.pos();
        if !self.eat("(") {
            return self.make(pos, 0, Node::Ident(name));
        }
        let mut args = self.list_until(")")?;
        if name == "has" && args.len() == 1 {
            return match args.pop() {
                Some(Expr { node: Node::Select { operand, field, optional: false, .. }, depth, .. }) => {
                    self.make(pos, depth, Node::Select { operand, field, optional: false, test: true })
                }
                _ => Err(Fault(pos, "invalid argument to has() macro".to_owned())),
            };
        }
        let depth = args.iter().map(|e| e.depth).max().unwrap_or_default();
        self.make(open, depth, call(&name, args))
    }

    /// A list; `marked` when its first element was already found optional.
    fn list(&mut self, pos: Pos, mut marked: bool) -> Result<Expr, Fault> {
        let mut items = Vec::new();
        while marked || !self.eat("]") {
            let optional = std::mem::take(&mut marked) || self.eat("?");
            items.push((self.expression()?, optional));
            if !self.eat(",") {
                self.expect("]")?;
                break;
            }
        }
        let depth = items.iter().map(|(e, _)| e.depth).max().unwrap_or_default();
        self.make(pos, depth, Node::List(items))
    }

    fn map(&mut self, pos: Pos) -> Result<Expr, Fault> {
        let mut entries = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?, optional));
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        let depth = entries.iter().map(|(k, v, _)| k.depth.max(v.depth)).max().unwrap_or_default();
        self.make(pos, depth, Node::Map(entries))
    }

    /// A call on something, or one of the macros.
    fn method(&mut self, pos: Pos, target: Expr, function: String, mut args: Vec<Expr>) -> Result<Expr, Fault> {
        let depth = args.iter().map(|e| e.depth).max().unwrap_or_default().max(target.depth);
        if let Some((fold, variables)) = fold(&function, args.len()) {
            let vars = names(args.drain(..variables))?;
            let body = args.pop().ok_or_else(|| self.unexpected())?;
            let filter = args.pop();
            let parts = Comprehension { fold, range: target, vars, filter, body };
            return self.make(pos, depth, Node::Comprehension(Box::new(parts)));
        }
        if matches!(function.as_str(), "optMap" | "optFlatMap") && args.len() == 2 {
            let name = names(args.drain(..1))?.pop().unwrap_or_default();
            let body = args.pop().ok_or_else(|| self.unexpected())?;
            let flat = function == "optFlatMap";
            return self.make(pos, depth, Node::OptMap(Box::new((target, name, body)), flat));
        }
        if function == "bind" && args.len() == 3 && matches!(&target.node, Node::Ident(name) if name == "cel") {
            let name = names(args.drain(..1))?.pop().unwrap_or_default();
            let body = args.pop().ok_or_else(|| self.unexpected())?;
            let value = args.pop().ok_or_else(|| self.unexpected())?;
            return self.make(pos, depth, Node::Bind(Box::new((name, value, body))));
        }
        self.make(pos, depth, Node::Call { function, target: Some(Box::new(target)), args })
    }
}

/// Which macro this is, and how many of its arguments are variables.
fn fold(name: &str, args: usize) -> Option<(Fold, usize)> {
    Some(match (name, args) {
        ("all", 2) => (Fold::All, 1),
        ("all", 3) => (Fold::All, 2),
        ("exists", 2) => (Fold::Exists, 1),
        ("exists", 3) => (Fold::Exists, 2),
        ("exists_one", 2) => (Fold::ExistsOne, 1),
        ("existsOne", 3) => (Fold::ExistsOne, 2),
        ("map", 2 | 3) => (Fold::Map, 1),
        ("filter", 2) => (Fold::Filter, 1),
        ("transformList", 3 | 4) => (Fold::TransformList, 2),
        ("transformMap", 3 | 4) => (Fold::TransformMap, 2),
        ("transformMapEntry", 3 | 4) => (Fold::TransformMapEntry, 2),
        _ => return None,
    })
}

fn names(args: impl Iterator<Item = Expr>) -> Result<Vec<String>, Fault> {
    args.map(|arg| match arg.node {
        Node::Ident(name) => Ok(name),
        _ => Err(Fault(arg.pos, "argument must be a simple name".to_owned())),
    })
    .collect()
}

fn call(function: &str, args: Vec<Expr>) -> Node {
    Node::Call { function: function.to_owned(), target: None, args }
}

/// `a.b.c`, if the expression is only that.
pub(super) fn qualified(expr: &Expr) -> Option<String> {
    match &expr.node {
        Node::Ident(name) => Some(name.clone()),
        Node::Select { operand, field, optional: false, test: false } => {
            Some(format!("{}.{field}", qualified(operand)?))
        }
        _ => None,
    }
}

/// Whether the n-th name of the environment occurs.
pub(super) fn uses(expr: &Expr, var: usize) -> bool {
    let all = |exprs: &[Expr]| exprs.iter().any(|e| uses(e, var));
    match &expr.node {
        Node::Literal(_) | Node::Ident(_) => false,
        Node::Resolved(resolved) => matches!(resolved, Resolved::Var(at) if *at == var),
        Node::Select { operand, .. } => uses(operand, var),
        Node::Index { operand, index, .. } => uses(operand, var) || uses(index, var),
        Node::Call { args, .. } | Node::Apply(_, args) | Node::And(args) | Node::Or(args) => all(args),
        Node::Ternary(parts) => all(&**parts),
        Node::List(items) => items.iter().any(|(e, _)| uses(e, var)),
        Node::Map(entries) => entries.iter().any(|(k, v, _)| uses(k, var) || uses(v, var)),
        Node::Struct(_, fields) => fields.iter().any(|(_, e, _)| uses(e, var)),
        Node::Comprehension(parts) => {
            uses(&parts.range, var) || uses(&parts.body, var) || parts.filter.as_ref().is_some_and(|e| uses(e, var))
        }
        Node::OptMap(parts, _) => uses(&parts.0, var) || uses(&parts.2, var),
        Node::Bind(parts) => uses(&parts.1, var) || uses(&parts.2, var),
    }
}
