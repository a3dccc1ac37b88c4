//! The vocabulary of validation: where a value stands (`At`) and what may be said about it (`Check`).
//!
//! Guarantees that a rule reads like upstream's sentence and that its error carries upstream's path and type. Works on
//! canonical objects (absent means zero, as Go's `omitempty` leaves them) and never fails on a wrong JSON type: such an
//! object does not get past decoding. Knows no kinds.

use std::net::IpAddr;

use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::quantity::Quantity;
use apimachinery::validation as names;
use serde_json::Value;

static NULL: Value = Value::Null;

/// A rule for one string: the complaints, empty when it is fine.
pub type Format = fn(&str) -> Vec<String>;

/// A value together with its path. Absent fields are values too (`is_set` is false), so rules need no nesting of `if let`.
#[derive(Clone)]
pub struct At<'a> {
    /// The value, `Null` when absent.
    pub value: &'a Value,
    /// Where it stands.
    pub path: Path,
}

impl<'a> At<'a> {
    /// The object itself.
    pub fn root(value: &'a Value) -> Self {
        Self { value, path: Path::root() }
    }

    /// The same value reported under another path, where upstream reports it so.
    #[must_use]
    pub fn under(&self, path: Path) -> Self {
        Self { value: self.value, path }
    }

    /// A field below, several levels deep with dots: `get("spec.template.spec")`.
    #[must_use]
    pub fn get(&self, fields: &str) -> Self {
        let below = |value: &'a Value, name: &str| value.get(name).unwrap_or(&NULL);
        // Splitting is half of the work, and most names are single.
        let is_single = !fields.as_bytes().contains(&b'.');
        let value = if is_single { below(self.value, fields) } else { fields.split('.').fold(self.value, below) };
        Self { value, path: self.path.child(fields) }
    }

    /// A map entry, whose key may hold dots.
    #[must_use]
    pub fn entry(&self, key: &str) -> Self {
        Self { value: self.value.get(key).unwrap_or(&NULL), path: self.path.key(key) }
    }

