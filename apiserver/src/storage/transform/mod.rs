//! Between an object's JSON and the bytes in etcd: a shorter form, and encryption at rest.
//!
//! Guarantees: the first provider of a resource's rule writes and all of its providers read; what a provider wrote is marked
//! as upstream marks it and bound to its key where the cipher allows; a value that was not written as it would be written
//! now is *stale*, and rewritten at its next update even when nothing else changes. Configuration that cannot be used is
//! refused at start, and when it is read again the old one stays. Keys never appear in errors.

mod ciphers;
mod compact;
mod config;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use component_base::reload::Reloading;

use self::ciphers::Provider;
use super::StorageError;

/// How upstream marks protobuf values.
const PROTOBUF_MAGIC: &[u8] = b"k8s\0";
/// How upstream marks encrypted values.
const ENCRYPTED: &[u8] = b"k8s:enc:";
/// A rule: these resources are written by the first and read by any of these providers.
pub(super) struct Rule {
    /// `plural`, `plural.group`, `*.group`, `*.` or `*.*`
    resources: Vec<String>,
    providers: Vec<Provider>,
}

impl Rule {
    fn covers(&self, group: &str, plural: &str) -> bool {
        self.resources.iter().any(|pattern| match pattern.split_once('.') {
            None => plural == pattern && group.is_empty(),
            Some(("*", "*")) => true,
            Some(("*", wanted)) => group == wanted,
            Some((name, wanted)) => plural == name && group == wanted,
        })
    }
}

type Rules = Vec<Rule>;

/// Resources by the first segment of their keys below the root; several can share one.
pub type Names = BTreeMap<String, Vec<(String, String)>>;

/// What `--encryption-provider-config` and `--storage-media-type` say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FormConfig {
    /// Large objects are written as plain JSON too.
    pub plain: bool,
    /// The file; without it everything is written plainly.
    pub file: Option<PathBuf>,
    /// Read it again when it changes.
    pub reload: bool,
}

/// Turns JSON into what is stored, and back.
#[derive(Default)]
pub struct Transform {
    root: String,
    names: Names,
    plain: bool,
    /// Nothing is encrypted without them.
    rules: Option<Reloading<Rules>>,
}

impl Transform {
    /// Keys of resources lie below `root`, which ends with a slash.
    ///
    /// # Errors
    /// The file cannot be read or used.
    pub fn load(config: FormConfig, root: String, names: Names) -> Result<Self, StorageError> {
        let rules = match config.file {
            Some(path) => {
                let watched = if config.reload { vec![path.clone()] } else { Vec::new() };
                Some(Reloading::new("encryption configuration", watched, move || config::read(&path))?)
            }
            None => None,
        };
        Ok(Self { root, names, plain: config.plain, rules })
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.as_ref().map(Reloading::get).unwrap_or_default()
    }

