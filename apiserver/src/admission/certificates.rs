//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign for which signer.

use std::sync::Arc;

use apimachinery::status::Status;
use base64::Engine as _;
use futures::future::BoxFuture;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use super::{Operation, Plugin, Request, done};
use crate::authz::{Attributes, Authorizer, Union};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";

/// Common name and organizations of the request in a CertificateSigningRequest object; `None` when it cannot be read.
pub(crate) fn requested_subject(object: &Value) -> Option<(String, Vec<String>)> {
    let pem = base64::engine::general_purpose::STANDARD.decode(object["spec"]["request"].as_str()?).ok()?;
    let block = Pem::iter_from_buffer(&pem).find_map(Result::ok)?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    let common_name = subject.iter_common_name().last().and_then(|name| name.as_str().ok()).unwrap_or_default();
    let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    Some((common_name.to_owned(), organizations))
}

/// Whether the user may `verb` for the signer, by its name or by `domain/*`.
async fn may(authz: &Union, request: &Request<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let ask = Attributes {
            user: Arc::clone(&request.ctx.user),
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            resource_request: true,
            ..Attributes::default()
        };
        if authz.authorize(&ask).await.is_allowed() {
            return true;
        }
    }
    false
}

async fn require(authz: &Union, request: &Request<'_>, verb: &str, object: &Value) -> Result<(), Status> {
    let signer = request.old.unwrap_or(object)["spec"]["signerName"].as_str().unwrap_or_default();
    if may(authz, request, verb, signer).await {
        return Ok(());
    }
    Err(request.forbidden(Some(object), &format!("user not permitted to {verb} requests with signerName {signer:?}")))
}

/// Approving needs the verb `approve` on the signer.
pub struct Approval(pub Arc<Union>);

impl Plugin for Approval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Update && request.is(GROUP, REQUESTS, "approval")
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        match object {
            Some(object) => Box::pin(require(&self.0, request, "approve", object)),
            None => done(Ok(())),
        }
    }
}

/// Writing a certificate (or a failure to make one) needs the verb `sign` on the signer.
pub struct Signing(pub Arc<Union>);

impl Plugin for Signing {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Update && request.is(GROUP, REQUESTS, "status")
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let (Some(object), Some(old)) = (object, request.old) else { return done(Ok(())) };
        let same = |field: &str| object["status"][field] == old["status"][field];
        if same("certificate") && same("conditions") {
            return done(Ok(()));
        }
        Box::pin(require(&self.0, request, "sign", object))
    }
}

/// Nobody gets a client certificate in group `system:masters` through the API.
pub struct SubjectRestriction;

impl Plugin for SubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates(GROUP, REQUESTS)
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'_>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let Some(object) = object.filter(|o| o["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client") else {
            return done(Ok(()));
        };
        let masters = requested_subject(object).is_some_and(|(_, groups)| groups.iter().any(|g| g == "system:masters"));
        if !masters {
            return done(Ok(()));
        }
        let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
        done(Err(request.forbidden(Some(object), why)))
    }
}
