//! Requests without credentials: allowed everywhere, on some paths, or nowhere.
//!
//! The paths come from the `anonymous` part of an AuthenticationConfiguration file. Its `jwt` part (OpenID Connect) is not
//! implemented and is a start-up error, so that nobody believes it to be on.

use std::path::Path;

use serde::Deserialize;

use super::{ANONYMOUS, ConfigError, UNAUTHENTICATED};
use crate::http::request::UserInfo;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<serde_json::Value>,
    #[serde(default)]
    anonymous: Option<FileAnonymous>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileAnonymous {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    path: String,
}

/// Where a request without credentials is let in as `system:anonymous`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Nowhere.
    Off,
    /// On every path.
    Everywhere,
    /// On exactly these paths.
    Paths(Vec<String>),
}

impl Anonymous {
    /// From the flag and the file.
    ///
    /// # Errors
    /// The file cannot be used, or flag and file both speak.
    pub fn new(flag: Option<bool>, file: Option<&Path>) -> Result<Self, ConfigError> {
        let from_file = match file {
            Some(path) => load(path)?.anonymous,
            None => None,
        };
        match (flag, from_file) {
            (Some(_), Some(_)) => Err(ConfigError::AnonymousTwice),
            (Some(false), None) => Ok(Self::Off),
            (_, None) => Ok(Self::Everywhere),
            (None, Some(anonymous)) if !anonymous.enabled => Ok(Self::Off),
            (None, Some(anonymous)) if anonymous.conditions.is_empty() => Ok(Self::Everywhere),
            (None, Some(anonymous)) => Ok(Self::Paths(anonymous.conditions.into_iter().map(|c| c.path).collect())),
        }
    }

    /// The anonymous user, where it is let in.
    pub fn user(&self, path: &str) -> Option<UserInfo> {
        let allowed = match self {
            Self::Off => false,
            Self::Everywhere => true,
            Self::Paths(paths) => paths.iter().any(|p| p == path),
        };
        allowed.then(|| UserInfo {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        })
    }
}

fn load(path: &Path) -> Result<File, ConfigError> {
    let fail = |why: String| ConfigError::File { path: path.display().to_string(), why };
    let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot read: {e}")))?;
    let file: File = serde_saphyr::from_str(&text).map_err(|e| fail(e.to_string()))?;
    let known = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
    if file.kind != "AuthenticationConfiguration" || !known.contains(&file.api_version.as_str()) {
        let (version, kind) = (&file.api_version, &file.kind);
        return Err(fail(format!(
            "is {version}, Kind={kind}; expected {}, Kind=AuthenticationConfiguration",
            known[0]
        )));
    }
    if !file.jwt.is_empty() {
        return Err(fail("jwt: OpenID Connect is not implemented; remove the entries".to_owned()));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authn.yaml");
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous:\n  enabled: true\n  conditions:\n  - path: /livez\n";
        std::fs::write(&path, text).unwrap();
        let from_file = Anonymous::new(None, Some(&path)).unwrap();
        assert_eq!(from_file, Anonymous::Paths(vec!["/livez".into()]));
        assert!(from_file.user("/livez").is_some() && from_file.user("/livez/etcd").is_none());
        assert!(matches!(Anonymous::new(Some(true), Some(&path)), Err(ConfigError::AnonymousTwice)));
        assert_eq!(Anonymous::new(Some(false), None).unwrap(), Anonymous::Off);
        assert_eq!(Anonymous::new(None, None).unwrap(), Anonymous::Everywhere);
        std::fs::write(&path, text.replace("anonymous", "anonymus")).unwrap();
        assert!(Anonymous::new(None, Some(&path)).is_err());
    }
}
