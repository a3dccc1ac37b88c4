//! `metav1.Status` as the one error type of the API, on the server (how a request fails) and in clients (why it failed).
//!
//! Constructors carry upstream's codes, reasons and details; the sentences are our own.

use serde::{Deserialize, Serialize};

use crate::field::{self, ErrorList};
use crate::gvk::{GroupKind, GroupResource};

/// A failed (or, rarely, successful) outcome. Serialises to and from the wire form without `apiVersion`/`kind`;
/// [`Status::to_value`] adds those.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Always present in the wire form, empty for errors.
    pub metadata: ListMeta,
    /// `Failure` or `Success`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs: `NotFound`, `Conflict` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Which object, which fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    /// The HTTP status.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// The only list metadata a Status can carry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// With 410 for a continued list: where the list goes on, as of now.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
}

/// Which object failed and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    /// Object name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Kind, or for most reasons the resource's plural name (upstream's habit).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// uid of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One per refused field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which a retry makes sense; also sent as `Retry-After`.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub retry_after_seconds: u32,
}

/// One refused field, or one named cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Cause {
    /// `FieldValueInvalid` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

fn is_zero_u32(seconds: &u32) -> bool {
    *seconds == 0
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A failure with no details.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: "Failure".to_owned(),
            code,
            reason: reason.to_owned(),
            message: message.into(),
            ..Self::default()
        }
    }

    /// The wire form with `apiVersion: v1`, `kind: Status`.
    pub fn to_value(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            map.insert("apiVersion".to_owned(), "v1".into());
            map.insert("kind".to_owned(), "Status".into());
        }
        value
    }

    /// Adds `details` naming an object of a resource.
    #[must_use]
    pub fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.name = name.to_owned();
        details.group = resource.group.clone();
        details.kind = resource.resource.clone();
        self
    }

    /// 404 for an object.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::failure(404, "NotFound", format!("{resource} \"{name}\" not found")).about(resource, name)
    }

    /// 404 for a URL that nothing serves.
    pub fn no_such_path() -> Self {
        let mut status = Self::failure(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// 409 on create.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::failure(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")).about(resource, name)
    }

    /// 409 on a write against an older version.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::failure(409, "Conflict", message).about(resource, name)
    }

    /// 422 with one cause per refused field.
    pub fn invalid(kind: &GroupKind, name: &str, errors: &ErrorList) -> Self {
        let message = format!("{kind} \"{name}\" is invalid: {}", field::sentence(errors));
        let mut status = Self::failure(422, "Invalid", message);
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.ty.reason().to_owned(), message: e.message(), field: e.path.to_string() })
            .collect();
        status.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes,
            ..Details::default()
        }));
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 403 for an object or a collection (`name` empty).
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} \"{name}\" is forbidden: {why}")
        };
        Self::failure(403, "Forbidden", message).about(resource, name)
    }

    /// 405.
    pub fn method_not_supported(resource: &GroupResource, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind \"{resource}\"");
        Self::failure(405, "MethodNotAllowed", message).about(resource, "")
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let text = message.to_string();
        let mut status = Self::failure(500, "InternalError", format!("Internal error occurred: {text}"));
        status.details =
            Some(Box::new(Details { causes: vec![Cause { message: text, ..Cause::default() }], ..Details::default() }));
        status
    }

    /// 504: the server gave up waiting; the operation may or may not have happened.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::failure(504, "Timeout", message)
    }

    /// 429 with a pause in seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::failure(429, "TooManyRequests", message);
        status.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        status
    }

    /// 410: the asked resource version or continue token is no longer held.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// 413.
    pub fn request_entity_too_large(message: impl Into<String>) -> Self {
        Self::failure(413, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 406.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::failure(406, "NotAcceptable", message)
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }
}
