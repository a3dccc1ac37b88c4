use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema::lookup;

fn read(group: &str, version: &str, kind: &str, value: &Value, validation: FieldValidation) -> Result<Decoded, Status> {
    decode(lookup(group, version, kind).unwrap(), value.to_string().as_bytes(), Media::Json, validation)
}

fn defaulted(group: &str, version: &str, kind: &str, value: &Value) -> Value {
    let mut value = read(group, version, kind, value, FieldValidation::Strict).unwrap().value;
    apply_defaults(group, version, kind, &mut value);
    value
}

#[test]
fn a_deployment_gets_its_canonical_form_and_defaults() {
    let given = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {}, "creationTimestamp": null}, "spec": {
        "selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}, "spec": {
            "containers": [{"name": "c", "image": "i:1", "args": [], "resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}}}]}}}});
    let expected = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {
        "progressDeadlineSeconds": 600, "replicas": 1, "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "x"}},
        "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}, "type": "RollingUpdate"},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"image": "i:1", "imagePullPolicy": "IfNotPresent", "name": "c",
            "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30}}},
        "status": {}});
    assert_eq!(defaulted("apps", "v1", "Deployment", &given), expected);
}

#[test]
fn conditions_decide_about_defaults() {
    let strategy = |value: Value| {
        let given = json!({"spec": {"strategy": value, "replicas": 0}});
        defaulted("apps", "v1", "Deployment", &given)["spec"].take()
    };
    let recreate = strategy(json!({"type": "Recreate"}));
    assert_eq!(recreate["strategy"], json!({"type": "Recreate"}));
    assert_eq!(recreate["replicas"], 0);
    assert_eq!(
        strategy(json!({"rollingUpdate": {"maxSurge": 1}}))["strategy"]["rollingUpdate"],
        json!({"maxSurge": 1, "maxUnavailable": "25%"})
    );
    let job = |value: Value| defaulted("batch", "v1", "Job", &json!({"spec": value}))["spec"].take();
    assert_eq!((&job(json!({}))["completions"], &job(json!({}))["parallelism"]), (&json!(1), &json!(1)));
    assert_eq!(job(json!({"parallelism": 2})).get("completions"), None);
    assert_eq!(job(json!({"backoffLimitPerIndex": 2}))["backoffLimit"], i32::MAX);
    assert_eq!(job(json!({"podFailurePolicy": {"rules": []}}))["podReplacementPolicy"], "Failed");
    let policy = |value: Value| {
        defaulted("networking.k8s.io", "v1", "NetworkPolicy", &json!({"spec": value}))["spec"]["policyTypes"].take()
    };
    assert_eq!(policy(json!({})), json!(["Ingress"]));
    assert_eq!(policy(json!({"egress": [{}]})), json!(["Ingress", "Egress"]));
    let pull = |image: &str| {
        let given = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        defaulted("", "v1", "Pod", &given)["spec"]["containers"][0]["imagePullPolicy"].take()
    };
    for (image, policy) in [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("h:5000/a", "Always"),
        ("h:5000/a:1", "IfNotPresent"),
        ("a@sha256:00", "IfNotPresent"),
        ("", "IfNotPresent"),
    ] {
        assert_eq!(pull(image), policy, "{image}");
    }
    let claim = json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "d"}}]}});
    let claim = defaulted("apps", "v1", "StatefulSet", &claim)["spec"]["volumeClaimTemplates"][0].take();
    assert_eq!(
        claim,
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "d"},
        "spec": {"resources": {}, "volumeMode": "Filesystem"}, "status": {"phase": "Pending"}})
    );
}

#[test]
fn always_written_fields_appear() {
    let service =
        read("", "v1", "Service", &json!({"spec": {"ports": [{"port": 80}]}}), FieldValidation::Strict).unwrap().value;
    assert_eq!(
        service,
        json!({"metadata": {}, "spec": {"ports": [{"port": 80, "targetPort": 0}]}, "status": {"loadBalancer": {}}})
    );
    let role = read("rbac.authorization.k8s.io", "v1", "ClusterRole", &json!({"rules": []}), FieldValidation::Strict)
        .unwrap()
        .value;
    assert_eq!(role, json!({"metadata": {}, "rules": null}));
    let pod = json!({"spec": null, "status": {"conditions": [{"type": "Ready", "status": "True"}], "startTime": "2024-01-01T01:00:00.5+01:00"}});
    let pod = read("", "v1", "Pod", &pod, FieldValidation::Strict).unwrap().value;
    assert_eq!(
        pod["status"]["conditions"][0],
        json!({"lastProbeTime": null, "lastTransitionTime": null, "type": "Ready", "status": "True"})
    );
    assert_eq!(pod["status"]["startTime"], "2024-01-01T00:00:00Z");
    assert_eq!(pod["spec"], json!({"containers": null}));
}

