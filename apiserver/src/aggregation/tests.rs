use serde_json::json;

use super::check::{condition, endpoint};
use super::documents::merge;
use super::*;
use crate::objects::fake::Fake;

fn spec() -> Spec {
    Spec::parse(&json!({"spec": {"group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000,
        "versionPriority": 200, "caBundle": "eA==", "service": {"namespace": "ns", "name": "api"}}}))
    .unwrap()
}

fn backends(available: bool) -> Backends {
    let resources = json!({"resources": [
        {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["fl"]},
        {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}]});
    let link = json!({"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=A"});
    let learned = Learned {
        resources,
        openapi_v3: [("apis/wardle.example.com".to_owned(), link)].into_iter().collect(),
        openapi_v2: json!({"paths": {"/x": {}}, "definitions": {"D": {"type": "string"}, "Ours": {}}}),
    };
    let backend = Backend { spec: spec(), tls: Err(String::new()), available, learned: Arc::new(learned) };
    Backends::from([(("wardle.example.com".to_owned(), "v1alpha1".to_owned()), Arc::new(backend))])
}

#[test]
fn whose_path() {
    let backends = backends(true);
    let cases = [
        ("/apis/wardle.example.com/v1alpha1", Some(false)),
        ("/apis/wardle.example.com/v1alpha1/namespaces/a/flunders", Some(false)),
        ("/openapi/v3/apis/wardle.example.com/v1alpha1", Some(true)),
        ("/openapi/v3/apis/wardle.example.com", Some(true)),
        ("/apis/wardle.example.com", None),
        ("/apis/wardle.example.com/v2", None),
        ("/openapi/v3", None),
        ("/api/v1/pods", None),
    ];
    for (path, expected) in cases {
        assert_eq!(find(&backends, path).map(|(_, document)| document), expected, "{path}");
    }
}

#[test]
fn who_asks() {
    let extra = [("example.org/a%b".to_owned(), vec!["1".to_owned()])].into();
    let user = UserInfo { name: "u".into(), uid: "7".into(), groups: vec!["a".into(), "b".into()], extra };
    let headers = remote_headers(&user);
    assert_eq!(headers["x-remote-user"], "u");
    assert_eq!(headers["x-remote-uid"], "7");
    assert_eq!(headers.get_all("x-remote-group").iter().count(), 2);
    assert_eq!(headers["x-remote-extra-example.org%2fa%25b"], "1");
}

#[test]
fn availability() {
    let service =
        json!({"metadata": {"namespace": "ns", "name": "api"}, "spec": {"ports": [{"name": "p", "port": 443}]}});
    let slice = |address: Option<&str>| {
        let endpoints: Vec<Value> = address.iter().map(|a| json!({"addresses": [a]})).collect();
        json!({"metadata": {"namespace": "ns", "name": "api-1", "labels": {"kubernetes.io/service-name": "api"}},
            "ports": [{"name": "p", "port": 8443}], "endpoints": endpoints})
    };
    let why = |cluster: &Fake| endpoint(cluster, &spec()).map_err(|(reason, _)| reason);
    let mut cluster = Fake::default();
    assert_eq!(why(&cluster), Err("ServiceNotFound"));
    cluster = cluster.with(("", "services"), service);
    assert_eq!(why(&cluster), Err("EndpointsNotFound"));
    cluster = cluster.with(SLICES, slice(None));
    assert_eq!(why(&cluster), Err("MissingEndpoints"));
    cluster = cluster.with(SLICES, slice(Some("10.1.2.3")));
    assert_eq!(why(&cluster), Ok(("10.1.2.3".to_owned(), 8443)));

    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let first = condition(&json!({}), &Ok(()), now).unwrap();
    assert_eq!(first["status"]["conditions"][0]["reason"], "Passed");
    assert_eq!(condition(&first, &Ok(()), now), None);
    let second = condition(&first, &Err(("ServiceNotFound", "x".to_owned())), now).unwrap();
    assert_eq!(second["status"]["conditions"].as_array().map(Vec::len), Some(1));
    assert_eq!(second["status"]["conditions"][0]["status"], "False");
}

#[test]
fn documents() {
    let merged = |path: &str, ours: Value, available: bool| -> Value {
        let bytes = merge(path, "application/json", &ours.to_string().into(), &backends(available)).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let groups = json!({"groups": [{"name": "apps", "versions": []}, {"name": "custom.io", "versions": []}]});
    let list = merged("/apis", groups, true);
    let names: Vec<&str> = list["groups"].as_array().unwrap().iter().filter_map(|g| g["name"].as_str()).collect();
    assert_eq!(names, ["apps", "wardle.example.com", "custom.io"]);
    assert_eq!(list["groups"][1]["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");
    let list = merged("/apis", json!({"kind": "APIGroupDiscoveryList", "items": []}), false);
    let version = &list["items"][0]["versions"][0];
    assert_eq!((&version["freshness"], &version["resources"][0]["scope"]), (&json!("Stale"), &json!("Namespaced")));
    assert_eq!(version["resources"][0]["subresources"][0]["subresource"], "status");
    let v2 = merged("/openapi/v2", json!({"paths": {}, "definitions": {"Ours": {"type": "object"}}}), true);
    assert_eq!(v2["definitions"], json!({"D": {"type": "string"}, "Ours": {"type": "object"}}));
}
