use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::samples;
use crate::schema::lookup;
use crate::status::Status;

fn smp(kind: &str, object: &Value, patch: &Value) -> Result<Value, Status> {
    let group = if kind == "Deployment" { "apps" } else { "" };
    strategic_merge(lookup(group, "v1", kind).unwrap(), object, patch)
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect()
}

#[test]
fn merge_patch_is_rfc_7386() {
    for (target, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        let mut result = target;
        merge_patch(&mut result, &patch);
        assert_eq!(result, expected);
    }
}

#[test]
fn json_patch_applies_and_refuses() {
    let object = json!({"a": {"x": 1}, "l": [1, 2, 3], "s/t": {"~": 1}});
    for (patch, expected) in [
        (json!([]), json!(null)),
        (json!(null), json!(null)),
        (
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "remove", "path": "/a"}]),
            json!({"b": 1, "l": [1, 2, 3], "s/t": {"~": 1}}),
        ),
        (
            json!([{"op": "add", "path": "/l/-", "value": 4}, {"op": "add", "path": "/l/0", "value": 0}, {"op": "remove", "path": "/l/-1"}]),
            json!({"a": {"x": 1}, "l": [0, 1, 2, 3], "s/t": {"~": 1}}),
        ),
        (
            json!([{"op": "move", "from": "/a/x", "path": "/x"}, {"op": "copy", "from": "/x", "path": "/l/1"}, {"op": "test", "path": "/l/1", "value": 1}]),
            json!({"a": {}, "x": 1, "l": [1, 1, 2, 3], "s/t": {"~": 1}}),
        ),
        (
            json!([{"op": "replace", "path": "/s~1t/~0", "value": 2}, {"op": "replace", "path": "/new", "value": 3}]),
            json!({"a": {"x": 1}, "l": [1, 2, 3], "new": 3, "s/t": {"~": 2}}),
        ),
        (
            json!([{"op": "copy", "from": "/none", "path": "/n"}]),
            json!({"a": {"x": 1}, "l": [1, 2, 3], "n": null, "s/t": {"~": 1}}),
        ),
        (json!([{"op": "replace", "path": "", "value": {"a": 1}}]), json!({"a": 1})),
    ] {
        let result = json_patch(&object, patch.to_string().as_bytes()).unwrap();
        assert_eq!(result, if expected.is_null() { object.clone() } else { expected }, "{patch}");
    }
    for (patch, code) in [
        (json!({"op": "add"}), 400),
        (json!([{"op": "add"}]), 422),
        (json!([{"op": "nope", "path": "/a"}]), 422),
        (json!([{"op": "remove", "path": "/none"}]), 422),
        (json!([{"op": "replace", "path": "/none/x", "value": 1}]), 422),
        (json!([{"op": "test", "path": "/a/x", "value": 2}]), 422),
        (json!([{"op": "add", "path": "/l/9", "value": 1}]), 422),
        (json!([{"op": "remove", "path": "/l/3"}]), 422),
        (json!([{"op": "add", "path": "", "value": 1}]), 422),
        (Value::from(vec![json!({"op": "test", "path": "/a/x", "value": 1}); MAX_OPERATIONS + 1]), 413),
    ] {
        assert_eq!(json_patch(&object, patch.to_string().as_bytes()).unwrap_err().code, code, "{patch}");
    }
    // Doubling copies end at the bound.
    let doubling: Vec<Value> = (0..60).map(|n| json!({"op": "copy", "from": "", "path": format!("/a/{n}")})).collect();
    assert!(json_patch(&object, Value::from(doubling).to_string().as_bytes()).is_err());
}

