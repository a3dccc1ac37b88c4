//! Answers that are not objects of a resource: Status, texts, and the headers that every answer carries.

use apimachinery::status::Status;
use component_base::serving::{Body, full};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::request::Warnings;

const WARNING: HeaderName = HeaderName::from_static("warning");
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Warnings are cut to what proxies let pass (upstream's bounds).
const MAX_WARNING_BYTES: usize = 256;
const MAX_WARNINGS_BYTES: usize = 4096;

/// A JSON answer.
pub fn json(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(format!("{value}\n")));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A Status as JSON, with `Retry-After` where the Status says so.
pub fn status(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.to_value());
    response.extensions_mut().insert(status.clone());
    let seconds = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if seconds > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A plain text.
pub fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// A Status in the form that the client takes, if that is not JSON.
pub fn in_form(response: Response<Body>, accept: &http::HeaderMap) -> Response<Body> {
    let Some(status) = response.extensions().get::<Status>() else { return response };
    let Some(other) = crate::endpoints::present::status_answer(accept, status, response.status()) else {
        return response;
    };
    let (mut parts, body) = other.into_parts();
    parts.headers.extend(response.headers().get(RETRY_AFTER).map(|after| (RETRY_AFTER, after.clone())));
    Response::from_parts(parts, body)
}

/// 429: the server is ending, another one will answer.
pub fn shutting_down() -> Response<Body> {
    let text = "The apiserver is shutting down, please try again later.\n".to_owned();
    let mut response = self::text(StatusCode::TOO_MANY_REQUESTS, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// 429: there is no room now.
pub fn too_many_requests() -> Response<Body> {
    let text = "Too many requests, please try again later.\n".to_owned();
    let mut response = self::text(StatusCode::TOO_MANY_REQUESTS, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Adds what every answer carries: no caching, the audit id, the warnings.
pub fn finish(response: &mut Response<Body>, audit_id: &str, warnings: &Warnings) {
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Ok(id) = HeaderValue::from_str(audit_id) {
        headers.insert(AUDIT_ID, id);
    }
    let list = warnings.list();
    let total: usize = list.iter().map(String::len).sum();
    let most = if total > MAX_WARNINGS_BYTES { MAX_WARNING_BYTES } else { usize::MAX };
    let mut left = MAX_WARNINGS_BYTES;
    for sentence in list {
        let quoted = quote(&sentence, most);
        if quoted.len() > left {
            break;
        }
        left -= quoted.len();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {quoted}")) {
            headers.append(WARNING, value);
        }
    }
}

/// A quoted string of RFC 9110: control characters dropped, quotes and backslashes escaped, at most `most` bytes inside.
fn quote(text: &str, most: usize) -> String {
    let mut out = String::from("\"");
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() > most {
            break;
        }
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted_and_bounded() {
        assert_eq!(quote("a \"b\"\n\\", usize::MAX), "\"a \\\"b\\\"\\\\\"");
        let warnings = Warnings::default();
        for n in 0..40 {
            warnings.add(format!("{n}{}", "x".repeat(300)));
        }
        let mut response = text(StatusCode::OK, String::new());
        finish(&mut response, "id", &warnings);
        let all: Vec<_> = response.headers().get_all(WARNING).iter().collect();
        assert!(!all.is_empty() && all.iter().all(|w| w.len() < 300) && all.len() < 20);
    }
}
