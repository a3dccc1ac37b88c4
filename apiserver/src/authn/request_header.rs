//! The front proxy: a client with a certificate of its own authority may say in headers whom it speaks for.
//!
//! Without `allowed_names` every certificate of that authority may. Header names are tried in order, the first with a value
//! counts for the user and the uid; all groups and extras are collected, as upstream does.

use std::path::PathBuf;

use component_base::serving::ConnInfo;
use http::HeaderMap;

use super::x509::ClientCertificates;
use super::{ConfigError, Refused};
use crate::http::request::{UserInfo, percent_decode};

/// The `--requestheader-*` flags.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `--requestheader-client-ca-file`
    pub client_ca_file: PathBuf,
    /// `--requestheader-allowed-names`
    pub allowed_names: Vec<String>,
    /// `--requestheader-username-headers`
    pub username_headers: Vec<String>,
    /// `--requestheader-uid-headers`
    pub uid_headers: Vec<String>,
    /// `--requestheader-group-headers`
    pub group_headers: Vec<String>,
    /// `--requestheader-extra-headers-prefix`
    pub extra_headers_prefix: Vec<String>,
}

/// Believes the front proxy.
pub struct RequestHeader {
    config: Config,
    authority: ClientCertificates,
}

impl RequestHeader {
    /// Reads the authority.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let authority = ClientCertificates::new("--requestheader-client-ca-file", &config.client_ca_file)?;
        Ok(Self { config: config.clone(), authority })
    }

    /// Whom the proxy speaks for; `None` when the headers are absent or the client is not the proxy.
    ///
    /// # Errors
    /// Never at present: a certificate of another authority is left to the next authenticator.
    pub fn authenticate(&self, headers: &HeaderMap, conn: &ConnInfo) -> Result<Option<UserInfo>, Refused> {
        let Some(user) = user_of(&self.config, headers) else { return Ok(None) };
        let Ok(proxy) = self.authority.verify(&conn.peer_certs) else { return Ok(None) };
        let allowed = &self.config.allowed_names;
        Ok((allowed.is_empty() || allowed.contains(&proxy.name)).then_some(user))
    }
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).filter(|v| !v.is_empty()).map(str::to_owned).collect()
}

fn user_of(config: &Config, headers: &HeaderMap) -> Option<UserInfo> {
    let first = |names: &[String]| names.iter().find_map(|name| values(headers, name).into_iter().next());
    let name = first(&config.username_headers)?;
    let mut user = UserInfo {
        name,
        uid: first(&config.uid_headers).unwrap_or_default(),
        groups: config.group_headers.iter().flat_map(|header| values(headers, header)).collect(),
        ..UserInfo::default()
    };
    for prefix in config.extra_headers_prefix.iter().map(|prefix| prefix.to_ascii_lowercase()) {
        for header in headers.keys() {
            if let Some(key) = header.as_str().strip_prefix(&prefix) {
                user.extra.insert(percent_decode(key), values(headers, header.as_str()));
            }
        }
    }
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let config = Config {
            username_headers: vec!["X-Remote-User".into()],
            group_headers: vec!["X-Remote-Group".into()],
            extra_headers_prefix: vec!["X-Remote-Extra-".into()],
            ..Config::default()
        };
        let mut headers = HeaderMap::new();
        assert_eq!(user_of(&config, &headers), None);
        headers.insert("x-remote-user", "alice".parse().unwrap());
        headers.append("x-remote-group", "a".parse().unwrap());
        headers.append("x-remote-group", "b".parse().unwrap());
        headers.insert("x-remote-extra-example.com%2fscope", "s".parse().unwrap());
        let user = user_of(&config, &headers).unwrap();
        assert_eq!((user.name.as_str(), user.groups.join("+")), ("alice", "a+b".to_owned()));
        assert_eq!(user.extra["example.com/scope"], ["s"]);
    }
}