fn deployment() -> Value {
    json!({"metadata": {"finalizers": ["x", "y"]}, "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}, "template": {"spec": {
        "nodeSelector": {"k": "v"}, "tolerations": [{"key": "t"}], "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "a", "image": "a:1", "args": ["x"], "env": [{"name": "E1", "value": "1"}, {"name": "E2", "value": "2"}]}, {"name": "b", "image": "b:1"}]}}}})
}

/// A patch of the pod spec, answering the patched pod spec.
fn pod_spec(patch: &Value) -> Result<Value, Status> {
    let patch = json!({"spec": {"template": {"spec": patch}}});
    smp("Deployment", &deployment(), &patch).map(|mut v| v["spec"]["template"]["spec"].take())
}

#[test]
fn strategic_merge_by_keys() {
    let spec = pod_spec(&json!({"containers": [{"name": "b", "image": "b:2"}, {"name": "c", "image": "c", "command": null}], "tolerations": [{"key": "u"}]})).unwrap();
    assert_eq!(names(&spec["containers"]), ["a", "b", "c"]);
    assert_eq!(spec["containers"][1]["image"], "b:2");
    // A new element comes as it is; its nulls go when the result is brought to its type.
    assert_eq!(spec["containers"][2], json!({"name": "c", "image": "c", "command": null}));
    assert_eq!(spec["tolerations"], json!([{"key": "u"}]));
    let spec = pod_spec(&json!({"containers": [{"name": "a", "args": null, "env": [{"name": "E3", "value": "3"}]}], "nodeSelector": {"l": "w"}})).unwrap();
    assert_eq!(names(&spec["containers"][0]["env"]), ["E3", "E1", "E2"]);
    assert!(spec["containers"][0].get("args").is_none());
    assert_eq!(spec["nodeSelector"], json!({"k": "v", "l": "w"}));
    let account =
        smp("ServiceAccount", &json!({"secrets": [{"name": "a"}]}), &json!({"secrets": [{"name": "b"}]})).unwrap();
    assert_eq!(names(&account["secrets"]), ["b", "a"]);
}

#[test]
fn delete_and_replace_directives() {
    let spec = pod_spec(&json!({"containers": [{"name": "b", "$patch": "delete"}, {"name": "a", "env": [{"name": "E1", "$patch": "delete"}]}], "nodeSelector": {"$patch": "delete"}})).unwrap();
    assert_eq!(names(&spec["containers"]), ["a"]);
    assert_eq!(names(&spec["containers"][0]["env"]), ["E2"]);
    assert_eq!(spec["nodeSelector"], json!({}));
    let spec = pod_spec(
        &json!({"containers": [{"$patch": "replace"}, {"name": "z"}], "nodeSelector": {"$patch": "replace", "m": "2"}}),
    )
    .unwrap();
    assert_eq!(spec["containers"], json!([{"name": "z"}]));
    assert_eq!(spec["nodeSelector"], json!({"m": "2"}));
    assert_eq!(pod_spec(&json!({"containers": [{"$patch": "delete"}]})).unwrap_err().code, 500);
    assert_eq!(pod_spec(&json!({"containers": [{"image": "x"}]})).unwrap_err().code, 500);
    let fresh = pod_spec(&json!({"initContainers": [{"name": "i", "$patch": "delete"}, {"name": "j", "$retainKeys": ["name"]}], "affinity": {"$patch": "delete"}})).unwrap();
    assert_eq!(fresh["initContainers"], json!([{"name": "j"}]));
    assert!(fresh.get("affinity").is_none());
}

#[test]
fn retain_keys_and_primitives() {
    let strategy = |patch: Value| {
        smp("Deployment", &deployment(), &json!({"spec": {"strategy": patch}}))
            .map(|mut v| v["spec"]["strategy"].take())
    };
    assert_eq!(strategy(json!({"$retainKeys": ["type"], "type": "Recreate"})).unwrap(), json!({"type": "Recreate"}));
    assert_eq!(strategy(json!({"$retainKeys": ["type"], "type": "x", "rollingUpdate": {}})).unwrap_err().code, 400);
    let spec =
        pod_spec(&json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}))
            .unwrap();
    assert_eq!(spec["volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]));
    let finalizers = |patch: Value| {
        smp("Deployment", &deployment(), &json!({"metadata": patch})).unwrap()["metadata"]["finalizers"].take()
    };
    assert_eq!(finalizers(json!({"$deleteFromPrimitiveList/finalizers": ["x", "none"]})), json!(["y"]));
    assert_eq!(finalizers(json!({"finalizers": ["z", "y"]})), json!(["z", "x", "y"]));
    assert_eq!(finalizers(json!({"$setElementOrder/finalizers": ["y", "x"]})), json!(["y", "x"]));
    assert_eq!(finalizers(json!({"finalizers": null})), Value::Null);
}

#[test]
fn element_order() {
    let order = |patch: Value| pod_spec(&patch).map(|s| names(&s["containers"]).join(""));
    assert_eq!(order(json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]})).unwrap(), "ba");
    assert_eq!(order(json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [{"name": "c"}]})).unwrap(), "cba");
    assert_eq!(
        order(json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "b", "image": "x"}]}))
            .unwrap(),
        "ab"
    );
    assert_eq!(order(json!({"$setElementOrder/containers": [{"name": "zzz"}]})).unwrap(), "ab");
    assert_eq!(
        order(json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "q"}]})).unwrap_err().code,
        500
    );
    assert_eq!(order(json!({"$setElementOrder/containers": [{"image": "x"}]})).unwrap_err().code, 500);
}

