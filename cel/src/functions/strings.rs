//! Text: the standard functions, cel-go's extension (version 2) and Kubernetes' regular expressions.

use regex::{Regex, RegexBuilder};

use super::core::to_string;
use super::{Cost, Error, Outcome, Row, int, none, runtime};
use crate::value::Val;

/// Most memory that a compiled expression may take.
const MAX_REGEX_BYTES: usize = 1 << 20;
/// Most digits after the point that `format` writes.
const MAX_PRECISION: usize = 100;

pub(super) const ROWS: &[Row] = &[
    ("startsWith", "string.(string)bool", Cost::ScanSecond, |a| text2(a, |x, y| Ok(Val::Bool(x.starts_with(y))))),
    ("endsWith", "string.(string)bool", Cost::ScanSecond, |a| text2(a, |x, y| Ok(Val::Bool(x.ends_with(y))))),
    ("contains", "string.(string)bool", Cost::Scan, |a| text2(a, |x, y| Ok(Val::Bool(x.contains(y))))),
    ("matches", "string.(string)bool|(string,string)bool", Cost::Regex, |a| {
        text2(a, |x, y| Ok(Val::Bool(regex(y)?.is_match(x))))
    }),
    ("find", "string.(string)string", Cost::Regex, |a| {
        text2(a, |x, y| Ok(Val::string(regex(y)?.find(x).map_or("", |found| found.as_str()))))
    }),
    ("findAll", "string.(string)list(string)|string.(string,int)list(string)", Cost::Regex, |a| {
        let most = limit(a.get(2))?;
        text2(a, |x, y| {
            Ok(Val::list(regex(y)?.find_iter(x).take(most).map(|found| Val::string(found.as_str())).collect()))
        })
    }),
    ("charAt", "string.(int)string", Cost::One, |a| match a {
        [Val::Str(text), Val::Int(at)] => {
            let at = usize::try_from(*at).ok();
            let found = at.and_then(|at| text.chars().nth(at).map(String::from));
            match found {
                Some(found) => Ok(Val::string(found)),
                None if at == Some(text.chars().count()) => Ok(Val::string("")),
                None => runtime("index out of range"),
            }
        }
        _ => none(),
    }),
    ("lowerAscii", "string.()string", Cost::Scan, |a| text1(a, str::to_ascii_lowercase)),
    ("upperAscii", "string.()string", Cost::Scan, |a| text1(a, str::to_ascii_uppercase)),
    ("trim", "string.()string", Cost::Scan, |a| text1(a, |x| x.trim().to_owned())),
    ("strings.quote", "(string)string", Cost::Scan, |a| text1(a, |x| format!("{x:?}"))),
    ("replace", "string.(string,string)string|string.(string,string,int)string", Cost::Scan2, |a| match a {
        [Val::Str(text), Val::Str(old), Val::Str(new), ..] => {
            Ok(Val::string(text.replacen(&**old, new, limit(a.get(3))?)))
        }
        _ => none(),
    }),
    ("split", "string.(string)list(string)|string.(string,int)list(string)", Cost::Scan2, |a| {
        let most = limit(a.get(2))?;
        text2(a, |x, y| {
            let parts: Vec<Val<'_>> = match most {
                0 => Vec::new(),
                // Go splits between characters, without the empty ends.
                _ if y.is_empty() => {
                    let ends = x.char_indices().map(|(at, c)| (at, at + c.len_utf8()));
                    ends.take(most)
                        .enumerate()
                        .map(|(i, (from, to))| Val::string(if i + 1 == most { &x[from..] } else { &x[from..to] }))
                        .collect()
                }
                most => x.splitn(most, y).map(Val::string).collect(),
            };
            Ok(Val::list(parts))
        })
    }),
    ("join", "list(string).()string|list(string).(string)string", Cost::Scan2, |a| {
        let between = if let Some(Val::Str(text)) = a.get(1) { &**text } else { "" };
        let items = a[0].items().ok_or_else(|| Error::no_overload("join"))?;
        let texts: Option<Vec<&str>> =
            items.iter().map(|v| if let Val::Str(text) = v { Some(&**text) } else { None }).collect();
        texts.map_or_else(none, |texts| Ok(Val::string(texts.join(between))))
    }),
    ("substring", "string.(int)string|string.(int,int)string", Cost::Scan, |a| match a {
        [Val::Str(text), Val::Int(from)] => substring(text, *from, None),
        [Val::Str(text), Val::Int(from), Val::Int(to)] => substring(text, *from, Some(*to)),
        _ => none(),
    }),
    ("format", "string.(list(dyn))string", Cost::Scan2, |a| match a {
        [Val::Str(text), list] => format(text, &list.items().ok_or_else(|| Error::no_overload("format"))?),
        _ => none(),
    }),
    ("jsonpatch.escapeKey", "(string)string", Cost::Scan2, |a| text1(a, |x| x.replace('~', "~0").replace('/', "~1"))),
];

fn text1<'a>(a: &[Val<'a>], of: fn(&str) -> String) -> Outcome<'a> {
    match a {
        [Val::Str(text)] => Ok(Val::string(of(text))),
        _ => none(),
    }
}

fn text2<'a>(a: &[Val<'a>], of: impl Fn(&str, &str) -> Outcome<'a>) -> Outcome<'a> {
    match a {
        [Val::Str(x), Val::Str(y), ..] => of(x, y),
        _ => none(),
    }
}

