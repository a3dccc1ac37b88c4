//! Field paths and validation errors: what `Status.details.causes` is made of.
//!
//! Paths print as upstream's `field.Path` does (`spec.containers[0].name`, `metadata.labels[app]`), because clients and
//! tests compare them.

use std::cell::Cell;
use std::fmt;

use serde_json::Value;
use smallvec::SmallVec;

/// Longer paths take an allocation.
const INLINE_BYTES: usize = 40;

/// The one byte of a path that is not spelled out: no name begins so, for it is not UTF-8.
const UNSPELLED: u8 = 0xFF;

thread_local! {
    static SPELLED: Cell<bool> = const { Cell::new(true) };
}

/// Puts the former state back, also when the rules panic.
struct Spelling(bool);

impl Spelling {
    fn set(spelled: bool) -> Self {
        Self(SPELLED.replace(spelled))
    }
}

impl Drop for Spelling {
    fn drop(&mut self) {
        SPELLED.set(self.0);
    }
}

/// What `rules` object to. Valid objects are the rule, and hundreds of paths would be spelled out for a pod to no end: so
/// the rules run without paths first, and again with them if they object. They must be pure and not decide by a path;
/// those that do go through [`with_paths`].
pub fn objections<T>(rules: impl Fn() -> Vec<T>) -> Vec<T> {
    let blind = Spelling::set(false);
    let found = rules();
    drop(blind);
    if found.is_empty() { found } else { rules() }
}

/// Runs rules that look at paths, within [`objections`] too.
pub fn with_paths<T>(rules: impl FnOnce() -> T) -> T {
    let _spelling = Spelling::set(true);
    rules()
}

/// A path into an object, built from the root outwards.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Path(SmallVec<[u8; INLINE_BYTES]>);

impl Path {
    /// The path of a top-level field.
    pub fn new(name: &str) -> Self {
        if !SPELLED.get() {
            return Self::unspelled();
        }
        Self(SmallVec::from_slice(name.as_bytes()))
    }

    /// The empty path (`<nil>` when printed alone by upstream; here empty).
    pub fn root() -> Self {
        if SPELLED.get() { Self::default() } else { Self::unspelled() }
    }

    fn unspelled() -> Self {
        let mut bytes = [0; INLINE_BYTES];
        bytes[0] = UNSPELLED;
        Self(SmallVec::from_buf_and_len(bytes, 1))
    }

    fn is_unspelled(&self) -> bool {
        self.0.first() == Some(&UNSPELLED)
    }

