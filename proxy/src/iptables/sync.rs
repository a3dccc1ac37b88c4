//! What `iptables-restore --noflush` must be told to get from one state of the tables to another. Pure.
//!
//! Chains that do not change are not mentioned, so that a change costs what it changes; other people's chains never are.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::names::SERVICE_PREFIXES;
use super::ruleset::{Ruleset, Table};

/// From one of our states to the next. Empty when nothing changes.
pub fn partial(old: &Ruleset, new: &Ruleset) -> String {
    let mut script = String::new();
    for ((name, old), (_, new)) in old.tables().into_iter().zip(new.tables()) {
        let gone = old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)).cloned().collect();
        let changed = |chain: &str, rules: &Vec<String>| old.chains.get(chain) != Some(rules);
        write_table(&mut script, name, new, changed, &gone, &[]);
    }
    script
}

/// From whatever is in the kernel (as `iptables-save` prints it) to a state: all our chains are written, stale ones of ours
/// removed, missing jumps put at the head of the built-in chains.
pub fn full(saved: &str, new: &Ruleset) -> String {
    let mut script = String::new();
    for (name, table) in new.tables() {
        let lines = table_lines(saved, name);
        let existing = lines.iter().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        let gone = existing
            .filter(|chain| SERVICE_PREFIXES.iter().any(|p| chain.starts_with(p)) && !table.chains.contains_key(*chain))
            .map(str::to_owned)
            .collect();
        let missing: Vec<String> = table
            .jumps
            .iter()
            .filter(|jump| {
                let (from, to) = (format!("-A {} ", jump.from), format!("-j {}", jump.to));
                !lines.iter().any(|line| line.starts_with(&from) && line.ends_with(&to))
            })
            .map(|jump| format!("-I {} 1 {}", jump.from, jump.rule()))
            .collect();
        write_table(&mut script, name, table, |_, _| true, &gone, &missing);
    }
    script
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
    gone: &BTreeSet<String>,
    jumps: &[String],
) {
    let chains: Vec<_> = table.chains.iter().filter(|(chain, rules)| changed(chain, rules)).collect();
    if chains.is_empty() && gone.is_empty() && jumps.is_empty() {
        return;
    }
    // writing to a String cannot fail
    let _ = writeln!(script, "*{name}");
    for chain in chains.iter().map(|(chain, _)| *chain).chain(gone) {
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
