//! Registry credentials from a pod's image pull secrets.

use base64::Engine;
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::context::Context;
use crate::cri::api::AuthConfig;
use crate::pods::types::Pod;

#[derive(Debug, Default, Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Debug, Default, Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// Credentials to try for an image, the most specific first; without any, one try without.
pub async fn for_image(context: &Context, pod: &Pod, image: &str) -> Vec<Option<AuthConfig>> {
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for reference in pod.spec.image_pull_secrets.iter().flatten() {
        let secret = context.objects.secret(pod.namespace(), &reference.name, Timestamp::MIN).await;
        let Some(data) = secret.ok().flatten().and_then(|s| s.data) else {
            tracing::warn!(pod = %pod.full_name(), secret = %reference.name, "Image pull secret not found; pulling without it");
            continue;
        };
        let config = if let Some(bytes) = data.get(".dockerconfigjson") {
            serde_json::from_slice::<DockerConfig>(&bytes.0).unwrap_or_default()
        } else if let Some(bytes) = data.get(".dockercfg") {
            DockerConfig { auths: serde_json::from_slice(&bytes.0).unwrap_or_default() }
        } else {
            continue;
        };
        found.extend(matching(config, image));
    }
    if found.is_empty() {
        return vec![None];
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| Some(auth)).collect()
}

/// The registry of an image reference.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

fn matching(config: DockerConfig, image: &str) -> Vec<(usize, AuthConfig)> {
    let host = registry(image);
    let mut found = Vec::new();
    for (server, auth) in config.auths {
        let bare = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        let bare = bare.strip_suffix("/v1").or(bare.strip_suffix("/v2")).unwrap_or(bare);
        let docker_hub =
            host == "docker.io" && matches!(bare, "index.docker.io" | "docker.io" | "registry-1.docker.io");
        let (server_host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let suffix = server_host.strip_prefix("*.");
        let host_fits =
            server_host == host || suffix.is_some_and(|s| host.split_once('.').is_some_and(|(_, h)| h == s));
        let path_fits = path.is_empty() || image.strip_prefix(host).is_some_and(|i| i[1..].starts_with(path));
        if docker_hub || (host_fits && path_fits) {
            found.push((bare.len(), credentials(auth, &server)));
        }
    }
    found
}

fn credentials(auth: DockerAuth, server: &str) -> AuthConfig {
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim());
    let decoded = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let (user, password) = decoded.split_once(':').unwrap_or_default();
    AuthConfig {
        username: if auth.username.is_empty() { user.to_owned() } else { auth.username },
        password: if auth.password.is_empty() { password.to_owned() } else { auth.password },
        identity_token: auth.identity_token,
        server_address: server.to_owned(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choice() {
        let config = |text: &str| serde_json::from_str::<DockerConfig>(text).unwrap();
        let text =
            r#"{"auths":{"https://r.example/v1/":{"auth":"dTpw"},"*.corp":{"username":"x"},"r.example/team":{}}}"#;
        let found = matching(config(text), "r.example/other/app:1");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].1.username.as_str(), found[0].1.password.as_str()), ("u", "p"));
        assert_eq!(matching(config(text), "r.example/team/app:1").len(), 2);
        assert_eq!(matching(config(text), "a.corp/app").len(), 1);
        assert!(matching(config(text), "busybox").is_empty());
    }
}
