//! Who may ask what: which part of the node object a request counts as, and whom to ask.

use client::Client;
use client::delegated::{DelegatedAuth, DelegatedOptions, Lookup};
use component_base::secure_port::{Attributes, Denied, RequestAuth, Target, verb_of};
use component_base::serving::ConnInfo;
use component_base::tls::ClientCa;
use http::StatusCode;
use http::request::Parts;

use crate::config_file::KubeletConfiguration;

/// The authorization mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    AlwaysAllow,
    Webhook,
}

/// Authentication by certificate and (when configured) by TokenReview; authorization by SubjectAccessReview.
pub fn delegated(file: &KubeletConfiguration, client: Option<&Client>, client_ca: Option<ClientCa>) -> DelegatedAuth {
    DelegatedAuth::new(DelegatedOptions {
        lookup: Lookup::Never,
        token_client: client.filter(|_| file.authentication.webhook.enabled).cloned(),
        access_client: client.cloned(),
        client_ca,
        anonymous: file.authentication.anonymous.enabled,
        token_ttl: *file.authentication.webhook.cache_ttl,
        allowed_ttl: *file.authorization.webhook.cache_authorized_ttl,
        refused_ttl: *file.authorization.webhook.cache_unauthorized_ttl,
    })
}

/// The node's subresources that a path counts as; any of them suffices, `proxy` last as it stands for everything.
fn subresources(path: &str) -> Vec<&'static str> {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "checkpoint" => vec!["checkpoint"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    }
}

/// Lets a request in or tells why not.
///
/// # Errors
/// 401, 403, or 500 when the API server could not be asked.
pub async fn admit(auth: &dyn RequestAuth, mode: Mode, node: &str, parts: &Parts) -> Result<(), Denied> {
    let Some(conn) = parts.extensions.get::<ConnInfo>() else {
        return Err(Denied { status: StatusCode::INTERNAL_SERVER_ERROR, message: "no connection facts".to_owned() });
    };
    let user = auth.authenticate(parts, conn).await?;
    if mode == Mode::AlwaysAllow {
        return Ok(());
    }
    let verb = verb_of(&parts.method).to_owned();
    let mut result = Ok(());
    for subresource in subresources(parts.uri.path()) {
        let target = Target::Resource {
            group: String::new(),
            resource: "nodes".into(),
            subresource: subresource.into(),
            namespace: String::new(),
            name: node.to_owned(),
        };
        result = auth.authorize(&user, &Attributes { verb: verb.clone(), target }).await;
        if result.is_ok() {
            break;
        }
    }
    result.map_err(|denied| match denied.status {
        StatusCode::FORBIDDEN => Denied {
            message: format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)={:?})\n",
                user.name,
                subresources(parts.uri.path())
            ),
            ..denied
        },
        _ => denied,
    })
}

#[cfg(test)]
mod tests {
    use super::subresources;

    #[test]
    fn paths() {
        assert_eq!(subresources("/exec/ns/pod/c"), ["proxy"]);
        assert_eq!(subresources("/metrics/resource"), ["metrics"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(subresources("/logs/x"), ["log"]);
    }
}
