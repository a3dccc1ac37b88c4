//! `resource.Quantity`: exact decimal amounts with SI, binary and exponent suffixes.
//!
//! Guarantees: a value is held exactly in billionths (finer parts round away from zero, as upstream does); parsing then
//! printing gives upstream's canonical form. Amounts above 2^63-1 are capped there.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Neg, Sub};
use std::str::FromStr;

/// Billionths per unit.
const NANO: i128 = 1_000_000_000;
/// Upstream's cap, in billionths.
const MAX: i128 = i64::MAX as i128 * NANO;
/// Digits (of mantissa and exponent) beyond which the cap or zero is reached anyway.
const MAX_EXPONENT: i32 = 60;

/// Which family of suffixes an amount was written with, and is printed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `m`, `k`, `M` …
    #[default]
    DecimalSi,
    /// `Ki`, `Mi` …
    BinarySi,
    /// `e3`, `e6` …
    DecimalExponent,
}

/// An amount of a resource.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// The text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseQuantityError;

impl Quantity {
    /// Whole units.
    pub fn from_value(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    /// Thousandths.
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format }
    }

    /// Parses upstream's syntax; see [`ParseQuantityError`].
    pub fn parse(text: &str) -> Result<Self, ParseQuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_end = rest.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseQuantityError);
        }
        let (base, exponent, format) = parse_suffix(suffix)?;
        let magnitude = scale(whole, fraction, base, exponent);
        // Below one unit the binary suffixes cannot show the amount.
        let format = if format == Format::BinarySi && magnitude < NANO { Format::DecimalSi } else { format };
        Ok(Self { nanos: if negative { -magnitude } else { magnitude }, format })
    }

    /// The family of suffixes it is printed with.
    pub fn format(&self) -> Format {
        self.format
    }

    /// `true` for nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        match self.nanos.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    /// Whole units, parts rounded away from zero, capped to the range of `i64`.
    pub fn value(&self) -> i64 {
        saturate(round_up(self.nanos, NANO))
    }

    /// Thousandths, parts rounded away from zero, capped to the range of `i64`.
    pub fn milli(&self) -> i64 {
        saturate(round_up(self.nanos, NANO / 1000))
    }
}

/// The sum; printed like the first unless that is zero.
impl Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

/// The difference; printed like the first unless that is zero.
impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self { nanos: -self.nanos, format: self.format }
    }
}

/// Amounts compare by value; the suffix family does not matter.
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;
    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        Self::parse(text)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANO {
            let (mut mantissa, mut power) = (self.nanos / NANO, 0);
            while mantissa % 1024 == 0 {
                mantissa /= 1024;
                power += 1;
            }
            return match BINARY.get(power) {
                Some(suffix) => write!(f, "{mantissa}{suffix}"),
                None => write!(f, "{}", self.nanos / NANO),
            };
        }
        let (mut mantissa, mut exponent) = (self.nanos, -9);
        while mantissa % 1000 == 0 && exponent < 18 {
            mantissa /= 1000;
            exponent += 3;
        }
        match self.format {
            Format::DecimalExponent if exponent != 0 => write!(f, "{mantissa}e{exponent}"),
            Format::DecimalExponent => write!(f, "{mantissa}"),
            Format::DecimalSi | Format::BinarySi => {
                let suffix = usize::try_from((exponent + 9) / 3).ok().and_then(|i| DECIMAL.get(i)).unwrap_or(&"");
                write!(f, "{mantissa}{suffix}")
            }
        }
    }
}

/// Powers of 1000 from -3.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
/// Powers of 1024 from 0.
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Base, exponent (of 10, or of 1024) and family of a suffix.
fn parse_suffix(suffix: &str) -> Result<(i128, i32, Format), ParseQuantityError> {
    if let Some(power) = (-3..).zip(DECIMAL).find_map(|(power, s)| (s == suffix).then_some(power)) {
        return Ok((10, power * 3, Format::DecimalSi));
    }
    if let Some(power) = (0..).zip(BINARY).skip(1).find_map(|(power, s)| (s == suffix).then_some(power)) {
        return Ok((1024, power, Format::BinarySi));
    }
    let digits = suffix.strip_prefix(['e', 'E']).ok_or(ParseQuantityError)?;
    let exponent: i32 = digits.parse().map_err(|_| ParseQuantityError)?;
    Ok((10, exponent, Format::DecimalExponent))
}

