//! `--authentication-config`: an AuthenticationConfiguration file, read at start.
//!
//! Guarantees: what it asks for and this server cannot do (expressions, egress) is an error that names the field; nothing
//! that it says is silently left out.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::ConfigError;
use super::anonymous::Anonymous;
use super::oidc::{Issuer, Mapping};
use crate::tokens::jwks::ALGORITHMS;

const KNOWN_VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<FileJwt>,
    #[serde(default)]
    anonymous: Option<FileAnonymous>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileAnonymous {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<FileCondition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCondition {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileJwt {
    issuer: FileIssuer,
    #[serde(default)]
    claim_validation_rules: Vec<FileRule>,
    claim_mappings: FileMappings,
    #[serde(default)]
    user_validation_rules: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileIssuer {
    url: String,
    #[serde(rename = "discoveryURL", default)]
    discovery_url: Option<String>,
    #[serde(default)]
    certificate_authority: String,
    audiences: Vec<String>,
    #[serde(default)]
    audience_match_policy: String,
    #[serde(default)]
    egress_selector_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileRule {
    #[serde(default)]
    claim: String,
    #[serde(default)]
    required_value: String,
    #[serde(default)]
    expression: String,
    #[serde(default, rename = "message")]
    _message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileMappings {
    username: FileMapping,
    #[serde(default)]
    groups: FileMapping,
    #[serde(default)]
    uid: FileMapping,
    #[serde(default)]
    extra: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileMapping {
    #[serde(default)]
    claim: String,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    expression: String,
}

/// What the file says.
#[derive(Default)]
pub(super) struct Contents {
    /// Who may come without credentials, when it says so.
    pub(super) anonymous: Option<Anonymous>,
    /// Whose tokens are believed.
    pub(super) issuers: Vec<Issuer>,
}

/// Reads the file.
///
/// # Errors
/// It cannot be read, is not such a configuration, or asks for what is not there.
pub(super) fn load(path: &Path) -> Result<Contents, ConfigError> {
    let fail = |why: String| ConfigError::File { path: path.display().to_string(), why };
    let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot read: {e}")))?;
    let file: File = serde_saphyr::from_str(&text).map_err(|e| fail(e.to_string()))?;
    if file.kind != "AuthenticationConfiguration" || !KNOWN_VERSIONS.contains(&file.api_version.as_str()) {
        let (version, kind) = (&file.api_version, &file.kind);
        return Err(fail(format!(
            "is {version}, Kind={kind}; expected {}, Kind=AuthenticationConfiguration",
            KNOWN_VERSIONS[0]
        )));
    }
    let mut issuers: Vec<Issuer> = Vec::new();
    for (index, jwt) in file.jwt.into_iter().enumerate() {
        let issuer = jwt.issuer().map_err(|why| fail(format!("jwt[{index}].{why}")))?;
        if issuers.iter().any(|other| other.url == issuer.url) {
            return Err(fail(format!("jwt[{index}].issuer.url: {:?} is there more than once", issuer.url)));
        }
        issuers.push(issuer);
    }
    let anonymous = file.anonymous.map(|anonymous| match (anonymous.enabled, anonymous.conditions) {
        (false, _) => Anonymous::Off,
        (true, conditions) if conditions.is_empty() => Anonymous::Everywhere,
        (true, conditions) => Anonymous::Paths(conditions.into_iter().map(|condition| condition.path).collect()),
    });
    Ok(Contents { anonymous, issuers })
}

impl FileJwt {
    /// The error begins with the field.
    fn issuer(self) -> Result<Issuer, String> {
        const NO_EXPRESSIONS: &str = "expressions are not implemented; use a claim";
        let Self { issuer, claim_validation_rules, claim_mappings, user_validation_rules } = self;
        https("issuer.url", &issuer.url)?;
        if let Some(url) = &issuer.discovery_url {
            https("issuer.discoveryURL", url)?;
        }
        if issuer.audiences.is_empty() {
            return Err("issuer.audiences: at least one is needed".to_owned());
        }
        if issuer.audiences.len() > 1 && issuer.audience_match_policy != "MatchAny" {
            return Err("issuer.audienceMatchPolicy: must be MatchAny when there are several audiences".to_owned());
        }
        if !issuer.egress_selector_type.is_empty() {
            return Err("issuer.egressSelectorType: egress selection is not implemented".to_owned());
        }
        if !user_validation_rules.is_empty() {
            return Err(format!("userValidationRules: {NO_EXPRESSIONS}"));
        }
        if !claim_mappings.extra.is_empty() {
            return Err(format!("claimMappings.extra: {NO_EXPRESSIONS}"));
        }
        let mut required = BTreeMap::new();
        for rule in claim_validation_rules {
            if !rule.expression.is_empty() || rule.claim.is_empty() {
                return Err(format!("claimValidationRules: {NO_EXPRESSIONS}"));
            }
            required.insert(rule.claim, rule.required_value);
        }
        let FileMappings { username, groups, uid, .. } = claim_mappings;
        for (field, mapping) in [("username", &username), ("groups", &groups), ("uid", &uid)] {
            if !mapping.expression.is_empty() {
                return Err(format!("claimMappings.{field}.expression: {NO_EXPRESSIONS}"));
            }
        }
        Ok(Issuer {
            username: username.prefixed("username")?.ok_or("claimMappings.username.claim: must be given")?,
            groups: groups.prefixed("groups")?,
            uid_claim: (!uid.claim.is_empty()).then_some(uid.claim),
            ca_pem: (!issuer.certificate_authority.is_empty()).then(|| issuer.certificate_authority.into_bytes()),
            algorithms: ALGORITHMS.map(str::to_owned).to_vec(),
            url: issuer.url,
            discovery_url: issuer.discovery_url,
            audiences: issuer.audiences,
            required,
        })
    }
}

impl FileMapping {
    /// Upstream wants the prefix to be said, so that nobody forgets it.
    fn prefixed(self, field: &str) -> Result<Option<Mapping>, String> {
        match (self.claim, self.prefix) {
            (claim, _) if claim.is_empty() => Ok(None),
            (_, None) => Err(format!("claimMappings.{field}.prefix: must be given with a claim; \"\" for none")),
            (claim, Some(prefix)) => Ok(Some(Mapping { claim, prefix })),
        }
    }
}

fn https(field: &str, url: &str) -> Result<(), String> {
    let usable = url.starts_with("https://") && url.parse::<http::Uri>().is_ok_and(|uri| uri.query().is_none());
    if usable { Ok(()) } else { Err(format!("{field}: {url:?} is not an https URL without a query")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Contents, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authn.yaml");
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
        std::fs::write(&path, format!("{head}{body}")).unwrap();
        load(&path)
    }

    const JWT: &str = "jwt:\n- issuer: {url: 'https://i.example.com', audiences: [a]}\n  claimMappings:\n    username: {claim: sub, prefix: 'i:'}\n";

    #[test]
    fn issuers() {
        let issuer = read(JWT).unwrap().issuers.remove(0);
        assert_eq!((issuer.url.as_str(), issuer.username.prefix.as_str()), ("https://i.example.com", "i:"));
        assert_eq!((issuer.groups, issuer.uid_claim, issuer.algorithms.len()), (None, None, 9));
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let cases = [
            (JWT.replace("https", "http"), "issuer.url"),
            (JWT.replace("[a]", "[a, b]"), "audienceMatchPolicy"),
            (JWT.replace("[a]", "[]"), "issuer.audiences"),
            (JWT.replace(", prefix: 'i:'", ""), "claimMappings.username.prefix"),
            (JWT.replace("claim: sub, prefix: 'i:'", "expression: claims.sub"), "claimMappings.username.expression"),
            (format!("{JWT}  userValidationRules: [{{expression: 'true'}}]\n"), "userValidationRules"),
            (format!("{JWT}  claimValidationRules: [{{expression: 'true'}}]\n"), "claimValidationRules"),
            (format!("{JWT}{}", JWT.trim_start_matches("jwt:\n")), "more than once"),
            ("anonymus: {enabled: true}\n".to_owned(), "anonymus"),
        ];
        for (body, named) in cases {
            let error = read(&body).err().unwrap_or_else(|| panic!("{body} was taken")).to_string();
            assert!(error.contains("--authentication-config") && error.contains(named), "{error}");
        }
    }

    #[test]
    fn anonymous_by_path() {
        let contents = read("anonymous: {enabled: true, conditions: [{path: /livez}]}\n").unwrap();
        assert_eq!(contents.anonymous, Some(Anonymous::Paths(vec!["/livez".into()])));
        assert_eq!(read("anonymous: {enabled: false}\n").unwrap().anonymous, Some(Anonymous::Off));
        assert_eq!(read("").unwrap().anonymous, None);
    }
}
