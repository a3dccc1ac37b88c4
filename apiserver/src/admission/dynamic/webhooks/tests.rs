//! Both plugins against a real HTTPS server.

use serde_json::json;

use super::super::feed::Feed;
use super::*;
use crate::admission::Operation;
use crate::admission::tests::request;
use crate::http::request::RequestContext;
use crate::objects::fake::Fake;
use crate::webhook::tests::Server;

fn answer(path: &str, asked: &Value) -> (u16, Value) {
    let request = &asked["request"];
    let patch = |operations: Value| {
        json!({"allowed": true, "patchType": "JSONPatch",
            "patch": base64::engine::general_purpose::STANDARD.encode(operations.to_string())})
    };
    let mut response = match path {
        "/deny" => json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "no"}}),
        "/label" => {
            let seen = request["object"]["metadata"]["labels"]["rounds"].as_str().unwrap_or_default();
            patch(json!([{"op": "add", "path": "/metadata/labels", "value": {"rounds": format!("{seen}x")}}]))
        }
        "/container" => patch(json!([{"op": "add", "path": "/spec/initContainers",
            "value": [{"name": "side", "image": "side:1", "nope": 1}]}])),
        "/other-uid" => json!({"allowed": true, "uid": "other"}),
        "/broken" => return (500, json!({})),
        _ => json!({"allowed": true, "warnings": ["careful"], "auditAnnotations": {"k": "v"}}),
    };
    if response["uid"].is_null() {
        response["uid"] = request["uid"].clone();
    }
    (200, json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}))
}

/// A plugin with one configuration per path, each changed by `change`.
fn plugin(server: &Server, mutating: bool, paths: &[&str], change: &Value) -> Webhooks {
    let feeds = super::super::Feeds::default();
    for (i, path) in paths.iter().enumerate() {
        let mut hook = json!({"name": format!("w{i}.example.com"), "clientConfig": server.url(path), "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 10, "reinvocationPolicy": "IfNeeded",
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["pods"]}]});
        hook.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let object = json!({"metadata": {"name": format!("c{i}")}, "webhooks": [hook]});
        let feed: &Feed<Configuration> = if mutating { &feeds.mutating_webhooks } else { &feeds.validating_webhooks };
        feed.insert(&object);
    }
    let cluster = Fake::default().with(("", "namespaces"), json!({"metadata": {"name": "ns"}}));
    let objects: Arc<dyn crate::objects::Objects> = Arc::new(cluster);
    let shared = Shared {
        feeds: Arc::new(feeds),
        client: Arc::new(crate::webhook::Client::new(Arc::clone(&objects))),
        objects,
        table: crate::resources::SharedTable::new(crate::resources::table()),
        authz: Arc::new(crate::authz::build(&crate::authz::AuthzConfig::default()).unwrap()),
        options: crate::config::ServerOptions {
            allow_privileged: false,
            service_cidrs: Vec::new(),
            node_port_range: (30000, 32767),
            cluster_domain: "cluster.local".to_owned(),
        },
    };
    Webhooks { shared: Arc::new(shared), mutating }
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

async fn run(plugin: &Webhooks, ctx: &RequestContext) -> (Value, Result<(), Status>) {
    let asked = request(ctx, Operation::Create, "", "pods", "ns");
    let mut object = pod();
    if !plugin.mutating {
        let result = plugin.validate(&asked, Some(&object)).await;
        return (object, result);
    }
    let first = Round::default();
    let mut result = plugin.mutate(&asked, Some(&mut object), &first).await;
    if let Some(second) = first.second().filter(|_| result.is_ok()) {
        result = plugin.mutate(&asked, Some(&mut object), &second).await;
    }
    (object, result)
}

#[tokio::test]
async fn what_webhooks_say() {
    let server = Server::start(&["localhost"], answer, true).await;
    let none = json!({});
    let ignore = json!({"failurePolicy": "Ignore"});
    let dry = RequestContext { dry_run: true, ..RequestContext::default() };
    let effects = json!({"sideEffects": "Some"});
    let condition = json!({"matchConditions": [{"name": "n", "expression": "object.metadata.name != 'p'"}]});
    let cases: [(&str, &Value, bool, Option<u16>); 9] = [
        ("/allow", &none, false, None),
        ("/deny", &none, false, Some(403)),
        ("/deny", &ignore, false, Some(403)),
        ("/deny", &condition, false, None),
        ("/broken", &none, false, Some(500)),
        ("/broken", &ignore, false, None),
        ("/other-uid", &none, false, Some(500)),
        ("/allow", &effects, true, Some(400)),
        ("/allow", &none, true, None),
    ];
    for mutating in [false, true] {
        for (path, change, is_dry, wanted) in &cases {
            let ctx = if *is_dry { dry.clone() } else { RequestContext::default() };
            let (_, result) = run(&plugin(&server, mutating, &[path], change), &ctx).await;
            assert_eq!(result.err().map(|status| status.code), *wanted, "{path} {change} {mutating}");
        }
    }
    let ctx = RequestContext::default();
    run(&plugin(&server, false, &["/allow"], &none), &ctx).await.1.unwrap();
    assert_eq!(ctx.warnings.list(), ["careful"]);
    assert_eq!(ctx.annotations.list().get("w0.example.com/k").map(String::as_str), Some("v"));
}

#[tokio::test]
async fn patches_are_taken_over() {
    let server = Server::start(&["localhost"], answer, true).await;
    let ctx = RequestContext::default();
    let (object, result) = run(&plugin(&server, true, &["/label", "/container"], &json!({})), &ctx).await;
    result.unwrap();
    // The second webhook's change makes the first be asked again.
    assert_eq!(object["metadata"]["labels"]["rounds"], "xx");
    let side = &object["spec"]["initContainers"][0];
    assert_eq!((&side["imagePullPolicy"], &side["nope"]), (&json!("IfNotPresent"), &Value::Null));
    // A validating webhook cannot.
    let (_, result) = run(&plugin(&server, false, &["/label"], &json!({})), &ctx).await;
    assert_eq!(result.unwrap_err().code, 500);
}
