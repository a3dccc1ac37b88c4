use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::lookup;

fn writer<'a>(manager: &'a str, second: i64) -> Writer<'a> {
    Writer {
        manager,
        api_version: "v1",
        subresource: "",
        reset_fields: &["status"],
        now: Timestamp::from_second(1_700_000_000 + second).unwrap(),
    }
}

fn config_map(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn apply_data(live: Option<&Value>, manager: &str, data: &Value, force: bool) -> Result<Value, Status> {
    let ty = lookup("", "v1", "ConfigMap").unwrap();
    let applied = apply(ty, live, &config_map(data), force, &writer(manager, 1))?;
    let mut object = codec::conform(ty, applied, codec::FieldValidation::Strict).unwrap().value;
    meta::set_uid(&mut object, "1");
    Ok(object)
}

fn owners(object: &Value) -> Vec<(&str, &str, Value)> {
    let entries = managed_fields(object).iter();
    entries.map(|e| (e["manager"].as_str().unwrap(), e["operation"].as_str().unwrap(), e["fieldsV1"].clone())).collect()
}

#[test]
fn create_share_conflict_force_and_give_up() {
    let first = apply_data(None, "m", &json!({"a": "1", "b": "1"}), false).unwrap();
    assert_eq!(owners(&first), [("m", "Apply", json!({"f:data": {"f:a": {}, "f:b": {}}}))]);
    let same = apply_data(Some(&first), "m", &json!({"a": "1", "b": "1"}), false).unwrap();
    assert_eq!(first, same);
    let shared = apply_data(Some(&first), "n", &json!({"a": "1"}), false).unwrap();
    assert_eq!(owners(&shared).len(), 2);
    let conflict = apply_data(Some(&shared), "n", &json!({"a": "2"}), false).unwrap_err();
    assert_eq!((conflict.code, &*conflict.reason), (409, "Conflict"));
    assert_eq!(conflict.message, "Apply failed with 1 conflict: conflict with \"m\" using v1: .data.a");
    assert_eq!(conflict.details.unwrap().causes[0].field, ".data.a");
    let forced = apply_data(Some(&shared), "n", &json!({"a": "2"}), true).unwrap();
    assert_eq!(forced["data"], json!({"a": "2", "b": "1"}));
    assert_eq!(owners(&forced)[0], ("m", "Apply", json!({"f:data": {"f:b": {}}})));
    let given_up = apply_data(Some(&shared), "m", &json!({}), false).unwrap();
    assert_eq!(given_up["data"], json!({"a": "1"}));
    let gone = apply_data(Some(&given_up), "n", &json!({}), false).unwrap();
    assert!(gone.get("data").is_none());
}

#[test]
fn ordinary_writes_are_recorded() {
    let ty = lookup("", "v1", "ConfigMap").unwrap();
    let mut created = config_map(&json!({"a": "1"}));
    update(ty, None, &mut created, &writer("u", 1));
    assert_eq!(owners(&created), [("u", "Update", json!({"f:data": {".": {}, "f:a": {}}}))]);
    meta::set_uid(&mut created, "1");
    let mut unchanged = created.clone();
    update(ty, Some(&created), &mut unchanged, &writer("u", 2));
    assert_eq!(created, unchanged);
    let mut changed = created.clone();
    changed["data"] = json!({"a": "2", "b": "1"});
    update(ty, Some(&created), &mut changed, &writer("v", 3));
    assert_eq!(
        owners(&changed),
        [("u", "Update", json!({"f:data": {}})), ("v", "Update", json!({"f:data": {"f:a": {}, "f:b": {}}}))]
    );
    // An apply over it conflicts with what the update took.
    let conflict = apply_data(Some(&changed), "m", &json!({"a": "1"}), false).unwrap_err();
    assert_eq!(conflict.code, 409);
    let mut reset = changed.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    update(ty, Some(&changed), &mut reset, &writer("v", 4));
    assert!(managed_fields(&reset).is_empty());
    // What was never tracked stays untracked until the first apply.
    let mut later = reset.clone();
    later["data"]["c"] = "1".into();
    update(ty, Some(&reset), &mut later, &writer("v", 5));
    assert!(managed_fields(&later).is_empty());
    let applied = apply_data(Some(&later), "m", &json!({"d": "1"}), false).unwrap();
    assert_eq!(owners(&applied)[1].0, BEFORE_FIRST_APPLY);
}

#[test]
fn lists_are_owned_by_key_and_keep_their_order() {
    let ty = lookup("apps", "v1", "Deployment").unwrap();
    let config = |containers: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": containers}}}});
    let first =
        config(json!([{"name": "a", "image": "a", "ports": [{"containerPort": 80}]}, {"name": "b", "image": "b"}]));
    let live = apply(ty, None, &first, false, &writer("m", 1)).unwrap();
    let fields = &managed_fields(&live)[0]["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"];
    assert_eq!(
        fields["k:{\"name\":\"a\"}"]["f:ports"],
        json!({"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}})
    );
    let other = apply(
        ty,
        Some(&live),
        &config(json!([{"name": "c", "image": "c"}, {"name": "b", "image": "b"}])),
        false,
        &writer("n", 2),
    )
    .unwrap();
    let names = |v: &Value| {
        v["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect::<String>()
    };
    assert_eq!(names(&other), "acb");
    let pruned =
        apply(ty, Some(&other), &config(json!([{"name": "b", "image": "b"}])), false, &writer("m", 3)).unwrap();
    assert_eq!(names(&pruned), "cb");
    let conflict =
        apply(ty, Some(&live), &config(json!([{"name": "a", "image": "x"}])), false, &writer("n", 2)).unwrap_err();
    assert_eq!(conflict.details.unwrap().causes[0].field, ".spec.template.spec.containers[name=\"a\"].image");
}

#[test]
fn configurations_must_fit() {
    let ty = lookup("apps", "v1", "Deployment").unwrap();
    for (config, code) in [
        (json!({"metadata": {"managedFields": [{}]}}), 400),
        (json!({"spec": {"unknown": 1}}), 500),
        (json!({"spec": {"replicas": "x"}}), 500),
        (json!({"spec": {"template": {"spec": {"containers": [{"name": "x"}, {"name": "x"}]}}}}), 500),
        (json!({"spec": {"template": {"spec": {"containers": {}}}}}), 500),
    ] {
        assert_eq!(apply(ty, None, &config, false, &writer("m", 1)).unwrap_err().code, code, "{config}");
    }
}

#[test]
fn the_oldest_writers_are_joined() {
    let ty = lookup("", "v1", "ConfigMap").unwrap();
    let mut live = config_map(&json!({}));
    for n in 0..20 {
        let mut next = live.clone();
        next["data"][format!("k{n}")] = "v".into();
        let before = (n > 0).then_some(&live);
        update(ty, before, &mut next, &writer(&format!("m{n}"), n));
        meta::set_uid(&mut next, "1");
        live = next;
    }
    let owners = owners(&live);
    assert_eq!(owners.len(), MAX_UPDATE_MANAGERS);
    assert_eq!(owners[0].0, ANCIENT_CHANGES);
    assert_eq!(owners[0].2["f:data"].as_object().unwrap().len(), 12);
}

fn any_value() -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec![
        "metadata", "labels", "spec", "template", "containers", "name", "ports", "containerPort", "image",
        "finalizers", "a",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        prop::sample::select(vec!["a", "b"]).prop_map(Value::from),
        (0..3).prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(keys.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn writes_never_panic(live in any_value(), object in any_value(), force in any::<bool>()) {
        let ty = lookup("apps", "v1", "Deployment").unwrap();
        let mut written = object.clone();
        update(ty, Some(&live), &mut written, &writer("u", 1));
        let _ = apply(ty, Some(&live), &object, force, &writer("m", 2));
        if let Ok(first) = apply(ty, None, &object, force, &writer("m", 2)) {
            let second = apply(ty, Some(&first), &object, false, &writer("m", 3)).unwrap();
            prop_assert_eq!(without_entries(&first), without_entries(&second));
        }
    }

    #[test]
    fn sets_round_trip(value in any_value()) {
        let ty = lookup("apps", "v1", "Deployment").unwrap();
        let set = walk::field_set(Shape::Struct(ty), &value);
        let read = FieldSet::from_value(&set.clone().into_value()).unwrap();
        prop_assert_eq!(FieldSet { member: set.member, ..read.clone() }, set.clone());
        prop_assert!(set.clone().difference(&set).is_empty());
        prop_assert_eq!(set.intersection(&set).paths(), set.paths());
        let _ = FieldSet::from_value(&value);
    }

    /// Against a model: who owns which key, and what the keys are.
    #[test]
    fn owners_are_those_who_applied_what_stands(steps in prop::collection::vec((prop::sample::select(vec!["m", "n", "o"]), prop::collection::btree_map("[a-c]", "[12]", 1..3)), 1..8)) {
        let mut owned: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut data: BTreeMap<String, String> = BTreeMap::new();
        let mut live = None;
        for (manager, config) in steps {
            let before = owned.remove(manager).unwrap_or_default();
            for (key, value) in &config {
                if data.insert(key.clone(), value.clone()).as_ref() != Some(value) {
                    for keys in owned.values_mut() {
                        keys.remove(key);
                    }
                }
            }
            for key in before.iter().filter(|key| !config.contains_key(*key)) {
                if owned.values().all(|keys| !keys.contains(key)) {
                    data.remove(key);
                }
            }
            owned.insert(manager, config.keys().cloned().collect());
            owned.retain(|_, keys| !keys.is_empty());
            let config = json!(config);
            let applied = apply_data(live.as_ref(), manager, &config, true).unwrap();
            let again = apply_data(Some(&applied), manager, &config, false).unwrap();
            prop_assert_eq!(&again, &applied);
            let stands: BTreeMap<String, String> = serde_json::from_value(applied.get("data").cloned().unwrap_or_else(|| json!({}))).unwrap();
            prop_assert_eq!(&stands, &data);
            let mut recorded: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
            for (manager, _, fields) in owners(&applied) {
                let keys = fields["f:data"].as_object().into_iter().flatten().map(|(key, _)| key.trim_start_matches("f:").to_owned());
                recorded.insert(manager, keys.filter(|key| key != ".").collect());
            }
            recorded.retain(|_, keys| !keys.is_empty());
            prop_assert_eq!(&recorded, &owned);
            live = Some(applied);
        }
    }
}