    /// Group and plural of the resources whose objects lie under a key; none for keys that are no objects.
    pub fn resources_of<'a>(&'a self, key: &'a str) -> Vec<(&'a str, &'a str)> {
        let Some(rest) = key.strip_prefix(&self.root) else { return Vec::new() };
        let mut segments = rest.split('/');
        let (first, second) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
        match self.names.get(first).or_else(|| self.names.get(&format!("{first}/{second}"))) {
            Some(names) => names.iter().map(|(group, plural)| (group.as_str(), plural.as_str())).collect(),
            // Custom resources lie below their group.
            None if first.contains('.') => vec![(first, second)],
            None => Vec::new(),
        }
    }

    /// The providers of a key, the writing one first; empty when it is not encrypted.
    fn providers<'r>(&self, rules: &'r Rules, key: &str) -> &'r [Provider] {
        if rules.is_empty() {
            return &[];
        }
        let names = self.resources_of(key);
        let rule = rules.iter().find(|rule| names.iter().any(|(group, plural)| rule.covers(group, plural)));
        rule.map_or(&[], |rule| rule.providers.as_slice())
    }

    /// What is written for an object's JSON under a key.
    ///
    /// # Errors
    /// The cipher fails.
    pub fn to_storage(&self, key: &str, json: &[u8]) -> Result<Vec<u8>, StorageError> {
        let rules = self.rules();
        match self.providers(&rules, key).first() {
            // Not shortened: how much shorter it gets tells of the content.
            Some(provider) => {
                provider.seal(key, json.to_vec()).map_err(|why| StorageError::Corrupt { key: key.to_owned(), why })
            }
            None if self.plain => Ok(json.to_vec()),
            None => Ok(compact::shorten(json)),
        }
    }

    /// The JSON of what was read, and whether it would be written otherwise now.
    ///
    /// # Errors
    /// The value is in a form that this server does not read, or no key opens it.
    pub fn from_storage<'a>(&self, key: &str, stored: &'a [u8]) -> Result<(Cow<'a, [u8]>, bool), StorageError> {
        let corrupt = |why: &str| StorageError::Corrupt { key: key.to_owned(), why: why.to_owned() };
        let rules = self.rules();
        let providers = self.providers(&rules, key);
        let (value, stale) = match providers.iter().position(|provider| provider.wrote(stored)) {
            Some(at) => providers[at]
                .open(key, stored)
                .map(|(value, old_key)| (value, old_key || at > 0))
                .map_err(|why| corrupt(&why))?,
            None if stored.starts_with(ENCRYPTED) => {
                return Err(corrupt("it is encrypted and no key for it is configured (--encryption-provider-config)"));
            }
            None if providers.is_empty() => (Cow::Borrowed(stored), false),
            None => return Err(corrupt("it is not encrypted, and its resource's providers lack `identity`")),
        };
        if value.starts_with(PROTOBUF_MAGIC) {
            return Err(corrupt("it is protobuf, written by another API server; only JSON is read"));
        }
        Ok((compact::restore(value).map_err(|why| corrupt(&why))?, stale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transform(dir: &std::path::Path, yaml: &str) -> Result<Transform, StorageError> {
        let path = dir.join("e.yaml");
        std::fs::write(&path, yaml).unwrap();
        let names = [
            ("secrets".to_owned(), vec![(String::new(), "secrets".to_owned())]),
            ("deployments".to_owned(), vec![("apps".to_owned(), "deployments".to_owned())]),
        ];
        let config = FormConfig { file: Some(path), ..FormConfig::default() };
        Transform::load(config, "/registry/".to_owned(), names.into())
    }

    fn config(resources: &str, providers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
             - resources: [{resources}]\n  providers:\n{providers}"
        )
    }

    const NEW: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const OLD: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

    #[test]
    fn every_cipher_marks_binds_and_rotates() {
        let dir = tempfile::tempdir().unwrap();
        let key = "/registry/secrets/a/b";
        for cipher in ["aescbc", "aesgcm", "secretbox"] {
            let one = |name: &str, secret: &str| format!("{{name: {name}, secret: {secret}}}");
            let provider =
                |keys: &str| config("secrets", &format!("  - {cipher}: {{keys: [{keys}]}}\n  - identity: {{}}\n"));
            let old = transform(dir.path(), &provider(&one("k1", OLD))).unwrap();
            let sealed = old.to_storage(key, b"{}").unwrap();
            assert!(sealed.starts_with(format!("k8s:enc:{cipher}:v1:k1:").as_bytes()), "{cipher}");
            assert!(!sealed.ends_with(b"{}"));
            assert_eq!(old.from_storage(key, &sealed).unwrap(), (Cow::Borrowed(&b"{}"[..]), false));
            assert_eq!(old.from_storage(key, b"{}").unwrap(), (Cow::Borrowed(&b"{}"[..]), true));
            assert_eq!(old.from_storage("/registry/secrets/a/c", &sealed).is_err(), cipher == "aesgcm");
            let both = format!("{}, {}", one("k2", NEW), one("k1", OLD));
            let new = transform(dir.path(), &provider(&both)).unwrap();
            assert_eq!(new.from_storage(key, &sealed).unwrap(), (Cow::Borrowed(&b"{}"[..]), true));
            let only = transform(dir.path(), &provider(&one("k2", NEW))).unwrap();
            assert!(only.from_storage(key, &sealed).is_err());
            let mut broken = sealed.clone();
            *broken.last_mut().unwrap() ^= 1;
            assert!(old.from_storage(key, &broken).is_err(), "{cipher}");
            assert!(old.from_storage(key, &sealed[..sealed.len() - 20]).is_err(), "{cipher}");
        }
    }

    #[test]
    fn which_resources() {
        let dir = tempfile::tempdir().unwrap();
        let cases = [
            ("secrets", [true, false, false]),
            ("deployments.apps", [false, true, false]),
            ("'*.apps'", [false, true, false]),
            ("'*.'", [true, false, false]),
            ("widgets.example.com", [false, false, true]),
            ("'*.*'", [true, true, true]),
        ];
        for (resources, expected) in cases {
            let providers = format!("  - aesgcm: {{keys: [{{name: k, secret: {NEW}}}]}}\n");
            let transform = transform(dir.path(), &config(resources, &providers)).unwrap();
            let keys = ["secrets/a/b", "deployments/a/b", "example.com/widgets/a/b"];
            let sealed = keys.map(|key| transform.to_storage(&format!("/registry/{key}"), b"{}").unwrap() != b"{}");
            assert_eq!(sealed, expected, "{resources}");
            assert_eq!(transform.to_storage("/registry/masterleases/1.2.3.4", b"{}").unwrap(), b"{}");
        }
    }

    #[test]
    fn bad_configurations() {
        let dir = tempfile::tempdir().unwrap();
        let cases = [
            ("  - kms: {apiVersion: v2, name: x, endpoint: unix:///x}\n", "kms"),
            ("  - aescbc: {keys: [{name: k, secret: c2hvcnQ=}]}\n", "16, 24 or 32"),
            ("  - secretbox: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}\n", "32"),
            ("  - aesgcm: {keys: [{name: k, secret: '?'}]}\n", "base64"),
            ("  - aesgcm: {keys: []}\n", "at least one key"),
            ("  - aesgcm: {keys: [{name: 'a:b', secret: c2hvcnQ=}]}\n", "':'"),
            ("  - rot13: {}\n", "rot13"),
            ("  - {}\n", "one of"),
        ];
        for (providers, expected) in cases {
            let Err(error) = transform(dir.path(), &config("secrets", providers)) else { panic!("{providers}") };
            assert!(error.to_string().contains(expected), "{providers}: {error}");
        }
    }
}