    /// The elements of a list.
    pub fn items(&self) -> impl Iterator<Item = Self> + use<'a> {
        let path = self.path.clone();
        self.value
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
            .map(move |(i, value)| Self { value, path: path.index(i) })
    }

    /// The entries of a map, with `path[key]` as their path.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        let path = self.path.clone();
        self.value
            .as_object()
            .into_iter()
            .flatten()
            .map(move |(k, value)| (k.as_str(), Self { value, path: path.key(k) }))
    }

    /// The string, empty when absent.
    pub fn str(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The integer, if there.
    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The integer, zero when absent.
    pub fn number(&self) -> i64 {
        self.int().unwrap_or_default()
    }

    /// True only for `true`.
    pub fn flag(&self) -> bool {
        self.value.as_bool().unwrap_or_default()
    }

    /// Is it there at all (a pointer that is not nil)?
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Absent, or an empty string, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Elements of a list or map, bytes of a string.
    pub fn len(&self) -> usize {
        match self.value {
            Value::String(s) => s.len(),
            Value::Array(a) => a.len(),
            Value::Object(o) => o.len(),
            _ => 0,
        }
    }

    /// The strings of a list.
    pub fn strings(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.value.as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    /// The quantity, zero when absent.
    pub fn quantity(&self) -> Quantity {
        quantity(self.value)
    }
}

/// The quantity in a canonical object, zero when absent.
pub fn quantity(value: &Value) -> Quantity {
    value.as_str().and_then(|s| s.parse().ok()).unwrap_or_default()
}

/// Collects errors in the order of the rules.
#[derive(Default)]
pub struct Check {
    /// What was found so far.
    pub errors: ErrorList,
}

impl Check {
    /// Nothing found yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Is there an error yet?
    pub fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    /// The value must be given.
    pub fn required(&mut self, at: &At, detail: &str) {
        self.errors.push(FieldError::required(at.path.clone(), detail));
    }

    /// The value is wrong.
    pub fn invalid(&mut self, at: &At, detail: impl Into<String>) {
        self.errors.push(FieldError::invalid(at.path.clone(), at.value.clone(), detail));
    }

    /// The value may not be given, or not be changed.
    pub fn forbidden(&mut self, at: &At, detail: &str) {
        self.errors.push(FieldError::forbidden(at.path.clone(), detail));
    }

    /// The value occurs a second time.
    pub fn duplicate(&mut self, at: &At) {
        self.errors.push(FieldError::duplicate(at.path.clone(), at.value.clone()));
    }

    /// The value is none of `supported`.
    pub fn not_supported(&mut self, at: &At, supported: &[&str]) {
        self.errors.push(FieldError::not_supported(at.path.clone(), at.value.clone(), supported));
    }

    /// The value refers to nothing.
    pub fn not_found(&mut self, at: &At) {
        self.errors.push(FieldError::not_found(at.path.clone(), at.value.clone()));
    }

    /// The text or map is longer than `max_bytes`.
    pub fn too_long(&mut self, at: &At, max_bytes: usize) {
        self.errors.push(FieldError::too_long(at.path.clone(), max_bytes));
    }

    /// The list has more than `max_items`.
    pub fn at_most(&mut self, at: &At, max_items: usize) -> bool {
        if at.len() > max_items {
            self.errors.push(FieldError::too_many(at.path.clone(), at.len(), max_items));
        }
        at.len() <= max_items
    }

    /// Must not be empty; says whether it is not.
    pub fn present(&mut self, at: &At) -> bool {
        if at.is_empty() {
            self.required(at, "");
        }
        !at.is_empty()
    }

    /// Each of these fields of `at` must not be empty.
    pub fn present_all(&mut self, at: &At, fields: &[&str]) {
        for field in fields {
            self.present(&at.get(field));
        }
    }

    /// Must be one of `supported` when set.
    pub fn one_of(&mut self, at: &At, supported: &[&str]) {
        if at.is_set() && !supported.contains(&at.str()) {
            self.not_supported(at, supported);
        }
    }

    /// Must be one of `supported`; an absent one counts as the empty string.
    pub fn always_one_of(&mut self, at: &At, supported: &[&str]) {
        if !supported.contains(&at.str()) {
            self.not_supported(at, supported);
        }
    }

    /// Must be given, and one of `supported`.
    pub fn present_one_of(&mut self, at: &At, supported: &[&str]) {
        if self.present(at) {
            self.one_of(at, supported);
        }
    }

    /// Must follow the format.
    pub fn format(&mut self, at: &At, format: Format) {
        for complaint in format(at.str()) {
            self.invalid(at, complaint);
        }
    }

    /// Must follow the format when not empty.
    pub fn format_if_set(&mut self, at: &At, format: Format) {
        if !at.is_empty() {
            self.format(at, format);
        }
    }

    /// Must be given, and follow the format.
    pub fn present_format(&mut self, at: &At, format: Format) {
        if self.present(at) {
            self.format(at, format);
        }
    }

    /// Must not be negative.
    pub fn non_negative(&mut self, at: &At) {
        if at.number() < 0 {
            self.invalid(at, "must be greater than or equal to 0");
        }
    }

    /// Each of these fields of `at` must not be negative.
    pub fn non_negative_all(&mut self, at: &At, fields: &[&str]) {
        for field in fields {
            self.non_negative(&at.get(field));
        }
    }

    /// Must be above zero.
    pub fn positive(&mut self, at: &At) {
        if at.number() <= 0 {
            self.invalid(at, "must be greater than zero");
        }
    }

    /// Must lie within the bounds, both inclusive.
    pub fn range(&mut self, at: &At, min: i64, max: i64) {
        if !(min..=max).contains(&at.number()) {
            self.invalid(at, format!("must be between {min} and {max}, inclusive"));
        }
    }

    /// Must be a TCP or UDP port number.
    pub fn port_number(&mut self, at: &At) {
        self.range(at, 1, 65_535);
    }

    /// Must be a port number or the name of one.
    pub fn port_number_or_name(&mut self, at: &At) {
        if at.value.is_string() { self.format(at, names::port_name) } else { self.port_number(at) }
    }

    /// Must be a user or group id.
    pub fn id(&mut self, at: &At) {
        if at.is_set() {
            self.range(at, 0, i64::from(i32::MAX));
        }
    }

    /// Must be an octal file mode when set.
    pub fn file_mode(&mut self, at: &At) {
        if at.is_set() {
            self.range(at, 0, 0o777);
        }
    }

    /// Must be an IP address that every reader takes for the same (upstream's `StrictIPCIDRValidation`).
    pub fn ip(&mut self, at: &At) {
        if strict_ip(at.str()).is_none() {
            self.invalid(at, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff), without leading zeros");
        }
    }

    /// Must be an address that traffic can be sent to.
    pub fn non_special_ip(&mut self, at: &At) {
        let Some(ip) = parse_ip(at.str()) else { return self.invalid(at, "must be a valid IP address") };
        let (link_local, local_multicast) = match ip {
            IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
            IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
        };
        if ip.is_unspecified() {
            self.invalid(at, "may not be unspecified");
        }
        if ip.is_loopback() {
            self.invalid(at, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
        }
        if link_local {
            self.invalid(at, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
        }
        if local_multicast {
            self.invalid(at, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
        }
    }

    /// Must be `address/prefix length` as every reader takes it: no leading zeros, no bits beyond the prefix.
    pub fn cidr(&mut self, at: &At) {
        let strict = |text: &str| {
            let (ip, prefix) = text.split_once('/')?;
            let (ip, length) = (strict_ip(ip)?, prefix.parse::<u8>().ok()?);
            let bits = if ip.is_ipv4() { 32 } else { 128 };
            (length <= bits && length.to_string() == prefix && super::networking::masked(ip, length) == ip)
                .then_some(())
        };
        if strict(at.str().trim()).is_none() {
            self.invalid(at, "must be a valid CIDR value in canonical form, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }

    /// Keys and values must be label names and values; every complaint stands at the map itself.
    pub fn labels(&mut self, at: &At) {
        for (key, value) in at.entries() {
            for complaint in names::qualified_name(key).into_iter().chain(names::label_value(value.str())) {
                self.invalid(at, complaint);
            }
        }
    }

    /// Keys must be qualified names (of any case), and the whole at most 256 KiB.
    pub fn annotations(&mut self, at: &At) {
        let mut total_bytes = 0;
        for (key, value) in at.entries() {
            total_bytes += key.len() + value.len();
            for complaint in names::qualified_name(&key.to_lowercase()) {
                self.invalid(at, complaint);
            }
        }
        if total_bytes > 256 * 1024 {
            self.too_long(at, 256 * 1024);
        }
    }

    /// The metadata of a template: labels and annotations, nothing else.
    pub fn template_meta(&mut self, at: &At) {
        self.annotations(&at.get("annotations"));
        self.labels(&at.get("labels"));
        for (field, value) in at.entries().filter(|(_, value)| !value.is_empty()) {
            if !["annotations", "labels"].contains(&field) {
                // Upstream makes the path of the field's name in Go.
                let field = if field == "uid" { "uID" } else { field };
                self.forbidden(&value.under(at.path.child(field)), "cannot be set");
            }
        }
    }

    /// A list of `metav1.Condition`.
    pub fn conditions(&mut self, at: &At) {
        const MAX_REASON_BYTES: usize = 1024;
        const MAX_MESSAGE_BYTES: usize = 32 * 1024;
        let well_formed = |reason: &str| {
            reason.starts_with(|c: char| c.is_ascii_alphabetic())
                && reason.bytes().all(|b| b.is_ascii_alphanumeric() || b"_,:".contains(&b))
                && !reason.ends_with([',', ':'])
        };
        let mut seen: Vec<&str> = Vec::new();
        for condition in at.items() {
            let (ty, reason, message) = (condition.get("type"), condition.get("reason"), condition.get("message"));
            if seen.contains(&ty.str()) {
                self.duplicate(&ty);
            }
            seen.push(ty.str());
            self.format(&ty, names::qualified_name);
            self.always_one_of(&condition.get("status"), &["False", "True", "Unknown"]);
            self.non_negative(&condition.get("observedGeneration"));
            if !condition.get("lastTransitionTime").is_set() {
                self.required(&condition.get("lastTransitionTime"), "");
            }
            if self.present(&reason) && !well_formed(reason.str()) {
                self.invalid(&reason, "must be a word of letters, digits, '_', ',' and ':'");
            }
            for (text, max_bytes) in [(reason, MAX_REASON_BYTES), (message, MAX_MESSAGE_BYTES)] {
                if text.len() > max_bytes {
                    self.too_long(&text, max_bytes);
                }
            }
        }
    }

    /// A `metav1.LabelSelector`.
    pub fn label_selector(&mut self, at: &At) {
        self.labels(&at.get("matchLabels"));
        for expression in at.get("matchExpressions").items() {
            let values = expression.get("values");
            match expression.get("operator").str() {
                "In" | "NotIn" if values.is_empty() => {
                    self.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    self.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => self.invalid(&expression.get("operator"), "not a valid selector operator"),
            }
            self.format(&expression.get("key"), names::qualified_name);
            for value in values.items() {
                self.format(&value, names::label_value);
            }
        }
    }

    /// A field that may not change; an absent one equals an empty one.
    pub fn immutable(&mut self, new: &At, old: &At) {
        if !same(new.value, old.value) {
            self.invalid(new, "field is immutable");
        }
    }

    /// A quantity of a resource: not negative, and whole for countable resources.
    pub fn resource_quantity(&mut self, resource: &str, at: &At) {
        let amount = at.quantity();
        if amount < Quantity::default() {
            self.invalid(at, "must be greater than or equal to 0");
        }
        if super::core::quantities::is_integer(resource) && amount.milli() % 1000 != 0 {
            self.invalid(at, "must be an integer");
        }
    }

    /// An int or a percentage, as rolling updates and budgets have it.
    pub fn int_or_percent(&mut self, at: &At) {
        match at.value {
            Value::String(s) => {
                let digits = s.strip_suffix('%').unwrap_or_default();
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    self.invalid(at, "a valid percent string must be a numeric string followed by an ending '%'");
                }
            }
            Value::Number(_) => self.non_negative(at),
            _ => self.invalid(at, "must be an integer or percentage (e.g '5%')"),
        }
    }
}

/// Equality of canonical values in which an absent and an empty list are one thing (upstream's semantic equality).
/// Canonical form has no empty maps: `{}` is a struct without members, which an absent one does not equal.
pub fn same(a: &Value, b: &Value) -> bool {
    let hollow = |v: &Value| match v {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| y.get(k).map_or_else(|| hollow(v), |w| same(v, w)))
                && y.iter().all(|(k, w)| x.contains_key(k) || hollow(w))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same(v, w)),
        _ => a == b || (hollow(a) && hollow(b)),
    }
}

/// Parses an address as upstream's older fields do: leading zeros in IPv4 octets pass.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let octets: Vec<u8> =
        text.split('.').map(|part| part.parse().ok().filter(|_| !part.starts_with('+'))).collect::<Option<_>>()?;
    let octets: [u8; 4] = octets.try_into().ok()?;
    Some(octets.into())
}

/// Parses an address that has one reading: no leading zeros, no IPv4 address in IPv6 clothes.
pub fn strict_ip(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = text.parse().ok()?;
    (!matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())).then_some(ip)
}

/// Parses `address/prefix` (host bits may be set).
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, prefix) = text.split_once('/')?;
    let ip = parse_ip(ip)?;
    let prefix: u8 = prefix.parse().ok()?;
    (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, prefix))
}

