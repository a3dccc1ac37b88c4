//! One family's tables in the kernel, through `iptables-save` and `iptables-restore`; which rules, it is told.

use std::collections::BTreeSet;

use super::names::CANARY;
use super::{Ruleset, sync};
use crate::core::Family;
use crate::program::{WriteError, run};

const TABLES: [&str; 3] = ["mangle", "nat", "filter"];

/// Stateless access to the tables.
#[derive(Clone, Copy, Debug)]
pub struct Tables(pub Family);

impl Tables {
    fn program(self, what: &str) -> String {
        let base = if self.0 == Family::V4 { "iptables" } else { "ip6tables" };
        format!("{base}{what}")
    }

    /// Whether the kernel and the programs do this family at all.
    ///
    /// # Errors
    /// What the program said.
    pub async fn is_supported(self) -> Result<(), WriteError> {
        run(&self.program(""), &["-w", "5", "-t", "nat", "-S", "POSTROUTING"], "").await.map(drop)
    }

    /// Makes what is ours in the kernel equal to `rules`, whatever is there; the empty ruleset removes everything of ours.
    ///
    /// # Errors
    /// What the programs said.
    pub async fn write(self, rules: &Ruleset) -> Result<(), WriteError> {
        if !rules.nat.chains.is_empty() {
            let canaries: String = TABLES.iter().map(|t| format!("*{t}\n:{CANARY} - [0:0]\nCOMMIT\n")).collect();
            self.restore(&canaries).await?;
        }
        // the legacy variant copies the whole table each time
        let batched = run(&self.program("-restore"), &["--version"], "").await?.contains("nf_tables");
        if batched && let Ok(outline) = self.outline().await {
            match self.restore_all(&sync::full(&outline, rules, true)).await {
                Err(error) => tracing::debug!("not without looking at all rules: {error}"),
                done => return done,
            }
        }
        let saved = run(&self.program("-save"), &[], "").await?;
        self.restore_all(&sync::full(&saved, rules, batched)).await
    }

    async fn restore_all(self, scripts: &[String]) -> Result<(), WriteError> {
        for script in scripts {
            self.restore(script).await?;
        }
        Ok(())
    }

    /// All chains, but only the rules of the built-in ones, as `iptables-save` would print them. The nft variant of that takes
    /// minutes where there are many chains.
    async fn outline(self) -> Result<String, WriteError> {
        let listed = run("nft", &["list", "chains", self.0.nft()], "").await?;
        let mut out = String::new();
        for table in TABLES {
            out.push_str(&format!("*{table}\n"));
            for chain in sync::names(&listed, self.0.nft(), table, "chain") {
                out.push_str(&format!(":{chain} - [0:0]\n"));
                if sync::BUILT_IN.contains(&chain) {
                    let rules = run(&self.program(""), &["-w", "5", "-t", table, "-S", chain], "").await?;
                    let rules = rules.lines().filter(|line| line.starts_with("-A "));
                    out.extend(rules.flat_map(|rule| [rule, "\n"]));
                }
            }
            out.push_str("COMMIT\n");
        }
        Ok(out)
    }

    /// Whether what was written is still there.
    pub async fn check(self) -> bool {
        for table in TABLES {
            if run(&self.program(""), &["-w", "5", "-t", table, "-S", CANARY], "").await.is_err() {
                return false;
            }
        }
        true
    }

    /// Does what a script says; nothing when it is empty.
    ///
    /// # Errors
    /// What the program said, with what the kernel probably lacks.
    pub async fn restore(self, script: &str) -> Result<(), WriteError> {
        if script.is_empty() {
            return Ok(());
        }
        match run(&self.program("-restore"), &["-w", "5", "--noflush"], script).await {
            Ok(_) => Ok(()),
            Err(WriteError::Refused { program, words, .. }) => Err(explain(program, &words, script)),
            Err(other) => Err(other),
        }
    }
}

/// The program names a line at most. In the nft variant that is the rule; the match or target in it is what the kernel may
/// lack. The legacy kernel refuses a whole table at its COMMIT: then what the table uses is compared with what there is.
fn explain(program: String, words: &str, script: &str) -> WriteError {
    let number = words
        .split("line ")
        .nth(1)
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok());
    let line = number.and_then(|n| script.lines().nth(n.checked_sub(1)?));
    let hint = match line {
        None => String::new(),
        Some("COMMIT") => {
            let before: Vec<&str> = script.lines().take(number.unwrap_or(0)).collect();
            let table = before.rsplit(|line| line.starts_with('*')).next().unwrap_or_default();
            let missing = lacking(&extensions(table.iter().copied()), &known_to_legacy_kernel(&program));
            if missing.is_empty() { String::new() } else { format!(" (the kernel lacks {})", missing.join(", ")) }
        }
        Some(rule) => {
            let used = extensions(std::iter::once(rule));
            let modules = used.iter().map(|name| format!("xt_{name}")).collect::<Vec<_>>().join(", ");
            format!(" (rule: {rule}; does the kernel have {modules}?)")
        }
    };
    WriteError::Refused { program, words: words.replace('\n', " "), hint }
}

/// Matches and targets that rules need beyond what is always there; protocols are no modules of their own.
fn extensions<'a>(rules: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for rule in rules {
        let words: Vec<&str> = rule.split(' ').collect();
        for pair in words.windows(2) {
            match pair {
                ["-m", name] if !matches!(*name, "tcp" | "udp" | "sctp") => drop(out.insert((*name).to_owned())),
                ["-j", name] if !name.starts_with("KUBE-") && !matches!(*name, "ACCEPT" | "DROP" | "RETURN") => {
                    out.insert((*name).to_owned());
                }
                _ => {}
            }
        }
    }
    out
}

fn lacking(used: &BTreeSet<String>, known: &BTreeSet<String>) -> Vec<String> {
    // An empty list says that the kernel does not tell, not that it has nothing.
    if known.is_empty() { Vec::new() } else { used.difference(known).map(|name| format!("xt_{name}")).collect() }
}

fn known_to_legacy_kernel(program: &str) -> BTreeSet<String> {
    let family = if program.starts_with("ip6") { "ip6" } else { "ip" };
    ["matches", "targets"]
        .iter()
        .filter_map(|kind| std::fs::read_to_string(format!("/proc/net/{family}_tables_{kind}")).ok())
        .flat_map(|text| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_rule_names_what_the_kernel_may_lack() {
        let script = "*nat\n-A KUBE-X -m statistic --mode random -j KUBE-Y\nCOMMIT\n";
        let error = explain("iptables-restore".to_owned(), "iptables-restore: line 2 failed\n", script).to_string();
        assert!(error.contains("xt_statistic"), "{error}");
        let used = extensions(script.lines());
        assert_eq!(lacking(&used, &BTreeSet::from(["conntrack".to_owned()])), ["xt_statistic"]);
        assert_eq!(lacking(&used, &BTreeSet::new()), Vec::<String>::new());
    }
}
