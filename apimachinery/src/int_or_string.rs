//! `intstr.IntOrString`: a number, or text that is a number's name or a percentage.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A number or text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i32),
    /// A name or a percentage.
    Text(String),
}

impl IntOrString {
    /// From JSON; `None` when it is neither a 32-bit integer nor text.
    pub fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Number(n) => n.as_i64().and_then(|n| i32::try_from(n).ok()).map(Self::Int),
            Value::String(text) => Some(Self::Text(text.clone())),
            _ => None,
        }
    }

    /// The number, or the percentage of `total` rounded up or down; `None` for text that is no percentage.
    pub fn scaled(&self, total: i32, round_up: bool) -> Option<i32> {
        let percent = match self {
            Self::Int(number) => return Some(*number),
            Self::Text(text) => text.strip_suffix('%')?.parse::<i32>().ok()?,
        };
        let product = i64::from(percent) * i64::from(total);
        let scaled = if round_up {
            product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0)
        } else {
            product.div_euclid(100)
        };
        i32::try_from(scaled).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_percentages() {
        let percent = |s: &str| IntOrString::Text(s.to_owned());
        assert_eq!(percent("25%").scaled(10, true), Some(3));
        assert_eq!(percent("25%").scaled(10, false), Some(2));
        assert_eq!(IntOrString::Int(4).scaled(10, true), Some(4));
        assert_eq!(percent("http").scaled(10, true), None);
        assert_eq!(IntOrString::from_value(&serde_json::json!(1.5)), None);
    }
}
