//! Puts rulesets into the kernel through `iptables-save` and `iptables-restore`; remembers what it wrote so that the next
//! write is the difference. After a failure, or when someone flushed the tables, everything is written again.

use std::collections::BTreeSet;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::names::SERVICE_PREFIXES;
use super::{Ruleset, sync};
use crate::core::Family;

/// A chain that holds nothing; when it is gone, somebody flushed the table.
const CANARY: &str = "KUBE-PROXY-CANARY";
const TABLES: [&str; 3] = ["mangle", "nat", "filter"];
/// Chains that are not per service.
const FIXED: [&str; 8] = [
    "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL",
    "KUBE-POSTROUTING", "KUBE-MARK-MASQ", CANARY,
];

/// Why rules are not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program is missing.
    #[error("cannot run {program}: {source} (package iptables)")]
    Run {
        /// Which.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// The program refuses.
    #[error("{program} refuses: {words}{hint}")]
    Refused {
        /// Which.
        program: String,
        /// What it said.
        words: String,
        /// What is probably missing.
        hint: String,
    },
}

/// One family's tables.
#[derive(Debug)]
pub struct Executor {
    family: Family,
    written: Option<Ruleset>,
}

impl Executor {
    /// Knows nothing of the kernel's state yet.
    pub fn new(family: Family) -> Self {
        Self { family, written: None }
    }

    fn program(&self, what: &str) -> String {
        let base = if self.family == Family::V4 { "iptables" } else { "ip6tables" };
        format!("{base}{what}")
    }

    /// Whether the kernel and the programs do this family at all.
    pub async fn is_supported(&self) -> bool {
        output(&self.program(""), &["-w", "5", "-t", "nat", "-S", "POSTROUTING"]).await.is_ok()
    }

    /// Whether the next write is a difference.
    pub fn is_partial(&self) -> bool {
        self.written.is_some()
    }

    /// Forgets what was written, so that the next [`Executor::apply`] writes everything.
    pub fn forget(&mut self) {
        self.written = None;
    }

    /// Makes the kernel's rules equal to `rules`; returns what was written.
    ///
    /// # Errors
    /// What the programs said; the next call writes everything.
    pub async fn apply(&mut self, rules: &Ruleset) -> Result<String, IptablesError> {
        let script = match self.written.take() {
            Some(written) => sync::partial(&written, rules),
            None => {
                let saved = output(&self.program("-save"), &[]).await?;
                self.make_canaries().await?;
                sync::full(&saved, rules)
            }
        };
        if !script.is_empty() {
            self.restore(&script).await?;
        }
        self.written = Some(rules.clone());
        Ok(script)
    }

    /// Whether what was written is still there; forgets it otherwise, so that the next [`Executor::apply`] writes all.
    pub async fn check(&mut self) -> bool {
        for table in TABLES {
            if output(&self.program(""), &["-w", "5", "-t", table, "-S", CANARY]).await.is_err() {
                self.written = None;
                return false;
            }
        }
        true
    }

    async fn make_canaries(&self) -> Result<(), IptablesError> {
        let script: String = TABLES.iter().map(|table| format!("*{table}\n:{CANARY} - [0:0]\nCOMMIT\n")).collect();
        self.restore(&script).await
    }

