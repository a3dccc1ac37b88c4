//! The directory of a cluster's certificates: what is missing is made, what is there is kept.
//!
//! Keys are written with mode 0600, everything atomically. An authority found without its key is used for checking only:
//! needing it to sign is an error.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::Error;
use crate::authority::Authority;
use crate::key::{Algorithm, PrivateKey};
use crate::kubeconfig::{self, Credentials};
use crate::profile::{self, Ca, ClusterNames, Leaf};

/// Where things go and how keys are made.
pub struct Layout {
    /// Directory of certificates and keys.
    pub pki_dir: PathBuf,
    /// Directory of kubeconfigs.
    pub config_dir: PathBuf,
    /// URL of the API server for the kubeconfigs.
    pub server: String,
    /// Cluster name in the kubeconfigs.
    pub cluster_name: String,
    /// For new keys.
    pub algorithm: Algorithm,
}

/// Makes whatever of the cluster's certificates, service-account keys and kubeconfigs is missing; returns the files made.
///
/// # Errors
/// The first step that failed; files made before it stay and are kept by the next call.
pub fn ensure(layout: &Layout, names: &ClusterNames, now: Timestamp) -> Result<Vec<PathBuf>, Error> {
    let mut made = Vec::new();
    let mut authorities = HashMap::new();
    for ca in Ca::ALL {
        authorities.insert(ca, ensure_authority(layout, ca, now, &mut made)?);
    }
    for leaf in profile::cluster(names) {
        if let Some(authority) = authorities.get(&leaf.ca) {
            ensure_leaf(layout, &leaf, authority, now, &mut made)?;
        }
    }
    ensure_service_account_keys(layout, &mut made)?;
    Ok(made)
}

fn pair(layout: &Layout, file: &str) -> (PathBuf, PathBuf) {
    (layout.pki_dir.join(format!("{file}.crt")), layout.pki_dir.join(format!("{file}.key")))
}

fn ensure_authority(layout: &Layout, ca: Ca, now: Timestamp, made: &mut Vec<PathBuf>) -> Result<Authority, Error> {
    let (cert, key) = pair(layout, ca.file());
    if cert.exists() {
        return Authority::from_pem(&read(&cert)?, &read(&key)?, &cert.display().to_string());
    }
    let (authority, key_pem) = Authority::generate(ca.common_name(), layout.algorithm, profile::CA_LIFETIME, now)?;
    write(&key, &key_pem, 0o600)?;
    write(&cert, authority.cert_pem(), 0o644)?;
    made.extend([cert, key]);
    Ok(authority)
}

fn ensure_leaf(
    layout: &Layout,
    leaf: &Leaf,
    authority: &Authority,
    now: Timestamp,
    made: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let (cert, key) = pair(layout, &leaf.file);
    if !cert.exists() || !key.exists() {
        let private = PrivateKey::generate(layout.algorithm)?;
        let cert_pem = authority.issue(&private, &leaf.subject, &leaf.names, &leaf.policy, now)?;
        write(&key, &private.to_pem(), 0o600)?;
        write(&cert, &cert_pem, 0o644)?;
        made.extend([cert.clone(), key.clone()]);
    }
    let Some(file) = &leaf.kubeconfig else { return Ok(()) };
    let path = layout.config_dir.join(file);
    if !path.exists() {
        let (cert_pem, key_pem) = (read(&cert)?, read(&key)?);
        let credentials = Credentials::Certificate { cert_pem: &cert_pem, key_pem: &key_pem };
        let user = &leaf.subject.common_name;
        let text = kubeconfig::render(&layout.cluster_name, &layout.server, authority.cert_pem(), user, &credentials);
        write(&path, &text, 0o600)?;
        made.push(path);
    }
    Ok(())
}

fn ensure_service_account_keys(layout: &Layout, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    let (private, public) = (layout.pki_dir.join("sa.key"), layout.pki_dir.join("sa.pub"));
    if !private.exists() {
        let key = PrivateKey::generate(layout.algorithm)?;
        write(&private, &key.to_pem(), 0o600)?;
        write(&public, &key.public_pem(), 0o644)?;
        made.extend([private, public]);
    }
    Ok(())
}

/// Reads a text file.
///
/// # Errors
/// With the path in it.
pub fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Writes a file atomically with the given mode, making its directory.
///
/// # Errors
/// With the path in it.
pub fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&temporary).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            pki_dir: dir.path().join("pki"),
            config_dir: dir.path().to_owned(),
            server: "https://127.0.0.1:6443".to_owned(),
            cluster_name: "hardway".to_owned(),
            algorithm: Algorithm::EcdsaP256,
        };
        let names = ClusterNames {
            domain: "cluster.local".to_owned(),
            service_ip: "10.96.0.1".parse().unwrap(),
            api_names: vec![],
            api_ips: vec!["192.0.2.1".parse().unwrap()],
            etcd_ips: vec![],
            nodes: vec![("n1".to_owned(), vec!["192.0.2.1".parse().unwrap()])],
        };
        let now = "2026-01-15T00:00:00Z".parse().unwrap();
        let made = ensure(&layout, &names, now).unwrap();
        assert!(made.len() > 30, "{made:?}");
        assert!(ensure(&layout, &names, now).unwrap().is_empty());
        let api = read(&layout.pki_dir.join("apiserver.crt")).unwrap();
        let info = crate::inspect::certificate(api.as_bytes(), "api").unwrap();
        assert!(info.alt_names.dns.contains(&"kubernetes.default.svc.cluster.local".to_owned()));
        assert!(info.alt_names.ips.contains(&"10.96.0.1".parse().unwrap()));
        std::fs::remove_file(layout.pki_dir.join("apiserver.crt")).unwrap();
        assert_eq!(ensure(&layout, &names, now).unwrap().len(), 2);
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(layout.pki_dir.join("sa.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
