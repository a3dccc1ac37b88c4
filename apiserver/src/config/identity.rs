//! Who may come in and what they may do: the flags of authentication and authorization.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::InvalidConfig;
use crate::authn::oidc::{Issuer, Mapping};
use crate::authn::{AuthnConfig, request_header, webhook};
use crate::authz::{self, AuthzConfig};
use crate::flags::Flags;
use crate::tokens::jwks::ALGORITHMS;

const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc";
/// For one question to the authorization webhook.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn issuers(flags: &Flags) -> Result<Vec<String>, InvalidConfig> {
    for issuer in &flags.service_account_issuer {
        if issuer.is_empty() || (issuer.contains(':') && !issuer.contains("://")) {
            let remedy = format!("use a URL like {DEFAULT_ISSUER}, or a name without a colon");
            return Err(InvalidConfig::Value { flag: "service-account-issuer", value: issuer.clone(), remedy });
        }
    }
    if flags.service_account_issuer.is_empty() {
        tracing::warn!("no --service-account-issuer: tokens are issued as {DEFAULT_ISSUER}");
        return Ok(vec![DEFAULT_ISSUER.to_owned()]);
    }
    Ok(flags.service_account_issuer.clone())
}

/// What the authentication flags say; `issuers`, `audiences` and `key_files` with their defaults.
pub(super) fn authn(
    flags: &Flags,
    issuers: &[String],
    audiences: &[String],
    key_files: &[PathBuf],
) -> Result<AuthnConfig, InvalidConfig> {
    let request_header = flags.requestheader_client_ca_file.clone().map(|client_ca_file| request_header::Config {
        client_ca_file,
        allowed_names: flags.requestheader_allowed_names.clone(),
        username_headers: flags.requestheader_username_headers.clone(),
        uid_headers: flags.requestheader_uid_headers.clone(),
        group_headers: flags.requestheader_group_headers.clone(),
        extra_headers_prefix: flags.requestheader_extra_headers_prefix.clone(),
    });
    let webhook = flags.authentication_token_webhook_config_file.clone().map(|file| webhook::Config {
        file,
        cache_ttl: flags.authentication_token_webhook_cache_ttl.0,
        version: flags.authentication_token_webhook_version.clone(),
    });
    Ok(AuthnConfig {
        client_ca_file: flags.client_ca_file.clone(),
        token_auth_file: flags.token_auth_file.clone(),
        bootstrap_tokens: flags.enable_bootstrap_token_auth,
        anonymous_auth: flags.anonymous_auth,
        config_file: flags.authentication_config.clone(),
        service_account_key_files: key_files.to_vec(),
        service_account_issuers: issuers.to_vec(),
        service_account_lookup: flags.service_account_lookup,
        api_audiences: audiences.to_vec(),
        request_header,
        oidc: oidc(flags)?,
        webhook,
    })
}

/// What the authorization flags say.
pub(super) fn authz(flags: &Flags) -> Result<AuthzConfig, InvalidConfig> {
    if flags.authorization_config.is_none()
        && flags.authorization_webhook_config_file.is_none()
        && flags.authorization_mode.iter().any(|mode| mode == "Webhook")
    {
        return Err(InvalidConfig::Missing { flag: "authorization-webhook-config-file", why: "mode Webhook asks it" });
    }
    let webhook = flags.authorization_webhook_config_file.clone().map(|file| authz::webhook::Config {
        file,
        version: flags.authorization_webhook_version.clone(),
        authorized_ttl: flags.authorization_webhook_cache_authorized_ttl.0,
        unauthorized_ttl: flags.authorization_webhook_cache_unauthorized_ttl.0,
        timeout: WEBHOOK_TIMEOUT,
        deny_on_failure: false,
    });
    Ok(AuthzConfig {
        modes: flags.authorization_mode.clone(),
        webhook,
        config_file: flags.authorization_config.clone(),
    })
}