/// The warning about an address that is not written the canonical way.
pub fn odd_ip(field: &str, text: &str) -> Option<String> {
    let ip = parse_ip(text)?;
    (ip.to_string() != text).then(|| {
        format!("{field}: non-standard IP address \"{text}\" will be considered invalid in a future Kubernetes release: use \"{ip}\"")
    })
}

/// The warnings about a range that is not written the canonical way, or whose address is none of a network.
pub fn odd_cidr(field: &str, text: &str) -> Vec<String> {
    let Some((ip, prefix)) = parse_cidr(text) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let network = super::networking::masked(ip, prefix);
    if network != ip {
        found.push(format!("{field}: CIDR value \"{text}\" is ambiguous in this context (should be \"{network}/{prefix}\" or \"{ip}/{}\"?)", if ip.is_ipv4() { 32 } else { 128 }));
    }
    if format!("{ip}/{prefix}") != text {
        found.push(format!("{field}: non-standard CIDR value \"{text}\" will be considered invalid in a future Kubernetes release: use \"{network}/{prefix}\""));
    }
    found
}

/// Are these exactly one address of each family (or one of a kind)? More than one of a family is not dual stack.
pub fn dual_stack(ips: &[IpAddr]) -> bool {
    ips.iter().any(IpAddr::is_ipv4) && ips.iter().any(IpAddr::is_ipv6)
}
