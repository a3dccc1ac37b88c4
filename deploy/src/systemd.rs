//! The same units under systemd, where it is the machine's init.

use std::path::Path;

use crate::units::Unit;

/// Prefix of our units' names.
pub const PREFIX: &str = "hardway-";

/// Whether systemd is running this machine.
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A unit file's name.
pub fn unit_name(unit: &Unit) -> String {
    format!("{PREFIX}{}.service", unit.name)
}

/// A unit file's text. Each is ordered after the one before it; none requires another, because every daemon waits for
/// what it needs by itself.
pub fn render(unit: &Unit, program: &Path, after: Option<&Unit>) -> String {
    let order = after.map_or_else(String::new, |unit| format!(" {}", unit_name(unit)));
    let arguments: Vec<String> = unit.command.iter().skip(1).map(|a| quote(a)).collect();
    // pods outlive the runtime and the kubelet: a restart of those two must not take them along
    let kill =
        if matches!(unit.name.as_str(), "containerd" | "kubelet") { "KillMode=process\nDelegate=yes\n" } else { "" };
    format!(
        "[Unit]\nDescription={}\nAfter=network-online.target{order}\nWants=network-online.target\n\n\
         [Service]\nExecStart={} {}\nRestart=always\nRestartSec=1\nLimitNOFILE=1048576\n{kill}\n\
         [Install]\nWantedBy=multi-user.target\n",
        unit.description,
        program.display(),
        arguments.join(" \\\n  "),
    )
}

/// systemd reads `%` and quotes itself.
fn quote(argument: &str) -> String {
    let escaped = argument.replace('%', "%%");
    if escaped.contains([' ', '"', '\'', '\\']) {
        format!("\"{}\"", escaped.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        escaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Ready;

    #[test]
    fn a_unit_file_is_complete() {
        let unit = |name: &str| Unit {
            name: name.to_owned(),
            description: "A thing".to_owned(),
            command: vec!["thing".to_owned(), "--a=b c".to_owned(), "--rate=5%".to_owned()],
            ready: Ready::Port(1),
        };
        let text = render(&unit("kubelet"), Path::new("/opt/thing"), Some(&unit("containerd")));
        assert!(text.contains("ExecStart=/opt/thing \"--a=b c\" \\\n  --rate=5%%\n"), "{text}");
        assert!(text.contains("After=network-online.target hardway-containerd.service\n"));
        assert!(text.contains("KillMode=process"));
    }
}
