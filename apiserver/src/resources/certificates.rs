//! Certificate signing requests, and who may say what about them through which endpoint. Follows upstream's
//! certificates strategy, validation and printer.

use apimachinery::field::ErrorList;
use apimachinery::time::format_time;
use apimachinery::validation as names;
use base64::Engine as _;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::check::{At, Check, same};
use super::edit::{array_mut, at_mut, copy, remove, set};
use super::printing::{NONE, age, human_duration, name, text};
use super::{HookContext, NameRule, Strategy, meta};

/// The certificatesigningrequests resource; who asks is taken from the request, not from the object.
pub const REQUEST: Strategy = Strategy {
    names: NameRule(|_| Vec::new()),
    prepare_create: |request, cx| {
        set(request, "status", json!({}));
        let user = &cx.request.user;
        at_mut(request, "spec", |spec| {
            for field in ["username", "uid", "groups", "extra"] {
                remove(spec, field);
            }
            set(spec, "username", user.name.clone());
            if !user.uid.is_empty() {
                set(spec, "uid", user.uid.clone());
            }
            if !user.groups.is_empty() {
                set(spec, "groups", user.groups.clone());
            }
            if !user.extra.is_empty() {
                set(spec, "extra", json!(user.extra));
            }
        });
    },
    validate: |request, cx| {
        let mut check = meta::checked(request, cx);
        rules(&mut check, &At::root(request));
        check.errors
    },
    validate_update: |request, old, cx| update(request, old, cx, &[]),
    cells: Some(cells),
    ..Strategy::DEFAULT
};

/// `certificatesigningrequests/approval`: conditions Approved and Denied may be added here and nowhere else.
pub const APPROVAL: Strategy = Strategy {
    names: REQUEST.names,
    prepare_update: |request, old, cx| {
        copy(&mut request["status"], &old["status"], "certificate");
        keep(request, old, &["Failed"]);
        date_conditions(request, old, cx);
    },
    validate_update: |request, old, cx| update(request, old, cx, &["Approved", "Denied"]),
    ..Strategy::DEFAULT
};

/// `certificatesigningrequests/status`: the certificate, once, and the condition Failed.
pub const STATUS: Strategy = Strategy {
    names: REQUEST.names,
    prepare_update: |request, old, cx| {
        keep(request, old, &["Approved", "Denied"]);
        date_conditions(request, old, cx);
    },
    validate_update: |request, old, cx| {
        let mut errors = update(request, old, cx, &["Failed"]);
        let mut check = Check::new();
        let (now, before) = (At::root(request).get("status.certificate"), At::root(old).get("status.certificate"));
        if !before.is_empty() && now.str() != before.str() {
            check.forbidden(&now, "updates may not modify existing certificate content");
        }
        if !now.is_empty() && !is_certificate_chain(now.str()) {
            check.invalid(&now, "must be PEM certificates only");
        }
        errors.append(&mut check.errors);
        errors
    },
    ..Strategy::DEFAULT
};

const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];

fn of_type<'a>(object: &'a Value, ty: &str) -> Vec<&'a Value> {
    object
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|c| c["type"] == ty)
        .collect()
}

/// Conditions of these types keep their content when their number is the same (another number is refused later).
fn keep(request: &mut Value, old: &Value, types: &[&str]) {
    for ty in types {
        let before: Vec<Value> = of_type(old, ty).into_iter().cloned().collect();
        if before.len() != of_type(request, ty).len() {
            continue;
        }
        let mut kept = before.into_iter();
        at_mut(request, "status", |status| {
            for condition in array_mut(status, "conditions").iter_mut().filter(|c| c["type"] == *ty) {
                kept.next().into_iter().for_each(|old| *condition = old);
            }
        });
    }
}

fn date_conditions(request: &mut Value, old: &Value, cx: &HookContext) {
    let now = format_time(cx.request.now);
    let before = old.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    at_mut(request, "status", |status| {
        for condition in array_mut(status, "conditions") {
            if condition["lastUpdateTime"].is_null() {
                set(condition, "lastUpdateTime", now.clone());
            }
            if condition["lastTransitionTime"].is_null() {
                let same_state =
                    before.iter().find(|c| c["type"] == condition["type"] && c["status"] == condition["status"]);
                let time = same_state.map(|c| c["lastTransitionTime"].clone()).filter(|t| !t.is_null());
                set(condition, "lastTransitionTime", time.unwrap_or_else(|| now.clone().into()));
            }
        }
    });
}

