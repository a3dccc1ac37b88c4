use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::codec;
use crate::samples;
use crate::schema::lookup;

fn encode_value(ty: &Type, value: &Value) -> Vec<u8> {
    encode(ty, value.to_string().as_bytes())
}

#[test]
fn an_object_round_trips() {
    let ty = lookup("", "v1", "Pod").unwrap();
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"b": "1", "a": ""}, "creationTimestamp": "2024-01-01T00:00:00Z",
        "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
        "spec": {"containers": [{"name": "c", "image": "i", "command": ["x", ""], "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "500m"}},
            "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 5}}], "priority": -5, "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]}, "status": {"startTime": "2024-01-01T00:00:00Z"}});
    codec::canonicalize(ty, &mut pod);
    let bytes = encode_value(ty, &pod);
    let envelope = open(&bytes).unwrap();
    assert_eq!((&*envelope.api_version, &*envelope.kind), ("v1", "Pod"));
    let mut decoded = decode(ty, &bytes).unwrap();
    codec::canonicalize(ty, &mut decoded);
    assert_eq!(decoded, pod);
    assert_eq!(encode_value(ty, &decoded), bytes);
}

#[test]
fn schemas_round_trip() {
    let ty = lookup("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    let mut crd = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "additionalProperties": false, "maximum": 1.5,
        "properties": {"a": {"items": {"type": "string"}, "default": {"x": [1, null]}, "additionalProperties": {"type": "string"}}}}}}]}});
    codec::canonicalize(ty, &mut crd);
    let mut decoded = decode(ty, &encode_value(ty, &crd)).unwrap();
    codec::canonicalize(ty, &mut decoded);
    assert_eq!(decoded, crd);
}

#[test]
fn objects_tell_their_type() {
    let status = crate::status::Status::no_such_path().to_value();
    let bytes = encode_any(&status).unwrap();
    let ty = schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.Status").unwrap();
    assert_eq!(decode(ty, &bytes).unwrap()["code"], 404);
    assert!(encode_any(&json!({"apiVersion": "v1", "kind": "ConfigMapList", "items": []})).is_some());
    assert!(encode_any(&json!({"apiVersion": "example.com/v1", "kind": "Widget"})).is_none());
}

#[test]
fn broken_bytes_are_refused() {
    let ty = lookup("", "v1", "Pod").unwrap();
    assert_eq!(decode(ty, b"{}"), Err(ProtoError::NoMagic));
    assert_eq!(decode(ty, b"k8s\0\x12"), Err(ProtoError::Malformed));
    let bytes = encode_value(ty, &json!({"metadata": {"name": "a"}}));
    for end in 0..bytes.len() {
        let _ = decode(ty, &bytes[..end]);
    }
}

/// Objects that upstream's own encoder wrote: type, protobuf, and the JSON that a reader gets.
const VECTORS: &str = "testdata/protobuf.jsonl.gz";

#[test]
fn upstreams_bytes_are_read_and_written_alike() {
    let file = std::fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(VECTORS)).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    for line in text.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        let name = vector["type"].as_str().unwrap();
        let ty = schema::by_name(name).unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(vector["pb"].as_str().unwrap()).unwrap();
        let mut decoded = decode(ty, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        codec::canonicalize(ty, &mut decoded);
        let mut expected = vector["json"].clone();
        codec::canonicalize(ty, &mut expected);
        assert_eq!(decoded, expected, "{name}");
        let again = encode_value(ty, &decoded);
        let mut second = decode(ty, &again).unwrap();
        codec::canonicalize(ty, &mut second);
        assert_eq!(second, decoded, "{name}");
    }
}

#[test]
fn lists_and_events_are_framed() {
    let ty = lookup("", "v1", "ConfigMap").unwrap();
    let item = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    let mut items = Vec::new();
    push_item(ty, item.to_string().as_bytes(), &mut Scratch::default(), &mut items);
    let mut bytes = list_head("v1", "ConfigMapList", &json!({"resourceVersion": "7"}), items.len());
    bytes.extend_from_slice(&items);
    bytes.extend_from_slice(ENVELOPE_END);
    let list =
        json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}, "items": [item]});
    assert_eq!(bytes, encode_any(&list).unwrap());
    let frame = watch_frame("ADDED", b"k8s\0");
    assert_eq!(frame, b"\0\0\0\x0f\x0a\x05ADDED\x12\x06\x0a\x04k8s\0");
    let metadata = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "a"}});
    assert!(encode_any(&metadata).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn objects_of_every_kind_come_back(which in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..600), damage in any::<[prop::sample::Index; 2]>()) {
        let kinds: Vec<&Type> = schema::all().filter(|ty| ty.proto && ty.is_kind()).collect();
        let ty = kinds[which.index(kinds.len())];
        let mut object = samples::object(ty, &mut samples::Dice(bytes.iter()));
        codec::canonicalize(ty, &mut object);
        let mut wire = encode_value(ty, &object);
        let mut decoded = decode(ty, &wire).unwrap();
        codec::canonicalize(ty, &mut decoded);
        prop_assert_eq!(&decoded, &object, "{}", &*ty.name);
        prop_assert_eq!(&encode_value(ty, &decoded), &wire, "{}", &*ty.name);
        let (cut, at) = (damage[0].index(wire.len()), damage[1].index(wire.len()));
        let _ = decode(ty, &wire[..cut]);
        wire[at] ^= 0x11;
        let _ = decode(ty, &wire);
    }

    #[test]
    fn arbitrary_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let ty = lookup("", "v1", "Pod").unwrap();
        let mut framed = MAGIC.to_vec();
        let mut message = vec![0x12, bytes.len() as u8 | 0x80, (bytes.len() >> 7) as u8];
        message.extend_from_slice(&bytes);
        framed.extend_from_slice(&message);
        let _ = decode(ty, &framed);
        let _ = decode(ty, &bytes);
    }
}
