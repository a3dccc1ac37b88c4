//! Lists and sets.

use std::cmp::Ordering;

use super::strings::index_of;
use super::{Cost, Error, Outcome, Row, int, none, runtime};
use crate::value::Val;

const SETS: &str = "(list(A),list(A))bool";

pub(super) const ROWS: &[Row] = &[
    ("isSorted", "list(A).()bool", Cost::Scan, |a| {
        for pair in items(&a[0])?.windows(2) {
            match pair[0].compare(&pair[1]) {
                Some(Ordering::Greater) => return Ok(Val::Bool(false)),
                Some(_) => {}
                None => return none(),
            }
        }
        Ok(Val::Bool(true))
    }),
    ("sum", "list(int).()int|list(uint).()uint|list(double).()double|list(duration).()duration", Cost::Scan, |a| {
        let items = items(&a[0])?;
        let mut items = items.iter();
        let Some(first) = items.next() else { return Ok(Val::Int(0)) };
        let add = super::find("+").ok_or_else(|| Error::no_overload("sum"))?;
        items.try_fold(first.clone(), |sum, item| (add.run)(&[sum, item.clone()]))
    }),
    ("min", "list(A).()A", Cost::Scan, |a| extreme(&a[0], Ordering::Less)),
    ("max", "list(A).()A", Cost::Scan, |a| extreme(&a[0], Ordering::Greater)),
    ("indexOf", "list(A).(A)int|string.(string)int|string.(string,int)int", Cost::Scan, |a| position(a, false)),
    ("lastIndexOf", "list(A).(A)int|string.(string)int|string.(string,int)int", Cost::Scan, |a| position(a, true)),
    ("sets.contains", SETS, Cost::Pairs, |a| Ok(Val::Bool(contains(&items(&a[0])?, &items(&a[1])?)))),
    ("sets.equivalent", SETS, Cost::Pairs, |a| {
        let (x, y) = (items(&a[0])?, items(&a[1])?);
        Ok(Val::Bool(contains(&x, &y) && contains(&y, &x)))
    }),
    ("sets.intersects", SETS, Cost::Pairs, |a| {
        let (x, y) = (items(&a[0])?, items(&a[1])?);
        Ok(Val::Bool(x.iter().any(|x| y.iter().any(|y| x.equals(y)))))
    }),
];

fn items<'a>(val: &Val<'a>) -> Result<Vec<Val<'a>>, Error> {
    val.items().ok_or_else(|| Error::no_overload("list"))
}

fn contains(all: &[Val<'_>], wanted: &[Val<'_>]) -> bool {
    wanted.iter().all(|wanted| all.iter().any(|one| one.equals(wanted)))
}

fn extreme<'a>(list: &Val<'a>, wanted: Ordering) -> Outcome<'a> {
    let mut best: Option<Val<'a>> = None;
    for item in items(list)? {
        let better = match &best {
            None => true,
            Some(best) => item.compare(best).ok_or_else(|| Error::no_overload("min"))? == wanted,
        };
        if better {
            best = Some(item);
        }
    }
    best.map_or_else(|| runtime("min/max called on empty list"), Ok)
}

fn position<'a>(a: &[Val<'a>], last: bool) -> Outcome<'a> {
    match a {
        [Val::Str(text), Val::Str(wanted)] => index_of(text, wanted, None, last),
        [Val::Str(text), Val::Str(wanted), Val::Int(from)] => index_of(text, wanted, Some(*from), last),
        [list, wanted] => {
            let items = items(list)?;
            let mut found = items.iter().enumerate().filter(|(_, item)| item.equals(wanted)).map(|(at, _)| at);
            let found = if last { found.next_back() } else { found.next() };
            Ok(found.map_or(Val::Int(-1), int))
        }
        _ => none(),
    }
}