fn any_value() -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec![
        "metadata", "finalizers", "spec", "template", "containers", "name", "env", "$patch", "$retainKeys",
        "$setElementOrder/containers", "$deleteFromPrimitiveList/finalizers",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        prop::sample::select(vec!["a", "b", "replace", "delete", "merge"]).prop_map(Value::from),
        (0..3).prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(keys.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn pod(bytes: &[u8]) -> Value {
    samples::object(lookup("", "v1", "Pod").unwrap(), &mut samples::Dice(bytes.iter()))
}

/// The merge patch that makes `to` of `from`, neither with nulls.
fn merge_diff(from: &Value, to: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (from, to) else { return to.clone() };
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = new.iter().filter(|(key, value)| old.get(*key) != Some(*value));
    let changed = changed
        .map(|(key, value)| (key.clone(), old.get(key).map_or_else(|| value.clone(), |was| merge_diff(was, value))));
    Value::Object(gone.chain(changed).collect())
}

/// The operations that make `to` of `from`.
fn operations(from: &Value, to: &Value, path: &str, out: &mut Vec<Value>) {
    let at = |key: &str| format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
    match (from, to) {
        _ if from == to => {}
        (Value::Object(old), Value::Object(new)) => {
            let gone = old.keys().filter(|key| !new.contains_key(*key));
            out.extend(gone.map(|key| json!({"op": "remove", "path": at(key)})));
            for (key, value) in new {
                match old.get(key) {
                    Some(was) => operations(was, value, &at(key), out),
                    None => out.push(json!({"op": "add", "path": at(key), "value": value})),
                }
            }
        }
        _ => out.push(json!({"op": "replace", "path": path, "value": to})),
    }
}

/// Lists that lie within each other in a pod, and one more.
const MAX_LEVELS_OF_LISTS: usize = 5;

/// Containers by name: the image of each, or that it is to go.
fn containers(of: &std::collections::BTreeMap<String, Option<u8>>) -> Value {
    let item = |(name, image): (&String, &Option<u8>)| match image {
        Some(image) => json!({"name": name, "image": format!("i{image}")}),
        None => json!({"name": name, "$patch": "delete"}),
    };
    json!({"spec": {"containers": of.iter().map(item).collect::<Vec<_>>()}})
}

proptest! {
    #[test]
    fn patches_never_panic(object in any_value(), patch in any_value()) {
        let _ = smp("Deployment", &object, &patch);
        let _ = json_patch(&object, patch.to_string().as_bytes());
        let mut merged = object.clone();
        merge_patch(&mut merged, &patch);
        let mut again = merged.clone();
        merge_patch(&mut again, &patch);
        prop_assert_eq!(merged, again);
    }

    #[test]
    fn an_empty_patch_changes_nothing(object in any_value()) {
        if object.is_object() {
            prop_assert_eq!(smp("Deployment", &object, &json!({})).unwrap(), object);
        }
    }

    #[test]
    fn differences_lead_from_one_object_to_the_other(from in prop::collection::vec(any::<u8>(), 0..300), to in prop::collection::vec(any::<u8>(), 0..300)) {
        let (from, to) = (pod(&from), pod(&to));
        let mut merged = from.clone();
        merge_patch(&mut merged, &merge_diff(&from, &to));
        prop_assert_eq!(&merged, &to);
        let mut steps = Vec::new();
        operations(&from, &to, "", &mut steps);
        prop_assert_eq!(json_patch(&from, Value::from(steps).to_string().as_bytes()).unwrap(), to.clone());
        // Where there is no list yet, elements are taken as they are, without keys or with the same one; then they are merged, and
        // what they hold is taken as it is in turn. Either something has no key, or one more time changes nothing.
        let mut last = smp("Pod", &from, &to);
        for _ in 0..MAX_LEVELS_OF_LISTS {
            last = last.and_then(|object| smp("Pod", &object, &to));
        }
        if let Ok(last) = last {
            prop_assert_eq!(smp("Pod", &last, &to).unwrap(), last);
        }
    }

    #[test]
    fn elements_are_merged_and_deleted_by_key(
        live in prop::collection::btree_map("[a-d]", (0..3u8).prop_map(Some), 0..4),
        patch in prop::collection::btree_map("[a-d]", prop::option::of(0..3u8), 0..4),
    ) {
        let mut wanted = live.clone();
        wanted.extend(patch.clone());
        let wanted: Vec<Value> =
            containers(&wanted)["spec"]["containers"].as_array().unwrap().iter().filter(|c| c.get("image").is_some()).cloned().collect();
        let merged = smp("Pod", &containers(&live), &containers(&patch)).unwrap();
        let mut merged = merged["spec"]["containers"].as_array().unwrap().clone();
        merged.sort_by_key(|container| container["name"].to_string());
        prop_assert_eq!(merged, wanted);
    }
}