fn update(request: &Value, old: &Value, cx: &HookContext, may_add: &[&str]) -> ErrorList {
    let mut check = meta::checked(request, cx);
    let (new, old_at) = (At::root(request), At::root(old));
    rules(&mut check, &new);
    meta::update(&mut check, &new, &old_at);
    let conditions = new.get("status.conditions");
    for ty in DECISIONS {
        let (now, before) = (of_type(request, ty).len(), of_type(old, ty).len());
        if now < before {
            check.forbidden(&conditions, "updates may not remove a decision");
        } else if now > before && !may_add.contains(&ty) {
            check.forbidden(&conditions, "updates may not add this decision here");
        }
    }
    let certificate = new.get("status.certificate");
    if !may_add.contains(&"Failed") && !same(certificate.value, old_at.get("status.certificate").value) {
        check.forbidden(&certificate, "updates may not set certificate content");
    }
    check.errors
}

fn rules(check: &mut Check, request: &At) {
    const USAGES: [&str; 23] = [
        "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment",
        "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel",
        "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
        "server auth", "signing", "timestamping",
    ];
    let spec = request.get("spec");
    let bytes = spec.get("request");
    if !is_signing_request(bytes.str()) {
        check.invalid(&bytes, "unable to parse csr: PEM block type must be CERTIFICATE REQUEST");
    }
    let usages = spec.get("usages");
    check.present(&usages);
    let mut seen: Vec<&str> = Vec::new();
    for usage in usages.items() {
        check.one_of(&usage, &USAGES);
        if seen.contains(&usage.str()) {
            check.duplicate(&usage);
        }
        seen.push(usage.str());
    }
    let signer = spec.get("signerName");
    if signer.str() == "kubernetes.io/legacy-unknown" {
        check.invalid(&signer, "the legacy signerName is not allowed via this API version");
    } else {
        signer_name(check, &signer);
    }
    let expiration = spec.get("expirationSeconds");
    if expiration.is_set() && expiration.number() < 600 {
        check.invalid(&expiration, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    conditions(check, &request.get("status.conditions"));
}

fn signer_name(check: &mut Check, at: &At) {
    const MAX_SIGNER_BYTES: usize = 253 + 1 + 253 + 1 + 63;
    if !check.present(at) {
        return;
    }
    let Some((domain, path)) = at.str().split_once('/').filter(|(_, path)| !path.contains('/')) else {
        return check.invalid(at, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    if domain.len() > 253 {
        check.too_long(at, 253);
    }
    let first_wrong = |text: &str, rule: names::NameFn| text.split('.').map(rule).find(|found| !found.is_empty());
    for complaint in first_wrong(domain, names::dns1123_label).into_iter().flatten() {
        check.invalid(at, complaint);
    }
    if !domain.contains('.') {
        check.invalid(at, "should be a domain with at least two segments separated by dots");
    }
    for complaint in first_wrong(path, names::dns1123_subdomain).into_iter().flatten() {
        check.invalid(at, complaint);
    }
    if at.len() > MAX_SIGNER_BYTES {
        check.too_long(at, MAX_SIGNER_BYTES);
    }
}

fn conditions(check: &mut Check, at: &At) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in at.items() {
        let ty = condition.get("type");
        check.present(&ty);
        let allowed: &[&str] = if DECISIONS.contains(&ty.str()) { &["True"] } else { &["False", "True", "Unknown"] };
        check.present_one_of(&condition.get("status"), allowed);
        let opposite = match ty.str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if seen.contains(&opposite) && !opposite.is_empty() {
            check.invalid(at, "Approved and Denied conditions are mutually exclusive");
        }
        if seen.contains(&ty.str()) {
            check.duplicate(&ty);
        }
        seen.push(ty.str());
    }
}

/// The PEM blocks in base64 text, as label and DER.
fn pem_blocks(base64_text: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let text = base64::engine::general_purpose::STANDARD.decode(base64_text).ok()?;
    x509_parser::pem::Pem::iter_from_buffer(&text).map(|pem| pem.ok().map(|pem| (pem.label, pem.contents))).collect()
}

fn is_signing_request(base64_text: &str) -> bool {
    pem_blocks(base64_text).is_some_and(|blocks| {
        blocks.first().is_some_and(|(label, der)| {
            label == "CERTIFICATE REQUEST" && X509CertificationRequest::from_der(der).is_ok()
        })
    })
}

fn is_certificate_chain(base64_text: &str) -> bool {
    pem_blocks(base64_text)
        .is_some_and(|blocks| !blocks.is_empty() && blocks.iter().all(|(label, _)| label == "CERTIFICATE"))
}

fn cells(request: &Value, cx: &HookContext) -> Vec<Value> {
    let at = At::root(request);
    let has = |ty: &str| !of_type(request, ty).is_empty();
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state += ",Failed";
    }
    if !at.get("status.certificate").is_empty() {
        state += ",Issued";
    }
    let duration = at.get("spec.expirationSeconds").int().map_or(NONE.to_owned(), human_duration);
    vec![
        name(&at),
        age(&at, cx.request.now),
        text(&at.get("spec.signerName")),
        text(&at.get("spec.username")),
        duration.into(),
        state.into(),
    ]
}