/// A count of which negative means all.
fn limit(val: Option<&Val<'_>>) -> Result<usize, Error> {
    match val {
        None => Ok(usize::MAX),
        Some(Val::Int(most)) => Ok(usize::try_from(*most).unwrap_or(usize::MAX)),
        Some(_) => Err(Error::no_overload("limit")),
    }
}

/// A bounded regular expression; the syntax of RE2.
pub(super) fn regex(pattern: &str) -> Result<Regex, Error> {
    let built = RegexBuilder::new(pattern).size_limit(MAX_REGEX_BYTES).build();
    built.map_err(|error| Error::Runtime(format!("error parsing regexp: {error}")))
}

fn substring<'a>(text: &str, from: i64, to: Option<i64>) -> Outcome<'a> {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let to = to.unwrap_or(length);
    if from < 0 || to < from || to > length {
        return runtime(format!("index out of range: {}", if from < 0 || from > length { from } else { to }));
    }
    let (from, count) = (usize::try_from(from).unwrap_or_default(), usize::try_from(to - from).unwrap_or_default());
    Ok(Val::string(text.chars().skip(from).take(count).collect::<String>()))
}

/// Position of a text in characters, from a character on; `last` searches from the end.
pub(super) fn index_of<'a>(text: &str, wanted: &str, from: Option<i64>, last: bool) -> Outcome<'a> {
    let length = text.chars().count();
    let from = match from {
        Some(from) => match usize::try_from(from).ok().filter(|from| *from <= length) {
            Some(from) => Some(from),
            None => return runtime(format!("index out of range: {from}")),
        },
        None => None,
    };
    let byte_of = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(byte, _)| byte);
    let found = match (last, from) {
        (false, from) => {
            let start = from.map_or(0, byte_of);
            text[start..].find(wanted).map(|at| start + at)
        }
        (true, None) => text.rfind(wanted),
        (true, Some(from)) => {
            let most = byte_of(from);
            text.match_indices(wanted).map(|(at, _)| at).take_while(|at| *at <= most).last()
        }
    };
    Ok(found.map_or(Val::Int(-1), |byte| int(text[..byte].chars().count())))
}

/// `%s %d %f %e %b %x %X %o`, with a precision.
fn format<'a>(pattern: &str, args: &[Val<'a>]) -> Outcome<'a> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if rest.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = 6;
        if rest.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse().unwrap_or(0);
            if precision > MAX_PRECISION {
                return runtime("precision is too large");
            }
        }
        let Some(arg) = args.next() else { return runtime("index out of range") };
        let clause = rest.next().ok_or_else(|| Error::Runtime("unexpected end of string".to_owned()))?;
        out.push_str(&formatted(clause, precision, arg)?);
    }
    Ok(Val::string(out))
}

fn formatted(clause: char, precision: usize, arg: &Val<'_>) -> Result<String, Error> {
    let wrong = || Error::Runtime(format!("error during formatting: %{clause} cannot show a {}", arg.type_name()));
    Ok(match (clause, arg) {
        ('s', arg) => shown(arg, true)?,
        ('d', Val::Int(x)) => x.to_string(),
        ('d', Val::Uint(x)) => x.to_string(),
        ('f', arg) => format!("{:.precision$}", arg.float().ok_or_else(wrong)?),
        ('e', arg) => {
            let text = format!("{:.precision$e}", arg.float().ok_or_else(wrong)?);
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |digits| ("-", digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        ('b', Val::Bool(x)) => u8::from(*x).to_string(),
        ('b', Val::Int(x)) => signed(*x, |x| format!("{x:b}")),
        ('b', Val::Uint(x)) => format!("{x:b}"),
        ('o', Val::Int(x)) => signed(*x, |x| format!("{x:o}")),
        ('o', Val::Uint(x)) => format!("{x:o}"),
        ('x', Val::Int(x)) => signed(*x, |x| format!("{x:x}")),
        ('x', Val::Uint(x)) => format!("{x:x}"),
        ('x', Val::Str(text)) => hex::encode(text.as_bytes()),
        ('x', Val::Bytes(bytes)) => hex::encode(bytes),
        ('X', arg) => formatted('x', precision, arg)?.to_uppercase(),
        ('d' | 'b' | 'o' | 'x', _) => return Err(wrong()),
        _ => return runtime(format!("unrecognized formatting clause \"{clause}\"")),
    })
}

fn signed(x: i64, of: fn(u64) -> String) -> String {
    format!("{}{}", if x < 0 { "-" } else { "" }, of(x.unsigned_abs()))
}

/// `%s`; inside of lists and maps text is quoted.
fn shown(val: &Val<'_>, outer: bool) -> Result<String, Error> {
    Ok(match val {
        Val::Str(text) if !outer => format!("\"{}\"", &**text),
        Val::Null => "null".to_owned(),
        Val::Type(name) => name.to_string(),
        Val::List(_) | Val::JsonList(..) => {
            let items = val.items().unwrap_or_default();
            let items = items.iter().map(|item| shown(item, false)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", items.join(", "))
        }
        Val::Map(_) | Val::JsonMap(..) => {
            let mut entries = val.entries().unwrap_or_default();
            entries.sort_by_key(|entry| entry.0.text());
            let entries = entries.iter().map(|(k, v)| Ok(format!("{}: {}", shown(&k.val(), false)?, shown(v, false)?)));
            format!("{{{}}}", entries.collect::<Result<Vec<_>, Error>>()?.join(", "))
        }
        other => match to_string(other)? {
            Val::Str(text) => text.to_string(),
            _ => String::new(),
        },
    })
}
