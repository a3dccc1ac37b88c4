//! Reading a request's body: bounded, and in a media type that the endpoint takes.

use apimachinery::codec::Media;
use apimachinery::proto;
use apimachinery::status::Status;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// Largest body of a request (upstream's 3 MiB).
pub const MAX_BODY_BYTES: usize = 3 << 20;

/// Collects a body.
///
/// # Errors
/// 413 when it is larger than [`MAX_BODY_BYTES`], 400 when it breaks off.
pub async fn read(mut body: Incoming) -> Result<Bytes, Status> {
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("the request's body broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if out.len() + data.len() > MAX_BODY_BYTES {
            let message = format!("Request entity is too large: limit is {MAX_BODY_BYTES}");
            return Err(Status::request_entity_too_large(message));
        }
        if out.is_empty() && http_body::Body::is_end_stream(&body) {
            // a body of one frame, as almost all are, is not copied
            return Ok(data);
        }
        out.extend_from_slice(&data);
    }
    Ok(out.freeze())
}

/// The media type without parameters, in lower case; empty when not given.
pub fn content_type(headers: &HeaderMap) -> String {
    let given = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// How an object in a body is written; absent means JSON.
///
/// # Errors
/// 415 for any other media type.
pub fn media(headers: &HeaderMap) -> Result<Media, Status> {
    match content_type(headers).as_str() {
        "" | "application/json" => Ok(Media::Json),
        "application/yaml" => Ok(Media::Yaml),
        proto::MEDIA_TYPE => Ok(Media::Protobuf),
        other => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf (got {other:?})"
        ))),
    }
}

/// Kinds of patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' own, by the schema's merge keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

/// Which patch a body is. Custom resources have no merge keys, so `strategic` says whether that kind is offered.
///
/// # Errors
/// 415 with the media types that are accepted.
pub fn patch_type(headers: &HeaderMap, strategic: bool) -> Result<PatchType, Status> {
    let given = content_type(headers);
    match given.as_str() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" if strategic => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => {
            let mut known = vec!["application/json-patch+json", "application/merge-patch+json"];
            if strategic {
                known.push("application/strategic-merge-patch+json");
            }
            known.push("application/apply-patch+yaml");
            let known = known.join(", ");
            let mut status = Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {known}"
            ));
            if !given.starts_with("application/strategic") {
                // As upstream's router answers, for which nothing is the object of the request.
                status.details = Some(Box::default());
            }
            Err(status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        let headers = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().unwrap());
            headers
        };
        assert_eq!(media(&HeaderMap::new()).unwrap(), Media::Json);
        assert_eq!(media(&headers("Application/YAML; charset=utf-8")).unwrap(), Media::Yaml);
        assert_eq!(media(&headers(proto::MEDIA_TYPE)).unwrap(), Media::Protobuf);
        assert_eq!(media(&headers("text/plain")).unwrap_err().code, 415);
        let strategic = headers("application/strategic-merge-patch+json");
        assert_eq!(patch_type(&strategic, true).unwrap(), PatchType::Strategic);
        assert_eq!(patch_type(&strategic, false).unwrap_err().code, 415);
        assert_eq!(patch_type(&headers("application/json"), true).unwrap_err().code, 415);
    }
}
