//! Rules as data: tables of chains of rules, and the jumps that lead into them from the built-in chains.

use std::collections::BTreeMap;

/// A jump from a built-in chain, kept at its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// Built-in chain.
    pub from: &'static str,
    /// Our chain.
    pub to: &'static str,
    /// Further matches.
    pub matches: &'static str,
    /// For people; may be empty.
    pub comment: &'static str,
}

/// A jump, short enough to stand in a table.
pub const fn jump(from: &'static str, to: &'static str, matches: &'static str, comment: &'static str) -> Jump {
    Jump { from, to, matches, comment }
}

impl Jump {
    /// The rule's text without chain.
    pub fn rule(&self) -> String {
        let comment = match self.comment {
            "" => String::new(),
            text => format!("-m comment --comment \"{text}\""),
        };
        let target = format!("-j {}", self.to);
        [self.matches, &comment, &target].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// One table's part that is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Chains and their rules (without `-A CHAIN`).
    pub chains: BTreeMap<String, Vec<String>>,
    /// Ways in.
    pub jumps: Vec<Jump>,
}

impl Table {
    /// Number of rules.
    pub fn len(&self) -> usize {
        self.chains.values().map(Vec::len).sum()
    }

    /// True without rules.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a rule to a chain, making it if need be.
    pub fn rule(&mut self, chain: &str, rule: impl Into<String>) {
        self.chain(chain).push(rule.into());
    }

    /// A chain, made if need be.
    pub fn chain(&mut self, chain: &str) -> &mut Vec<String> {
        self.chains.entry(chain.to_owned()).or_default()
    }
}

/// Everything of ours in one family's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// What may pass.
    pub filter: Table,
    /// Where it goes.
    pub nat: Table,
}

impl Ruleset {
    /// Tables by name, in the order in which they are written.
    pub fn tables(&self) -> [(&'static str, &Table); 2] {
        [("filter", &self.filter), ("nat", &self.nat)]
    }

    /// Tables, in the same order.
    pub fn tables_mut(&mut self) -> [&mut Table; 2] {
        [&mut self.filter, &mut self.nat]
    }
}
