//! `serviceaccounts/NAME/token`: a new token for a service account, optionally bound to a pod, node or secret.
//!
//! Follows upstream: the account and the bound object must exist (uid compared), the pod must run as the account, lifetimes
//! are at least ten minutes and at most 2^32 seconds, longer ones than the server's bound are shortened with a warning.

use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::gvk::{GroupKind, GroupResource, GroupVersion};
use apimachinery::status::Status;
use apimachinery::time::format_time;
use serde_json::{Value, json};

use crate::admission::{self, set};
use crate::http::chain::new_uuid;
use crate::http::request::RequestContext;
use crate::objects::{Objects, ResourceName, find};
use crate::tokens::BoundObject;
use crate::tokens::issuer::{Grant, Issuer};

const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;

/// Answers a TokenRequest (decoded and canonical) for the service account of the URL.
///
/// # Errors
/// As upstream: 404, 400, 409, 422, or what admission says.
pub async fn create(
    issuer: &Issuer,
    objects: &dyn Objects,
    chain: &admission::Chain,
    ctx: &RequestContext,
    mut body: Value,
) -> Result<Value, Status> {
    let (namespace, name) = (ctx.info.namespace.as_str(), ctx.info.name.as_str());
    let accounts = ("", "serviceaccounts");
    let account = find(objects, accounts, namespace, name)
        .await?
        .ok_or_else(|| Status::not_found(&GroupResource::new("", accounts.1), name))?;
    complete(&mut body, ctx)?;
    set(&mut body["metadata"], "uid", apimachinery::meta::uid(&account));
    let request = admission::Request {
        ctx,
        operation: admission::Operation::Create,
        group: "",
        resource: accounts.1,
        subresource: "token",
        namespace,
        name,
        old: None,
    };
    chain.admit(&request, Some(&mut body)).await?;
    // after admission: that of nodes compares what was asked for with what the pod's volumes say, where empty means this
    if body["spec"]["audiences"].as_array().is_none_or(Vec::is_empty) {
        set(&mut body["spec"], "audiences", issuer.api_audiences().to_vec());
    }
    let errors = validate(&body);
    if !errors.is_empty() {
        return Err(Status::invalid(&token_request(), "", &errors));
    }
    chain.validate(&request, Some(&body)).await?;
    // Only now: admission compares what a node asked for with what its pod's volumes name, which may be nothing.
    if body["spec"]["audiences"].as_array().is_none_or(Vec::is_empty) {
        set(&mut body["spec"], "audiences", issuer.api_audiences().to_vec());
    }
    let mut grant = Grant { namespace: namespace.to_owned(), account: bound(&account), ..Grant::default() };
    bind(objects, &body["spec"]["boundObjectRef"], name, &mut grant).await?;
    shorten(&mut body, issuer, ctx);
    grant.seconds = body["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    let audiences = body["spec"]["audiences"].as_array().into_iter().flatten();
    grant.audiences = audiences.filter_map(|audience| audience.as_str().map(str::to_owned)).collect();
    let claims = issuer.plan(&grant, ctx.now.as_second(), new_uuid());
    let token = issuer.sign(&claims).map_err(Status::internal)?;
    let end = ctx.now.checked_add(jiff::SignedDuration::from_secs(grant.seconds)).map_err(Status::internal)?;
    set(&mut body, "status", json!({"token": token, "expirationTimestamp": format_time(end)}));
    Ok(body)
}

fn token_request() -> GroupKind {
    GroupKind { group: "authentication.k8s.io".to_owned(), kind: "TokenRequest".to_owned() }
}

/// Fills in what the client left out, after checking that the body speaks of the URL's account.
fn complete(body: &mut Value, ctx: &RequestContext) -> Result<(), Status> {
    for (field, of_url) in [("name", &ctx.info.name), ("namespace", &ctx.info.namespace)] {
        let given = body["metadata"][field].as_str().unwrap_or_default();
        if !given.is_empty() && given != of_url && field == "name" {
            let error =
                FieldError::invalid(Path::new("metadata").child(field), given, "must match the service account");
            return Err(Status::invalid(&token_request(), of_url, &vec![error]));
        }
        if !given.is_empty() && given != of_url {
            return Err(Status::bad_request(format!(
                "the {field} of the provided object does not match the {field} sent on the request"
            )));
        }
    }
    apimachinery::meta::set_name(body, &ctx.info.name);
    apimachinery::meta::set_namespace(body, &ctx.info.namespace);
    apimachinery::meta::set_creation_timestamp(body, ctx.now);
    if body["spec"].is_null() {
        set(body, "spec", json!({}));
    }
    let spec = &mut body["spec"];
    if spec["expirationSeconds"].is_null() {
        set(spec, "expirationSeconds", DEFAULT_SECONDS);
    }
    Ok(())
}

fn validate(body: &Value) -> ErrorList {
    let path = || Path::new("spec").child("expirationSeconds");
    let seconds = body["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    let mut errors = ErrorList::new();
    if seconds < MIN_SECONDS {
        errors.push(FieldError::invalid(path(), seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > MAX_SECONDS {
        errors.push(FieldError::invalid(path(), seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    errors
}

fn shorten(body: &mut Value, issuer: &Issuer, ctx: &RequestContext) {
    let asked = body["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    if let Some(max) = issuer.max_seconds().filter(|max| asked > *max) {
        ctx.warnings.add(format!("requested expiration of {asked} seconds shortened to {max} seconds"));
        set(&mut body["spec"], "expirationSeconds", max);
    }
}

fn bound(object: &Value) -> BoundObject {
    use apimachinery::meta;
    BoundObject { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() }
}

/// Looks the bound object up and enters it into the grant.
async fn bind(objects: &dyn Objects, reference: &Value, account: &str, grant: &mut Grant) -> Result<(), Status> {
    if reference.is_null() {
        return Ok(());
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let version = GroupVersion::parse(text("apiVersion")).unwrap_or_default();
    let (resource, namespace): (ResourceName, &str) = match (version.group.as_str(), text("kind")) {
        ("", "Pod") => (("", "pods"), &grant.namespace),
        ("", "Secret") => (("", "secrets"), &grant.namespace),
        ("", "Node") => (("", "nodes"), ""),
        (_, kind) => {
            let kind = version.with_kind(kind);
            return Err(Status::bad_request(format!("cannot bind token to object of type {kind}")));
        }
    };
    let name = text("name");
    let object = find(objects, resource, namespace, name)
        .await?
        .ok_or_else(|| Status::not_found(&GroupResource::new("", resource.1), name))?;
    let found = bound(&object);
    if resource.1 == "pods" && object["spec"]["serviceAccountName"] != account {
        let why = format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        );
        return Err(Status::bad_request(why));
    }
    if !text("uid").is_empty() && text("uid") != found.uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. \
             The object might have been deleted and then recreated",
            text("uid")
        );
        return Err(Status::conflict(&GroupResource::new("", text("kind")), name, &why));
    }
    match resource.1 {
        "pods" => {
            grant.pod = Some(found);
            if let Some(node) = object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                let known = find(objects, ("", "nodes"), "", node).await?;
                grant.node =
                    Some(known.map_or_else(
                        || BoundObject { name: node.to_owned(), uid: String::new() },
                        |known| bound(&known),
                    ));
            }
        }
        "secrets" => grant.secret = Some(found),
        _ => grant.node = Some(found),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::fake::Fake;

    fn cluster() -> Fake {
        Fake::default()
            .with(("", "pods"), json!({"metadata": {"namespace": "ns", "name": "p", "uid": "up"}, "spec": {"serviceAccountName": "sa", "nodeName": "n"}}))
            .with(("", "nodes"), json!({"metadata": {"name": "n", "uid": "un"}}))
            .with(("", "secrets"), json!({"metadata": {"namespace": "ns", "name": "s", "uid": "us"}}))
    }

    #[tokio::test]
    async fn binding() {
        let reference =
            |kind: &str, name: &str, uid: &str| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid});
        let cases = [
            (json!(null), "sa", 0),
            (reference("Pod", "p", "up"), "sa", 0),
            (reference("Pod", "p", ""), "sa", 0),
            (reference("Pod", "p", "old"), "sa", 409),
            (reference("Pod", "p", "up"), "other", 400),
            (reference("Pod", "q", ""), "sa", 404),
            (reference("Secret", "s", "us"), "sa", 0),
            (reference("Node", "n", "un"), "sa", 0),
            (reference("ConfigMap", "c", ""), "sa", 400),
            (json!({"apiVersion": "apps/v1", "kind": "Pod", "name": "p"}), "sa", 400),
        ];
        for (reference, account, code) in cases {
            let mut grant = Grant { namespace: "ns".into(), ..Grant::default() };
            let got = bind(&cluster(), &reference, account, &mut grant).await.map_or_else(|status| status.code, |()| 0);
            assert_eq!(got, code, "{reference} {account}");
        }
        let mut grant = Grant { namespace: "ns".into(), ..Grant::default() };
        bind(&cluster(), &reference("Pod", "p", "up"), "sa", &mut grant).await.unwrap();
        assert_eq!(grant.node.unwrap().uid, "un");
    }

    #[test]
    fn bounds() {
        for (seconds, wrong) in [(600, false), (599, true), (MAX_SECONDS, false), (MAX_SECONDS + 1, true)] {
            assert_eq!(!validate(&json!({"spec": {"expirationSeconds": seconds}})).is_empty(), wrong, "{seconds}");
        }
    }
}