#[test]
fn unknown_and_duplicate_fields() {
    let text = br#"{"metadata":{"name":"a","name":"b","xxx":1},"spec":{"zzz":{"a":[1]},"template":{"spec":{"containers":[{"name":"c","image":"i","image":"j","yyy":1}]}}}}"#;
    let ty = lookup("apps", "v1", "Deployment").unwrap();
    let expected = [
        "duplicate field \"metadata.name\"",
        "unknown field \"metadata.xxx\"",
        "unknown field \"spec.zzz\"",
        "duplicate field \"spec.template.spec.containers[0].image\"",
        "unknown field \"spec.template.spec.containers[0].yyy\"",
    ];
    let warned = decode(ty, text, Media::Json, FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, expected);
    assert_eq!(warned.value["metadata"], json!({"name": "b"}));
    assert!(decode(ty, text, Media::Json, FieldValidation::Ignore).unwrap().warnings.is_empty());
    let status = decode(ty, text, Media::Json, FieldValidation::Strict).unwrap_err();
    assert_eq!((status.code, &*status.reason), (400, "BadRequest"));
    assert!(status.message.starts_with(
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: duplicate field"
    ));
    let status = conform(ty, json!({"spec": {"zzz": 1}}), FieldValidation::Strict).unwrap_err();
    assert_eq!((status.code, &*status.details.unwrap().causes[0].field), (422, "patch"));
}

#[test]
fn wrong_types_are_refused() {
    for (kind, value) in [
        ("Pod", json!({"spec": {"containers": {}}})),
        ("Pod", json!({"spec": {"hostNetwork": "true"}})),
        ("Pod", json!({"spec": {"priority": 1.5}})),
        ("Pod", json!({"spec": {"priority": 3_000_000_000u32}})),
        ("Pod", json!({"spec": {"nodeName": 5}})),
        ("Pod", json!({"metadata": {"labels": {"a": 1}}})),
        ("Pod", json!({"metadata": {"creationTimestamp": "yesterday"}})),
        ("Pod", json!({"spec": {"overhead": {"cpu": "lots"}}})),
        ("Secret", json!({"data": {"a": "not base64!"}})),
        ("Pod", json!([])),
        ("Pod", json!("x")),
    ] {
        let status = read("", "v1", kind, &value, FieldValidation::Ignore).unwrap_err();
        assert_eq!(status.code, 400, "{value}");
        assert_eq!(conform(lookup("", "v1", kind).unwrap(), value, FieldValidation::Ignore).unwrap_err().code, 422);
    }
    let status = read("", "v1", "Pod", &json!({"spec": {"priority": "x"}}), FieldValidation::Ignore).unwrap_err();
    assert!(
        status.message.ends_with("json: cannot unmarshal string into Go struct field spec.priority of type int32"),
        "{}",
        status.message
    );
    for bad in ["{", "{}x", "", "{\"a\":}"] {
        assert_eq!(
            decode(lookup("", "v1", "Pod").unwrap(), bad.as_bytes(), Media::Json, FieldValidation::Ignore)
                .unwrap_err()
                .code,
            400
        );
    }
}

#[test]
fn base64_forgets_bits_that_belong_to_no_byte() {
    let data = |text: &str| {
        let secret = json!({"data": {"k": text}});
        read("", "v1", "Secret", &secret, FieldValidation::Ignore).map(|read| read.value["data"]["k"].clone())
    };
    assert_eq!(data("DG==").unwrap(), "DA==");
    assert_eq!(data("DA==").unwrap(), "DA==");
    assert_eq!(data("DA=").unwrap_err().code, 400);
}

#[test]
fn lists_of_resources_know_nothing_below_a_thousandth() {
    let quota = json!({"spec": {"hard": {"cpu": "1.0005", "memory": "1Gi", "pods": "1n"}}});
    let read = read("", "v1", "ResourceQuota", &quota, FieldValidation::Ignore).unwrap().value;
    assert_eq!(read["spec"]["hard"], json!({"cpu": "1001m", "memory": "1Gi", "pods": "1m"}));
}