/// The issuer of the `--oidc-*` flags, when there is one.
fn oidc(flags: &Flags) -> Result<Option<Issuer>, InvalidConfig> {
    let wrong = |flag, value: &str, remedy: &str| InvalidConfig::Value {
        flag,
        value: value.to_owned(),
        remedy: remedy.to_owned(),
    };
    let url = &flags.oidc_issuer_url;
    match (url.is_empty(), flags.oidc_client_id.is_empty()) {
        (true, true) => return Ok(None),
        (true, false) => {
            return Err(InvalidConfig::Missing { flag: "oidc-issuer-url", why: "--oidc-client-id was given" });
        }
        (false, true) => {
            return Err(InvalidConfig::Missing { flag: "oidc-client-id", why: "--oidc-issuer-url was given" });
        }
        (false, false) => {}
    }
    if !url.starts_with("https://") || url.parse::<http::Uri>().is_err() {
        return Err(wrong("oidc-issuer-url", url, "use an https URL"));
    }
    if let Some(unknown) = flags.oidc_signing_algs.iter().find(|name| !ALGORITHMS.contains(&name.as_str())) {
        return Err(wrong("oidc-signing-algs", unknown, &format!("use some of {}", ALGORITHMS.join(", "))));
    }
    let ca_pem = match &flags.oidc_ca_file {
        Some(path) => Some(
            std::fs::read(path)
                .map_err(|e| wrong("oidc-ca-file", &path.display().to_string(), &format!("cannot be read: {e}")))?,
        ),
        None => None,
    };
    let mut required = BTreeMap::new();
    for pair in &flags.oidc_required_claim {
        let (claim, value) =
            pair.split_once('=').ok_or_else(|| wrong("oidc-required-claim", pair, "write it as claim=value"))?;
        required.insert(claim.trim().to_owned(), value.trim().to_owned());
    }
    // Names other than e-mail addresses could be mistaken for this cluster's own.
    let prefix = match flags.oidc_username_prefix.as_str() {
        "-" => String::new(),
        "" if flags.oidc_username_claim != "email" => format!("{url}#"),
        prefix => prefix.to_owned(),
    };
    let groups = (!flags.oidc_groups_claim.is_empty())
        .then(|| Mapping { claim: flags.oidc_groups_claim.clone(), prefix: flags.oidc_groups_prefix.clone() });
    Ok(Some(Issuer {
        url: url.clone(),
        discovery_url: None,
        audiences: vec![flags.oidc_client_id.clone()],
        ca_pem,
        algorithms: flags.oidc_signing_algs.clone(),
        username: Mapping { claim: flags.oidc_username_claim.clone(), prefix },
        groups,
        uid_claim: None,
        required,
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn issuer(flags: &[&str]) -> Result<Option<Issuer>, InvalidConfig> {
        oidc(&Flags::parse_from([&["kube-apiserver"], flags].concat()))
    }

    #[test]
    fn issuer_of_flags() {
        const BASE: [&str; 2] = ["--oidc-issuer-url=https://i", "--oidc-client-id=c"];
        let with = |more: &[&'static str]| issuer(&[&BASE, more].concat()).unwrap().unwrap();
        assert!(issuer(&[]).unwrap().is_none());
        assert_eq!(with(&[]).username, Mapping { claim: "sub".into(), prefix: "https://i#".into() });
        assert_eq!(with(&["--oidc-username-prefix=-"]).username.prefix, "");
        assert_eq!(with(&["--oidc-username-claim=email"]).username.prefix, "");
        assert_eq!(with(&["--oidc-groups-claim=g", "--oidc-groups-prefix=p:"]).groups.unwrap().prefix, "p:");
        let required = with(&["--oidc-required-claim=a=1", "--oidc-required-claim=b=2"]).required;
        assert_eq!(required.into_iter().map(|(k, v)| k + &v).collect::<Vec<_>>(), ["a1", "b2"]);
        let refused: [&[&str]; 4] = [
            &BASE[..1],
            &["--oidc-client-id=c"],
            &["--oidc-issuer-url=http://i", "--oidc-client-id=c"],
            &[BASE[0], BASE[1], "--oidc-signing-algs=HS256"],
        ];
        for flags in refused {
            assert!(issuer(flags).unwrap_err().to_string().contains("--oidc-"), "{flags:?}");
        }
    }
}
