//! Handing an archive to containerd, through its own `ctr`.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

use super::ImageError;

/// Imports an archive into the namespace that the kubelet's images live in.
///
/// # Errors
/// When `ctr` is missing or refuses; its words are in the error.
pub async fn import(socket: &Path, tag: &str, archive: &[u8]) -> Result<(), ImageError> {
    let failed = |why: String| ImageError::Import { tag: tag.to_owned(), why };
    let mut child = tokio::process::Command::new("ctr")
        .arg("--address")
        .arg(socket)
        .args(["--namespace", "k8s.io", "images", "import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("cannot run ctr (package containerd): {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // a write that fails means that ctr ended; its exit status and words say why
        let _ = stdin.write_all(archive).await;
    }
    let output = child.wait_with_output().await.map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}
