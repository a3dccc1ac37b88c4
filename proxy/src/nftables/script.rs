//! One transaction for `nft -f -`. Pure.
//!
//! The order matters: what is referred to must be there before, and must not be referred to any more when it goes. Chains
//! that are not needed any more are only emptied: kernels before 6.2 take a moment to notice that no element leads to them,
//! so they are deleted a while later.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::render::{ElementKey, Parts, Value};
use crate::core::Family;

/// What a transaction does besides making the frame.
#[derive(Debug, Default)]
pub struct Transaction<'a> {
    /// Chains to be written whole.
    pub chains: Vec<&'a (String, Vec<String>)>,
    /// Chains to be emptied.
    pub stale: BTreeSet<String>,
    /// Sets of clients to be deleted.
    pub forget: BTreeSet<String>,
    /// Sets of clients to be made, with the seconds that clients are remembered.
    pub remember: Vec<(&'a str, u32)>,
    /// Elements with the values before and after.
    pub elements: BTreeMap<ElementKey, (Option<Value>, Option<Value>)>,
}

/// What one service's parts were, and are.
pub fn difference<'a>(old: &'a Parts, new: &'a Parts) -> Transaction<'a> {
    let was: BTreeMap<&str, &Vec<String>> = old.chains.iter().map(|(name, rules)| (name.as_str(), rules)).collect();
    let is: BTreeSet<&str> = new.chains.iter().map(|(name, _)| name.as_str()).collect();
    let before: BTreeMap<&str, u32> = old.affinity.iter().map(|(name, seconds)| (name.as_str(), *seconds)).collect();
    let after: BTreeMap<&str, u32> = new.affinity.iter().map(|(name, seconds)| (name.as_str(), *seconds)).collect();
    let forget: BTreeSet<String> = before
        .iter()
        .filter(|(name, seconds)| after.get(*name) != Some(seconds))
        .map(|(n, _)| (*n).to_owned())
        .collect();
    let remembers_anew = |(_, rules): &&(String, Vec<String>)| {
        // a set that is made again must be empty of references meanwhile
        forget.iter().any(|set| rules.iter().any(|rule| rule.contains(&format!("@{set} "))))
    };
    let chains =
        new.chains.iter().filter(|c| was.get(c.0.as_str()) != Some(&&c.1) || remembers_anew(c)).collect::<Vec<_>>();
    Transaction {
        chains,
        stale: was.keys().filter(|name| !is.contains(*name)).map(|name| (*name).to_owned()).collect(),
        remember: after.into_iter().filter(|(name, seconds)| before.get(name) != Some(seconds)).collect(),
        forget,
        elements: BTreeMap::new(),
    }
}

impl Transaction<'_> {
    /// In nft's words, after those of `frame`.
    pub fn text(&self, family: Family, frame: &[String]) -> String {
        let table = format!("{} kube-proxy", family.nft());
        let address = if family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
        let mut out = String::new();
        // writing to a String cannot fail
        let mut add = |command: &str, what: std::fmt::Arguments<'_>| {
            let _ = writeln!(out, "{command} {table} {what}");
        };
        for (name, _) in &self.chains {
            add("add chain", format_args!("{name}"));
            add("flush chain", format_args!("{name}"));
        }
        for name in &self.stale {
            add("flush chain", format_args!("{name}"));
        }
        for ((container, key), (before, _)) in &self.elements {
            if before.is_some() {
                add("delete element", format_args!("{} {{ {key} }}", container.name()));
            }
        }
        for name in &self.forget {
            add("delete set", format_args!("{name}"));
        }
        for (name, seconds) in &self.remember {
            let flags = "flags dynamic,timeout";
            add("add set", format_args!("{name} {{ type {address} ; {flags} ; timeout {seconds}s ; }}"));
        }
        for (name, rules) in &self.chains {
            for rule in rules {
                add("add rule", format_args!("{name} {rule}"));
            }
        }
        for ((container, key), (_, after)) in &self.elements {
            let Some(Value { verdict, comment }) = after else { continue };
            let comment = if comment.is_empty() { String::new() } else { format!(" comment \"{comment}\"") };
            let verdict = if verdict.is_empty() { String::new() } else { format!(" : {verdict}") };
            add("add element", format_args!("{} {{ {key}{comment}{verdict} }}", container.name()));
        }
        let frame: String = frame.iter().flat_map(|line| [line, "\n"]).collect();
        frame + &out
    }
}