    /// A field below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        self.with(if self.0.is_empty() { "" } else { "." }, name, "")
    }

    /// An element of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        if self.is_unspelled() {
            return Self::unspelled();
        }
        self.key(&index.to_string())
    }

    /// An entry of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with("[", key, "]")
    }

    fn with(&self, before: &str, name: &str, after: &str) -> Self {
        if self.is_unspelled() {
            return Self::unspelled();
        }
        let parts = [&self.0, before.as_bytes(), name.as_bytes(), after.as_bytes()];
        let length = parts.iter().map(|part| part.len()).sum();
        if length > INLINE_BYTES {
            return Self(parts.concat().into());
        }
        let (mut path, mut at) = ([0; INLINE_BYTES], 0);
        for part in parts {
            path[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Self(SmallVec::from_buf_and_len(path, length))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Why a value is refused; the names on the wire are upstream's `CauseType`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// The field must be given.
    Required,
    /// The value is malformed or not allowed.
    Invalid,
    /// The value is not one of the known ones.
    NotSupported,
    /// The value must be unique and is not.
    Duplicate,
    /// The value may not be set here.
    Forbidden,
    /// The string is too long.
    TooLong,
    /// The list is too long.
    TooMany,
    /// The thing referred to does not exist.
    NotFound,
    /// The value has the wrong JSON type.
    TypeInvalid,
    /// Something failed in the server while looking.
    Internal,
}

impl ErrorType {
    /// The cause's `reason` on the wire.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::TooLong => "FieldValueTooLong",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
}

/// One refused field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Why.
    pub ty: ErrorType,
    /// Where.
    pub path: Path,
    /// What stood there (`Null` when nothing did).
    pub bad_value: Value,
    /// What would be right.
    pub detail: String,
}

/// All refused fields of one object, in the order of the checks.
pub type ErrorList = Vec<FieldError>;

/// Errors as one text: a single one as it is, several as a list.
pub fn sentence(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

impl FieldError {
    /// A missing field.
    pub fn required(path: Path, detail: impl Into<String>) -> Self {
        Self { ty: ErrorType::Required, path, bad_value: Value::Null, detail: detail.into() }
    }

    /// A malformed or disallowed value.
    pub fn invalid(path: Path, bad_value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { ty: ErrorType::Invalid, path, bad_value: bad_value.into(), detail: detail.into() }
    }

    /// A value outside an enumeration.
    pub fn not_supported(path: Path, bad_value: impl Into<Value>, supported: &[&str]) -> Self {
        let list = supported.iter().map(|s| format!("\"{s}\"")).collect::<Vec<_>>().join(", ");
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {list}") };
        Self { ty: ErrorType::NotSupported, path, bad_value: bad_value.into(), detail }
    }

    /// A second occurrence.
    pub fn duplicate(path: Path, bad_value: impl Into<Value>) -> Self {
        Self { ty: ErrorType::Duplicate, path, bad_value: bad_value.into(), detail: String::new() }
    }

    /// A field that may not be set (or changed) here.
    pub fn forbidden(path: Path, detail: impl Into<String>) -> Self {
        Self { ty: ErrorType::Forbidden, path, bad_value: Value::Null, detail: detail.into() }
    }

    /// A string over `max_bytes`.
    pub fn too_long(path: Path, max_bytes: usize) -> Self {
        let detail = format!("may not be more than {max_bytes} bytes");
        Self { ty: ErrorType::TooLong, path, bad_value: Value::Null, detail }
    }

    /// A list over `max_items`.
    pub fn too_many(path: Path, actual: usize, max_items: usize) -> Self {
        let detail = format!("must have at most {max_items} items");
        Self { ty: ErrorType::TooMany, path, bad_value: actual.into(), detail }
    }

    /// A reference to nothing.
    pub fn not_found(path: Path, bad_value: impl Into<Value>) -> Self {
        Self { ty: ErrorType::NotFound, path, bad_value: bad_value.into(), detail: String::new() }
    }

    /// The sentence without the path, as a cause's `message`.
    pub fn message(&self) -> String {
        let value = match &self.bad_value {
            Value::Null => String::new(),
            other => format!(": {other}"),
        };
        let what = match self.ty {
            ErrorType::Required => return with_detail("Required value", &self.detail),
            ErrorType::Forbidden => return with_detail("Forbidden", &self.detail),
            ErrorType::TooLong => return with_detail("Too long", &self.detail),
            ErrorType::Internal => return with_detail("Internal error", &self.detail),
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::TooMany => "Too many",
            ErrorType::NotFound => "Not found",
        };
        with_detail(&format!("{what}{value}"), &self.detail)
    }
}

fn with_detail(what: &str, detail: &str) -> String {
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn paths_are_spelled_out_only_when_something_is_wrong() {
        let seen = RefCell::new(Vec::new());
        let rules = |bad: bool| {
            let path = Path::new("spec").child("containers").index(0).key("a");
            seen.borrow_mut().push(path.is_unspelled());
            let root = Path::root().child("spec");
            assert_eq!(path.is_unspelled(), root.is_unspelled());
            if bad { vec![FieldError::required(path, "")] } else { Vec::new() }
        };
        assert!(objections(|| rules(false)).is_empty());
        assert_eq!(seen.take(), [true]);
        assert_eq!(objections(|| rules(true))[0].path.to_string(), "spec.containers[0][a]");
        assert_eq!(seen.take(), [true, false]);
        assert!(!Path::new("spec").is_unspelled(), "the former state is back");
    }

    #[test]
    fn rules_that_look_at_paths_see_them() {
        let found = objections(|| with_paths(|| vec![Path::new("spec").child("a").to_string()]));
        assert_eq!(found, ["spec.a"]);
        let found = objections(|| {
            let inner = with_paths(|| Path::new("a").is_unspelled());
            assert!(!inner);
            vec![Path::new("a").to_string()]
        });
        assert_eq!(found, ["a"]);
    }
}
