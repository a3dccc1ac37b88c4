use super::*;

fn openapi() -> OpenApi {
    OpenApi::new(SharedTable::new(crate::resources::table()))
}

fn json(openapi: &OpenApi, path: &str) -> Value {
    let response = openapi.respond(path, "", &HeaderMap::new()).unwrap();
    serde_json::from_slice(response.body()).unwrap()
}

#[test]
fn the_index_links_documents_by_hash() {
    let openapi = openapi();
    let index = json(&openapi, "/openapi/v3");
    let link = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let (path, query) = link.split_once('?').unwrap();
    let response = openapi.respond(path, query, &HeaderMap::new()).unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CACHE_CONTROL], "public, immutable");
    let stale = openapi.respond(path, "hash=00", &HeaderMap::new()).unwrap();
    assert_eq!((stale.status(), stale.headers()[LOCATION].to_str().unwrap()), (StatusCode::MOVED_PERMANENTLY, link));
    assert_eq!(openapi.respond("/openapi/v3/apis/none/v1", "", &HeaderMap::new()).unwrap().status(), 404);
    assert!(openapi.respond("/openapi/v4", "", &HeaderMap::new()).is_none());
}

#[test]
fn every_reference_has_a_definition() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let openapi = openapi();
    let index = json(&openapi, "/openapi/v3");
    let mut documents: Vec<Value> =
        index["paths"].as_object().unwrap().keys().map(|p| json(&openapi, &format!("/openapi/v3/{p}"))).collect();
    documents.push(json(&openapi, "/openapi/v2"));
    for document in documents {
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }
}

#[test]
fn operations_and_schemas_have_upstreams_shape() {
    let apps = json(&openapi(), "/openapi/v3/apis/apps/v1");
    let path = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    assert_eq!(path["patch"]["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(path["patch"]["x-kubernetes-action"], "patch");
    assert_eq!(path["parameters"][0]["name"], "name");
    let deployment = &apps["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "kind": "Deployment", "version": "v1"}])
    );
    assert_eq!(
        deployment["properties"]["spec"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
    );
    let containers = &apps["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let core = json(&openapi(), "/openapi/v3/api/v1");
    let exec = &core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"];
    assert_eq!(exec["get"]["operationId"], "connectCoreV1GetNamespacedPodExec");
}

#[test]
fn protobuf_alone_is_not_acceptable() {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf".parse().unwrap());
    assert_eq!(openapi().respond("/openapi/v2", "", &headers).unwrap().status(), StatusCode::NOT_ACCEPTABLE);
}

/// Regression: `kubectl explain` had no word for the fields that every object has when the object was a custom one.
#[test]
fn common_fields_of_custom_kinds_are_described() {
    let custom = crate::extension::resource(&json!({
        "metadata": {"uid": "u", "generation": 1},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "string"}}}}}]},
        "status": {"acceptedNames": {"plural": "things", "kind": "Thing", "listKind": "ThingList", "singular": "thing"}}}));
    let openapi = OpenApi::new(SharedTable::new(ResourceTable::new([Arc::new(custom)])));
    let whole = json(&openapi, "/openapi/v3/apis/example.com/v1");
    let thing = &whole["components"]["schemas"]["com.example.v1.Thing"]["properties"];
    assert!(thing["apiVersion"]["description"].as_str().unwrap().starts_with("APIVersion defines"));
    assert!(thing["metadata"]["description"].is_string() && thing["metadata"]["allOf"].is_array());
    assert!(thing["spec"].get("description").is_none());
}