#[test]
fn yaml_is_read_as_json_is() {
    let text =
        b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y-1\ndata:\n  a: \"1\"\n  a: \"2\"\n  1: x\nzzz: 1\n";
    let ty = lookup("", "v1", "ConfigMap").unwrap();
    let decoded = decode(ty, text, Media::Yaml, FieldValidation::Warn).unwrap();
    assert_eq!(
        decoded.value,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "y-1"}, "data": {"a": "2", "1": "x"}})
    );
    assert_eq!(decoded.warnings, ["duplicate field \"data.a\"", "unknown field \"zzz\""]);
    let volume = b"spec:\n  volumes:\n  - name: v\n    secret: {defaultMode: 0644, optional: yes}\n  containers: ~\n";
    let pod = decode(lookup("", "v1", "Pod").unwrap(), volume, Media::Yaml, FieldValidation::Strict).unwrap().value;
    assert_eq!(
        pod["spec"],
        json!({"containers": null, "volumes": [{"name": "v", "secret": {"defaultMode": 420, "optional": true}}]})
    );
    assert_eq!(decode(ty, b"a: [", Media::Yaml, FieldValidation::Ignore).unwrap_err().code, 400);
    assert_eq!(decode(ty, b"data: {a: 1}", Media::Yaml, FieldValidation::Ignore).unwrap_err().code, 400);
}

#[test]
fn duplicates_of_patches_are_told() {
    let told = |text: &[u8], media| parse_reporting(text, media, FieldValidation::Warn).unwrap().warnings;
    assert_eq!(told(br#"{"spec":{"replicas":6,"replicas":7}}"#, Media::Json), ["duplicate field \"spec.replicas\""]);
    let twice = b"\ndata:\n  a: '1'\n  a: '2'\n";
    assert_eq!(told(twice, Media::Yaml), ["duplicate field \"data.a\""]);
    assert!(yaml_duplicate(twice).unwrap().ends_with("\n  line 4: key \"a\" already set in map"));
    assert_eq!(yaml_duplicate(b"a: [{b: 1}, {b: 1}]"), None);
    assert_eq!(parse(br#"{"a":1,"a":2}"#, Media::Json).unwrap(), json!({"a": 2}));
}

#[test]
fn schemas_of_custom_resources_keep_their_shapes() {
    let given = json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "string"}, "default": [1, {"x": null}]}}, "additionalProperties": false, "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let decoded =
        read("apiextensions.k8s.io", "v1", "CustomResourceDefinition", &given, FieldValidation::Strict).unwrap().value;
    assert_eq!(decoded["spec"]["versions"][0]["schema"], given["spec"]["versions"][0]["schema"]);
}

#[test]
fn nesting_is_bounded() {
    let deep = "[".repeat(100_000);
    let ty = lookup("", "v1", "Pod").unwrap();
    assert!(decode(ty, deep.as_bytes(), Media::Json, FieldValidation::Ignore).is_err());
    assert!(parse(deep.as_bytes(), Media::Json).is_err());
    let mut value = json!({});
    for _ in 0..500 {
        value = json!({"properties": {"a": value}});
    }
    let crd = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": value}}]}});
    assert_eq!(
        conform(
            lookup("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap(),
            crd,
            FieldValidation::Ignore
        )
        .unwrap_err()
        .code,
        422
    );
}

/// A JSON value that often resembles a pod.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z0-9.:TZ-]{0,12}".prop_map(Value::from),
        Just(Value::from("100m")),
        Just(Value::from("2024-01-01T00:00:00Z")),
    ];
    let names = prop::sample::select(vec![
        "metadata", "spec", "status", "name", "labels", "containers", "resources", "limits", "cpu", "volumes", "ports",
        "env", "template", "x", "securityContext", "data", "conditions", "startTime", "priority", "hostNetwork",
        "livenessProbe", "httpGet", "port",
    ]);
    leaf.prop_recursive(6, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn decoding_never_panics_and_is_stable(value in any_value(), kind in prop::sample::select(vec![("", "Pod"), ("apps", "Deployment"), ("", "Secret")])) {
        let ty = lookup(kind.0, "v1", kind.1).unwrap();
        let bytes = value.to_string();
        if let Ok(first) = decode(ty, bytes.as_bytes(), Media::Json, FieldValidation::Warn) {
            let second = decode(ty, first.value.to_string().as_bytes(), Media::Json, FieldValidation::Strict).unwrap();
            prop_assert_eq!(&first.value, &second.value);
            let third = conform(ty, value, FieldValidation::Ignore).unwrap();
            prop_assert_eq!(&first.value, &third.value);
            let mut with_defaults = first.value.clone();
            apply_defaults(kind.0, "v1", kind.1, &mut with_defaults);
            let mut again = with_defaults.clone();
            canonicalize(ty, &mut again);
            apply_defaults(kind.0, "v1", kind.1, &mut again);
            prop_assert_eq!(with_defaults, again);
        }
    }

    #[test]
    fn arbitrary_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..200), yaml in any::<bool>()) {
        let media = if yaml { Media::Yaml } else { Media::Json };
        let _ = decode(lookup("", "v1", "Pod").unwrap(), &bytes, media, FieldValidation::Warn);
        let _ = parse(&bytes, media);
    }
}
