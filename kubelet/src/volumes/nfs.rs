//! NFS: mounted by the node's own mount command, since the protocol's set-up lives there.

use std::time::Duration;

use k8s_openapi::api::core::v1::NFSVolumeSource;
use tokio::process::Command;

use super::{Mounted, empty_dir, mounts, volume_dir};
use crate::context::Context;
use crate::pods::types::Pod;

const TIMEOUT: Duration = Duration::from_secs(120);

/// The arguments of mount(8).
fn arguments(source: &NFSVolumeSource, target: &str, options: &[String]) -> Vec<String> {
    let host = if source.server.contains(':') { format!("[{}]", source.server) } else { source.server.clone() };
    let read_only = (source.read_only == Some(true)).then(|| "ro".to_owned());
    let options: Vec<String> = options.iter().cloned().chain(read_only).collect();
    let mut words = vec!["-t".to_owned(), "nfs".to_owned()];
    if !options.is_empty() {
        words.extend(["-o".to_owned(), options.join(",")]);
    }
    // Names that begin with a dash are still names.
    words.extend(["--".to_owned(), format!("{host}:{}", source.path), target.to_owned()]);
    words
}

/// Mounts the export, unless it is.
///
/// # Errors
/// The command's words, or that it is missing.
pub async fn set_up(
    context: &Context,
    pod: &Pod,
    name: &str,
    source: &NFSVolumeSource,
    options: &[String],
) -> Result<Mounted, String> {
    let dir = volume_dir(&context.dirs.root, pod.uid(), "nfs", name);
    let mounted = Mounted { path: dir.clone(), read_only: source.read_only == Some(true), ..Mounted::default() };
    empty_dir::make(&dir, 0o750)?;
    if mounts::is_mount_point(&dir)? {
        return Ok(mounted);
    }
    let run =
        Command::new("mount").args(arguments(source, &dir.to_string_lossy(), options)).kill_on_drop(true).output();
    let output = tokio::time::timeout(TIMEOUT, run).await;
    let output = output.map_err(|_| format!("mount of {}:{} timed out", source.server, source.path))?;
    let output = output.map_err(|e| format!("cannot run mount: {e}; install the node's NFS client"))?;
    if output.status.success() {
        return Ok(mounted);
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("mount failed: {}: {words}; is the node's NFS client (mount.nfs) installed?", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command() {
        let source = NFSVolumeSource { server: "fd::1".into(), path: "/x".into(), read_only: Some(true) };
        let words = arguments(&source, "/t", &["vers=4.1".into()]);
        assert_eq!(words, ["-t", "nfs", "-o", "vers=4.1,ro", "--", "[fd::1]:/x", "/t"]);
    }
}
