//! Packet filter chains that CNI plugins and the node's daemons leave in place by design (they are cheap to keep), removed
//! once nothing of ours uses them.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Chains by prefix: kube-proxy's and the kubelet's, the portmap plugin's.
const PREFIXES: [&str; 2] = ["KUBE-", "CNI-HOSTPORT-"];

/// Removes our chains and the jumps to them, for both address families.
pub fn remove(left: &mut Vec<String>) {
    for family in ["iptables", "ip6tables"] {
        // a kernel without IPv6 tables has nothing to remove either
        let Ok(saved) = Command::new(format!("{family}-save")).output() else { continue };
        let script = removal(&String::from_utf8_lossy(&saved.stdout));
        if !script.is_empty()
            && let Err(why) = restore(family, &script)
        {
            left.push(format!("{family} chains: {why}"));
        }
    }
}

fn restore(family: &str, script: &str) -> Result<(), String> {
    let mut child = Command::new(format!("{family}-restore"))
        .arg("--noflush")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // when the program ended early its own words are the better message
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

fn is_ours(chain: &str) -> bool {
    PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// From what `iptables-save` prints to what `iptables-restore --noflush` needs: per table, delete the jumps from other
/// people's chains, then flush and delete ours.
fn removal(saved: &str) -> String {
    let mut script = String::new();
    let (mut table, mut jumps, mut chains) = (String::new(), Vec::new(), Vec::new());
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
        } else if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            if is_ours(chain) {
                chains.push(chain.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words: Vec<&str> = rule.split(' ').collect();
            let target = words.iter().position(|w| *w == "-j").and_then(|at| words.get(at + 1)).copied();
            if !is_ours(words[0]) && target.is_some_and(is_ours) {
                jumps.push(format!("-D {rule}\n"));
            }
        } else if line == "COMMIT" && !chains.is_empty() {
            let flush: String = chains.iter().map(|chain| format!(":{chain} - [0:0]\n")).collect();
            let delete: String = chains.iter().map(|chain| format!("-X {chain}\n")).collect();
            script.push_str(&format!("*{table}\n{flush}{}{delete}COMMIT\n", jumps.concat()));
            (jumps, chains) = (Vec::new(), Vec::new());
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peoples_rules_stay() {
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:MINE - [0:0]\n\
            -A PREROUTING -m comment --comment \"a b\" -j KUBE-SERVICES\n-A PREROUTING -j MINE\n\
            -A KUBE-SERVICES -j MINE\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n";
        let script = "*nat\n:KUBE-SERVICES - [0:0]\n-D PREROUTING -m comment --comment \"a b\" -j KUBE-SERVICES\n\
            -X KUBE-SERVICES\nCOMMIT\n";
        assert_eq!(removal(saved), script);
    }
}