    async fn restore(&self, script: &str) -> Result<(), IptablesError> {
        let program = self.program("-restore");
        let run = |source| IptablesError::Run { program: program.clone(), source };
        let mut child = Command::new(&program)
            .args(["-w", "5", "--noflush"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(run)?;
        if let Some(mut stdin) = child.stdin.take() {
            // a program that ended early says why by itself
            let _ = stdin.write_all(script.as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(run)?;
        if output.status.success() {
            return Ok(());
        }
        Err(refused(&program, &String::from_utf8_lossy(&output.stderr), script))
    }

    /// Removes all chains and jumps of this daemon.
    ///
    /// # Errors
    /// What the programs said.
    pub async fn cleanup(&mut self, jumps_of: &Ruleset) -> Result<(), IptablesError> {
        let saved = output(&self.program("-save"), &[]).await?;
        let script = removal(&saved, jumps_of);
        if script.is_empty() { Ok(()) } else { self.restore(&script).await }
    }
}

/// From what `iptables-save` prints to a script that deletes our jumps and chains and nothing else.
fn removal(saved: &str, rules: &Ruleset) -> String {
    let ours = |chain: &str| FIXED.contains(&chain) || SERVICE_PREFIXES.iter().any(|p| chain.starts_with(p));
    let known = |from: &str, to: &str| {
        rules.tables().iter().any(|(_, table)| table.jumps.iter().any(|j| j.from == from && j.to == to))
    };
    let mut script = String::new();
    for table in saved.split('*').skip(1) {
        let mut lines = table.lines();
        let name = lines.next().unwrap_or_default();
        let (mut flush, mut jumps, mut delete) = (String::new(), String::new(), String::new());
        for line in lines {
            if let Some(chain) = line.strip_prefix(':').and_then(|l| l.split(' ').next()).filter(|c| ours(c)) {
                flush.push_str(&format!(":{chain} - [0:0]\n"));
                delete.push_str(&format!("-X {chain}\n"));
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let (from, to) =
                    (rule.split(' ').next().unwrap_or_default(), rule.rsplit(' ').next().unwrap_or_default());
                if known(from, to) {
                    jumps.push_str(&format!("-D {rule}\n"));
                }
            }
        }
        if !flush.is_empty() {
            script.push_str(&format!("*{name}\n{flush}{jumps}{delete}COMMIT\n"));
        }
    }
    script
}

async fn output(program: &str, arguments: &[&str]) -> Result<String, IptablesError> {
    let run = |source| IptablesError::Run { program: program.to_owned(), source };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().await.map_err(run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(refused(program, &String::from_utf8_lossy(&output.stderr), ""))
}

/// The program names a line at most. In the nft variant that is the rule; the match or target in it is what the kernel may
/// lack. The legacy kernel refuses a whole table at its COMMIT: then what the table uses is compared with what there is.
fn refused(program: &str, words: &str, script: &str) -> IptablesError {
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
            let missing = lacking(&extensions(table.iter().copied()), &known_to_legacy_kernel(program));
            if missing.is_empty() { String::new() } else { format!(" (the kernel lacks {})", missing.join(", ")) }
        }
        Some(rule) => {
            let used = extensions(std::iter::once(rule));
            let modules = used.iter().map(|name| format!("xt_{name}")).collect::<Vec<_>>().join(", ");
            format!(" (rule: {rule}; does the kernel have {modules}?)")
        }
    };
    IptablesError::Refused { program: program.to_owned(), words: words.trim().replace('\n', " "), hint }
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
    fn cleanup_leaves_other_peoples_rules() {
        let settings = crate::iptables::tests::settings();
        let rules = crate::iptables::render(&settings, &crate::core::Desired::default());
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n:KUBE-FORWARD - [0:0]\n-A INPUT -j ACCEPT\n\
            -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\nCOMMIT\n";
        let script = "*filter\n:KUBE-FORWARD - [0:0]\n\
            -D FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n-X KUBE-FORWARD\nCOMMIT\n";
        assert_eq!(removal(saved, &rules), script);
    }

    #[test]
    fn a_refused_rule_names_what_the_kernel_may_lack() {
        let script = "*nat\n-A KUBE-X -m statistic --mode random -j KUBE-Y\nCOMMIT\n";
        let error = refused("iptables-restore", "iptables-restore: line 2 failed\n", script).to_string();
        assert!(error.contains("xt_statistic"), "{error}");
        let used = extensions(script.lines());
        assert_eq!(lacking(&used, &BTreeSet::from(["conntrack".to_owned()])), ["xt_statistic"]);
        assert_eq!(lacking(&used, &BTreeSet::new()), Vec::<String>::new());
    }
}
