//! Whole transactions as expected text.

use serde_json::{Value, json};

use super::render::{Parts, frame, service_port};
use super::script::difference;
use crate::core::Family;
use crate::core::ledger::Ledger;
use crate::core::tests::{desired_of, sampler, service_object, settings, slice_object};

fn parts(objects: &[Value]) -> Parts {
    let mut out = Parts::default();
    for port in desired_of(objects).ports() {
        service_port(&settings(), port, &mut out);
    }
    out
}

/// The transaction from one state to another.
fn script(mut old: Parts, mut new: Parts) -> String {
    let mut ledger = Ledger::default();
    let before = std::mem::take(&mut old.elements);
    ledger.change(Vec::new(), before.clone());
    let elements = ledger.change(before, std::mem::take(&mut new.elements));
    let mut transaction = difference(&old, &new);
    transaction.elements = elements;
    transaction.text(Family::V4, &[])
}

#[test]
fn the_frame_is_upstreams() {
    let mut settings = settings();
    settings.service_cidrs = vec!["172.30.0.0/16".parse().unwrap()];
    insta::assert_snapshot!(frame(&settings).join("\n"));
}

#[test]
fn one_service_of_each_sort() {
    insta::assert_snapshot!(script(Parts::default(), parts(&sampler())));
}

#[test]
fn chain_names_are_upstreams() {
    let mut service = service_object("svc1", json!({}));
    service["metadata"]["namespace"] = json!("ns1");
    let text = script(Parts::default(), parts(&[service, slice_object("svc1", &[("10.180.0.1", "here")])]));
    assert!(text.contains("add chain ip kube-proxy service-ULMVA6XW-ns1/svc1/tcp/p80\n"), "{text}");
}

#[test]
fn a_change_touches_only_what_changed() {
    let with = |endpoints: &[(&str, &str)], seconds: u32| {
        let affinity = json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
        parts(&[service_object("svc", affinity), slice_object("svc", endpoints)])
    };
    let (one, two) = (&[("10.180.0.1", "there")][..], &[("10.180.0.1", "there"), ("10.180.0.2", "there")]);
    assert_eq!(script(with(one, 60), with(one, 60)), "");
    let shrink = script(with(two, 60), with(one, 60));
    assert!(shrink.contains("delete set ip kube-proxy affinity-") && !shrink.contains("element"), "{shrink}");
    assert_eq!(shrink.matches("flush chain").count(), 2, "the Service's and the gone endpoint's: {shrink}");
    // a set cannot change: nothing may refer to it while it is made anew
    let longer = script(with(one, 60), with(one, 90));
    let at = |part: &str| longer.find(part).unwrap();
    assert!(longer.matches("flush chain").count() == 2 && at("flush chain") < at("delete set"), "{longer}");
    assert!(at("delete set") < at("add set") && at("add set") < at("add rule"), "{longer}");
    let gone = script(with(one, 60), with(&[], 60));
    insta::assert_snapshot!(gone);
}