/// `whole.fraction × base^exponent` in billionths: parts below round up, more than the cap becomes the cap.
fn scale(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    // The decimal digits as one integer times 10^-places.
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let mut mantissa: i128 = 0;
    let mut places: i32 = 0;
    let mut lost = false;
    for (index, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        let after_point = index >= whole.len();
        if mantissa > i128::MAX / 100 {
            if !after_point {
                return MAX;
            }
            lost |= digit != b'0';
            continue;
        }
        mantissa = mantissa * 10 + i128::from(digit - b'0');
        places += i32::from(after_point);
    }
    if mantissa == 0 {
        return i128::from(lost);
    }
    let mut decimal = 9 - places;
    if base == 10 {
        decimal = decimal.saturating_add(exponent.clamp(-MAX_EXPONENT * 8, MAX_EXPONENT * 8));
    } else {
        for _ in 0..exponent {
            mantissa = mantissa.saturating_mul(base);
        }
    }
    let scaled = if decimal >= 0 {
        let factor = 10i128.checked_pow(decimal.unsigned_abs()).unwrap_or(i128::MAX);
        mantissa.saturating_mul(factor)
    } else {
        match 10i128.checked_pow(decimal.unsigned_abs()) {
            Some(divisor) => round_up(mantissa, divisor) + i128::from(lost && mantissa % divisor == 0),
            None => 1,
        }
    };
    scaled.min(MAX)
}

/// Divides, rounding away from zero.
fn round_up(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    match value % divisor {
        0 => quotient,
        rest => quotient + rest.signum(),
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text).unwrap().to_string()
    }

    #[test]
    fn prints_upstreams_canonical_form() {
        for (given, expected) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("-0", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1.5", "1500m"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1000Ki", "1000Ki"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("0.0001Ki", "102400u"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e5", "1200e3"),
            ("1e-3", "1e-3"),
            ("1E", "1E"),
            ("123456789", "123456789"),
            ("0.0000000001", "1n"),
            (".5", "500m"),
            ("5.", "5"),
            ("+1", "1"),
            ("-1.5Gi", "-1536Mi"),
            ("99999999999999999999", "9223372036854775807"),
            ("1e99", "9223372036854775807"),
            ("1e-99", "1e-9"),
            ("3000000000Gi", "3000000000Gi"),
            ("1025", "1025"),
            ("10Gi", "10Gi"),
            ("250M", "250M"),
        ] {
            assert_eq!(canonical(given), expected, "{given}");
        }
        for bad in ["", "x", "1x", "1.2.3", "1KI", "1ki", "--1", "1 ", " 1", "e3", ".", "1e", "1Kii", "1e3.5"] {
            assert!(Quantity::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rounds_up_and_compares() {
        let q = |s: &str| Quantity::parse(s).unwrap();
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("1500m").milli(), 1500);
        assert_eq!(q("100u").milli(), 1);
        assert_eq!(q("1Gi").value(), 1 << 30);
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1"), q("1000m"));
        assert_eq!((q("1Gi") + q("1Gi")).to_string(), "2Gi");
        assert_eq!((q("0") + q("1Ki")).to_string(), "1Ki");
        assert_eq!((q("2") - q("500m")).to_string(), "1500m");
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn canonical_form_is_stable(text in "[+-]?[0-9]{1,30}(\\.[0-9]{0,30})?(|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]{1,2}|e-[0-9]{1,2})") {
            let first = Quantity::parse(&text).unwrap();
            let second = Quantity::parse(&first.to_string()).unwrap();
            prop_assert_eq!(first, second);
            prop_assert_eq!(first.to_string(), second.to_string());
        }
    }
}
