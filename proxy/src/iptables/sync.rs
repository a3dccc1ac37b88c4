//! What `iptables-restore --noflush` must be told to get from one state of the tables to another. Pure.
//!
//! Chains that do not change are not mentioned, so that a change costs what it changes; other people's chains never are.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::names::{CANARY, is_ours};
use super::ruleset::{Ruleset, Table};

/// Chains that the kernel calls.
pub const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// From one of our states to the next. Empty when nothing changes.
pub fn partial(old: &Ruleset, new: &Ruleset) -> String {
    let mut script = String::new();
    for ((name, old), (_, new)) in old.tables().into_iter().zip(new.tables()) {
        let gone = old.chains.keys().map(String::as_str).filter(|chain| !new.chains.contains_key(*chain)).collect();
        let changed = |chain: &str, rules: &Vec<String>| old.chains.get(chain) != Some(rules);
        write_table(&mut script, name, new, changed, &gone, &[]);
    }
    script
}

/// `iptables-nft-restore` takes a time that grows with the square of the rules that it is given at once.
const BATCH_RULES: usize = 2000;

/// Chains of Services, those that nothing of a Service leads to first.
const ORDER: [&str; 6] = ["KUBE-FW-", "KUBE-EXT-", "KUBE-SVL-", "KUBE-SVC-", "KUBE-SEP-", "KUBE-MARK-MASQ"];

/// From whatever is in the kernel (as `iptables-save` prints it) to a state: all our chains are written, stale ones of ours
/// removed (of whatever mode), jumps put at the head of the built-in chains where they are missing, stale jumps deleted.
/// The empty state leaves nothing of ours.
///
/// It is one script unless `batched`; then those before the last write chains that nothing new leads to yet.
pub fn full(saved: &str, new: &Ruleset, batched: bool) -> Vec<String> {
    let mut scripts = Vec::new();
    if batched && new.nat.len() > BATCH_RULES {
        write_batches(&mut scripts, &new.nat);
    }
    let first = scripts.is_empty();
    let mut script = String::new();
    for (name, table) in new.tables() {
        let written = |chain: &str| !first && name == "nat" && ORDER.iter().any(|prefix| chain.starts_with(prefix));
        write_full(&mut script, name, &table_lines(saved, name), table, |chain| !written(chain));
    }
    if new.nat.chains.is_empty() {
        write_full(&mut script, "mangle", &table_lines(saved, "mangle"), &Table::default(), |_| true);
    }
    scripts.push(script);
    scripts
}

/// A Service's chains stand in one batch: for a jump out of it, the program would look at all chains there are.
fn write_batches(scripts: &mut Vec<String>, nat: &Table) {
    let (mut batch, mut seen, mut count) = (Table::default(), BTreeSet::new(), 0);
    let mut flush = |batch: &mut Table| {
        let mut script = String::new();
        write_table(&mut script, "nat", batch, |_, _| true, &BTreeSet::new(), &[]);
        batch.chains.clear();
        scripts.push(script);
    };
    for first in ORDER.iter().flat_map(|prefix| nat.chains.keys().filter(move |chain| chain.starts_with(prefix))) {
        let mut open = vec![first.as_str()];
        while let Some(chain) = open.pop() {
            let Some(rules) = nat.chains.get(chain).filter(|_| seen.insert(chain)) else { continue };
            open.extend(rules.iter().filter_map(|rule| rule.split("-j ").nth(1)?.split(' ').next()));
            count += rules.len();
            batch.chains.insert(chain.to_owned(), rules.clone());
        }
        if count >= BATCH_RULES {
            flush(&mut batch);
            count = 0;
        }
    }
    flush(&mut batch);
}

fn write_full(script: &mut String, name: &str, lines: &[&str], table: &Table, changed: impl Fn(&str) -> bool) {
    let wanted = |chain: &str| table.chains.contains_key(chain) || (chain == CANARY && !table.chains.is_empty());
    let gone: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
        .filter(|chain| is_ours(chain) && !wanted(chain))
        .collect();
    let (mut jumps, mut found) = (Vec::new(), BTreeSet::new());
    for rule in lines.iter().filter_map(|line| line.strip_prefix("-A ")) {
        let (from, to) = (rule.split(' ').next().unwrap_or_default(), rule.rsplit(' ').next().unwrap_or_default());
        if table.jumps.iter().any(|jump| jump.from == from && jump.to == to) {
            found.insert((from, to));
        } else if !is_ours(from) && (gone.contains(to) || (BUILT_IN.contains(&from) && is_ours(to))) {
            jumps.push(format!("-D {rule}"));
        }
    }
    let missing = table.jumps.iter().filter(|jump| !found.contains(&(jump.from, jump.to)));
    jumps.extend(missing.map(|jump| format!("-I {} 1 {}", jump.from, jump.rule())));
    write_table(script, name, table, |chain, _| changed(chain), &gone, &jumps);
}

/// The chains (or sets, as `kind` says) of one table in what `nft list chains` (or `sets`) prints.
pub fn names<'a>(listed: &'a str, family: &str, table: &str, kind: &str) -> Vec<&'a str> {
    let head = format!("table {family} {table} {{");
    let lines = listed.lines().skip_while(|line| *line != head).skip(1).take_while(|line| *line != "}");
    lines.filter_map(|line| line.trim().strip_prefix(kind)?.strip_prefix(' ')?.strip_suffix(" {")).collect()
}

/// The lines of one table of a dump.
fn table_lines<'a>(saved: &'a str, table: &str) -> Vec<&'a str> {
    let begin = format!("*{table}");
    saved.lines().skip_while(|line| *line != begin).skip(1).take_while(|line| *line != "COMMIT").collect()
}

fn write_table(
    script: &mut String,
    name: &str,
    table: &Table,
    changed: impl Fn(&str, &Vec<String>) -> bool,
    gone: &BTreeSet<&str>,
    jumps: &[String],
) {
    let chains: Vec<_> = table.chains.iter().filter(|(chain, rules)| changed(chain, rules)).collect();
    if chains.is_empty() && gone.is_empty() && jumps.is_empty() {
        return;
    }
    // writing to a String cannot fail
    let _ = writeln!(script, "*{name}");
    for chain in chains.iter().map(|(chain, _)| chain.as_str()).chain(gone.iter().copied()) {
        let _ = writeln!(script, ":{chain} - [0:0]");
    }
    for jump in jumps {
        let _ = writeln!(script, "{jump}");
    }
    for (chain, rules) in chains {
        for rule in rules {
            let _ = writeln!(script, "-A {chain} {rule}");
        }
    }
    for chain in gone {
        let _ = writeln!(script, "-X {chain}");
    }
    script.push_str("COMMIT\n");
}
