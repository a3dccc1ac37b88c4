//! Expressions that select devices.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use cel::{Bindings, Budget, Env, PER_CALL_LIMIT, Program, Tree, Type};
use serde_json::{Value, json};

use crate::objects::device::{Attribute, Device, DeviceSelector};

static ENV: LazyLock<Env> = LazyLock::new(Env::of_device);

/// A selector, ready to be asked.
#[derive(Debug)]
pub(super) struct Selector {
    program: Program,
    /// Texts in the expression: any of them may be a domain, and one that a device has nothing of is empty for it.
    texts: Vec<String>,
}

impl Selector {
    /// Compiles a selector.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub(super) fn new(selector: &DeviceSelector) -> Result<Self, String> {
        let source = &selector.cel.expression;
        let program = Program::compile_as(source, &ENV, &[Type::Bool]).map_err(|e| e.to_string())?;
        Ok(Self { program, texts: source.split(['"', '\'']).skip(1).step_by(2).map(str::to_owned).collect() })
    }

    /// Whether it selects a device; one for which it fails is not selected.
    pub(super) fn matches(&self, driver: &str, device: &Device) -> bool {
        let tree = self.tree(driver, device);
        let mut budget = Budget::new(PER_CALL_LIMIT);
        let result = self.program.eval(&Bindings::new().with_tree("device", &tree), &mut budget);
        result.is_ok_and(|value| value == Value::Bool(true))
    }

    fn tree<'a>(&'a self, driver: &'a str, device: &'a Device) -> Tree<'a> {
        let attributes = device.attributes.iter().filter_map(|(name, value)| Some((name.as_str(), leaf(value)?)));
        let capacity = device.capacity.iter().map(|(name, amount)| (name.as_str(), Tree::Quantity(&amount.value)));
        Tree::Map(vec![
            ("driver", Tree::Text(driver)),
            ("attributes", self.by_domain(driver, &attributes.collect::<Vec<_>>())),
            ("capacity", self.by_domain(driver, &capacity.collect::<Vec<_>>())),
            ("allowMultipleAllocations", Tree::Bool(device.allow_multiple_allocations)),
        ])
    }

    fn by_domain<'a>(&'a self, driver: &'a str, entries: &[(&'a str, Tree<'a>)]) -> Tree<'a> {
        let domain = |name: &'a str| name.split_once('/').unwrap_or((driver, name));
        let mut domains: BTreeSet<&str> = entries.iter().map(|(name, _)| domain(name).0).collect();
        domains.extend(self.texts.iter().map(String::as_str));
        let of = |d: &'a str| entries.iter().filter(move |(name, _)| domain(name).0 == d);
        let inner = |d: &'a str| Tree::Map(of(d).map(|(name, value)| (domain(name).1, value.clone())).collect());
        Tree::Map(domains.into_iter().map(|d| (d, inner(d))).collect())
    }
}

fn leaf(attribute: &Attribute) -> Option<Tree<'_>> {
    let plain = attribute.int.as_ref().or(attribute.bool.as_ref()).or(attribute.string.as_ref());
    plain.map(Tree::Json).or_else(|| attribute.version.as_deref().map(Tree::Version))
}

/// An attribute by its qualified name; a driver's own ones may be written without the domain.
pub(super) fn attribute<'a>(driver: &str, device: &'a Device, name: &str) -> Option<&'a Attribute> {
    let own = || device.attributes.get(name.strip_prefix(driver)?.strip_prefix('/')?);
    device.attributes.get(name).or_else(own)
}

/// A result's part of the configuration, for the requests named.
pub(super) fn config(source: &str, requests: &[String], opaque: &Value) -> Value {
    json!({"source": source, "requests": requests, "opaque": opaque})
}
