//! How the kubelet gets its certificates: a client certificate by bootstrap token and CSR, a serving certificate by CSR
//! or self-signed, and renewal of both before they end.
//!
//! Files and names are upstream's: `pki/kubelet-client-current.pem`, `pki/kubelet-server-current.pem` (links to files
//! with certificate and key), so that kubeadm's and the kubelet's other tools find them.

mod client_cert;
mod csr;
mod serving;

use std::path::{Path, PathBuf};

use client::{ClientConfigError, ClientError};
use component_base::fs::{WriteError, write_atomic};
use jiff::{SignedDuration, Timestamp};

pub use client_cert::{ensure, rotate};
pub use serving::{obtain, server_tls};

/// A certificate could not be got.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The bootstrap kubeconfig is unusable.
    #[error("cannot use the bootstrap kubeconfig {}: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ClientConfigError,
    },
    /// A key, request or certificate is unusable.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file cannot be read or linked.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The API server refused the request.
    #[error(
        "the API server refuses certificate requests: {0}; is the bootstrap token valid and bound to system:node-bootstrapper?"
    )]
    Request(ClientError),
    /// An approver said no, or the signer failed.
    #[error("certificate signing request {name} was {what}: {message}")]
    Refused {
        /// The request.
        name: String,
        /// `denied` or `failed`.
        what: &'static str,
        /// The approver's words.
        message: String,
    },
    /// Shutdown came first.
    #[error("the kubelet ended before its certificate was issued")]
    Ended,
    /// The TLS files are unusable.
    #[error(transparent)]
    Tls(#[from] component_base::tls::TlsError),
}

/// Stores certificate and key in one dated file and points `NAME-current.pem` to it.
fn store(dir: &Path, name: &str, cert_pem: &str, key_pem: &str) -> Result<PathBuf, BootstrapError> {
    std::fs::create_dir_all(dir).map_err(|source| BootstrapError::File { path: dir.to_owned(), source })?;
    let stamp = Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S");
    let file = dir.join(format!("{name}-{stamp}.pem"));
    write_atomic(&file, format!("{cert_pem}{key_pem}").as_bytes(), 0o600)?;
    let current = current(dir, name);
    let fresh = dir.join(format!(".{name}-current.pem"));
    let fail = |source| BootstrapError::File { path: current.clone(), source };
    let _ = std::fs::remove_file(&fresh);
    std::os::unix::fs::symlink(&file, &fresh).map_err(fail)?;
    std::fs::rename(&fresh, &current).map_err(fail)?;
    Ok(current)
}

/// The link to the newest pair.
fn current(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}-current.pem"))
}

/// When a certificate should be replaced: between 70 and 90 percent of its life, so that nodes made together do not
/// all ask together.
fn renew_at(not_before: Timestamp, not_after: Timestamp, jitter: f64) -> Timestamp {
    let life = not_after.duration_since(not_before).as_secs_f64();
    let share = SignedDuration::try_from_secs_f64(life * (0.7 + 0.2 * jitter)).unwrap_or_default();
    not_before + share
}

/// How long until the certificate in a file should be replaced; none when it is already unusable.
fn time_left(path: &Path) -> Option<std::time::Duration> {
    let pem = std::fs::read(path).ok()?;
    let info = pki::inspect::certificate(&pem, &path.display().to_string()).ok()?;
    let now = Timestamp::now();
    if info.not_after <= now {
        return None;
    }
    let at = renew_at(info.not_before, info.not_after, rand::random());
    Some(std::time::Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_time() {
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(renew_at(at(0), at(1000), 0.0), at(700));
        assert_eq!(renew_at(at(0), at(1000), 1.0), at(900));
    }

    #[test]
    fn pairs_are_found_through_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let link = store(dir.path(), "kubelet-client", "CERT\n", "KEY\n").unwrap();
        assert_eq!(std::fs::read_to_string(link).unwrap(), "CERT\nKEY\n");
        store(dir.path(), "kubelet-client", "CERT2\n", "KEY\n").unwrap();
        let text = std::fs::read_to_string(current(dir.path(), "kubelet-client")).unwrap();
        assert_eq!(text, "CERT2\nKEY\n");
    }
}
