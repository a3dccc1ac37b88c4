//! From the `Accept` header to the form of the answer: encoding (JSON, YAML, protobuf) and shape (the object, a Table, its
//! metadata).
//!
//! Upstream's rules: clauses by quality, then in order; the first one that can be served wins; no header means JSON. A Table
//! or metadata clause that cannot be served falls to the next clause, so that clients may list `as=Table` first.

use apimachinery::proto;
use apimachinery::status::Status;
use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};

use crate::http::request::Query;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The object itself.
    Object,
    /// `meta.k8s.io` Table; true for v1beta1.
    Table(bool),
    /// `meta.k8s.io` PartialObjectMetadata(List); true for v1beta1.
    Metadata(bool),
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Accepted {
    /// Encoding.
    pub format: Format,
    /// Shape.
    pub shape: Shape,
    /// Indented JSON, for people.
    pub pretty: bool,
    /// Metadata was asked for by the list's name for an object, or the other way round: there is no such answer.
    pub misnamed: bool,
}

impl Accepted {
    /// The plain form.
    pub const JSON: Self = Self { format: Format::Json, shape: Shape::Object, pretty: false, misnamed: false };

    /// The `Content-Type` of the answer.
    pub fn content_type(self, is_watch: bool) -> &'static str {
        match (self.format, is_watch) {
            (Format::Json, _) => "application/json",
            (Format::Yaml, _) => "application/yaml",
            (Format::Protobuf, true) => proto::STREAM_MEDIA_TYPE,
            (Format::Protobuf, false) => proto::MEDIA_TYPE,
        }
    }
}

/// Which answers can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Only the object (writes of subresources, reviews, discovery).
    ObjectOnly,
    /// Object, Table, its metadata.
    Object,
    /// Object, its metadata.
    Unprinted,
    /// The same of a list.
    List,
    /// The same, as a stream of events.
    Watch,
}

struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

fn clauses(text: &str) -> Vec<Clause<'_>> {
    let mut out: Vec<Clause<'_>> = text
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|m| !m.is_empty())?;
            let parameters: Vec<_> =
                parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect();
            let given = parameters.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse::<f32>().ok());
            Some(Clause { media, parameters, quality: given.unwrap_or(1.0) })
        })
        .collect();
    out.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    out
}

/// The form that the client wants of those on offer; `protobuf` says whether the kind has that form (custom ones do not).
///
/// # Errors
/// 406 when none of the clauses can be served.
pub fn negotiate(headers: &HeaderMap, query: &Query, offer: Offer, protobuf: bool) -> Result<Accepted, Status> {
    let pretty = is_pretty(headers, query);
    let text: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let text = text.join(",");
    if text.trim().is_empty() {
        return Ok(Accepted { pretty, ..Accepted::JSON });
    }
    let clauses = clauses(&text);
    if let Some((format, shape, misnamed)) = clauses.iter().find_map(|clause| serve(clause, offer, protobuf)) {
        return Ok(Accepted { format, shape, pretty: pretty && format == Format::Json, misnamed });
    }
    let sentence = "only the following media types are accepted: application/json, application/yaml";
    let more = if protobuf { ", application/vnd.kubernetes.protobuf" } else { "" };
    let mut status = Status::not_acceptable(format!("{sentence}{more}"));
    // A media type that is never served is refused by upstream's router, whose answers have empty details.
    if clauses.iter().all(|clause| format(clause.media, Offer::Object, true).is_none()) {
        status.details = Some(Box::default());
    }
    Err(status)
}

/// Whether the client takes plain JSON, or does not say.
pub fn accepts_json(headers: &HeaderMap) -> bool {
    let text: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let text = text.join(",");
    text.trim().is_empty() || clauses(&text).iter().any(|clause| ["application/json", "*/*"].contains(&clause.media))
}

fn format(media: &str, offer: Offer, protobuf: bool) -> Option<Format> {
    match media {
        // Not `application/*`: upstream's router does not know it.
        "application/json" | "*/*" => Some(Format::Json),
        "application/yaml" if offer != Offer::Watch => Some(Format::Yaml),
        proto::MEDIA_TYPE if protobuf => Some(Format::Protobuf),
        _ => None,
    }
}

fn serve(clause: &Clause<'_>, offer: Offer, protobuf: bool) -> Option<(Format, Shape, bool)> {
    let format = format(clause.media, offer, protobuf)?;
    let parameter = |name: &str| clause.parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
    if parameter("stream").is_some_and(|stream| stream != "watch") {
        return None;
    }
    let shape = match (parameter("as"), parameter("g"), parameter("v")) {
        (None, _, _) => Shape::Object,
        (Some(kind), Some("meta.k8s.io"), Some(version)) if offer != Offer::ObjectOnly => {
            let beta = match version {
                "v1" => false,
                "v1beta1" => true,
                _ => return None,
            };
            match kind {
                // Tables have no protobuf form.
                "Table" if format != Format::Protobuf && offer != Offer::Unprinted => Shape::Table(beta),
                "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Metadata(beta),
                _ => return None,
            }
        }
        _ => return None,
    };
    let misnamed = match parameter("as") {
        Some("PartialObjectMetadata") => offer == Offer::List,
        Some("PartialObjectMetadataList") => matches!(offer, Offer::Object | Offer::Unprinted),
        _ => false,
    };
    Some((format, shape, misnamed))
}

/// `?pretty`, or a client that is a person with a browser or curl.
fn is_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if query.get("pretty").is_some() {
        return query.flag("pretty");
    }
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|person| agent.starts_with(person))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(accept: &str, offer: Offer) -> Option<(Format, Shape)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        negotiate(&headers, &Query::default(), offer, true).ok().map(|a| (a.format, a.shape))
    }

    #[test]
    fn clauses_in_order_of_quality() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(ask(kubectl, Offer::Object), Some((Format::Json, Shape::Table(false))));
        assert_eq!(ask(kubectl, Offer::ObjectOnly), Some((Format::Json, Shape::Object)));
        assert_eq!(ask("*/*", Offer::Object), Some((Format::Json, Shape::Object)));
        assert_eq!(
            ask("text/html, application/yaml;q=0.5, application/json;q=0.4", Offer::Object),
            Some((Format::Yaml, Shape::Object))
        );
        assert_eq!(ask("application/yaml", Offer::Watch), None);
        assert_eq!(ask("application/json;stream=watch", Offer::Watch), Some((Format::Json, Shape::Object)));
        assert_eq!(ask("text/plain", Offer::Object), None);

        assert_eq!(ask(proto::MEDIA_TYPE, Offer::Object), Some((Format::Protobuf, Shape::Object)));
        assert_eq!(
            ask("application/vnd.kubernetes.protobuf, application/json", Offer::Object),
            Some((Format::Protobuf, Shape::Object))
        );
        assert_eq!(ask(proto::STREAM_MEDIA_TYPE, Offer::Watch), Some((Format::Protobuf, Shape::Object)));
        assert_eq!(
            ask("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io, application/json", Offer::Object),
            Some((Format::Json, Shape::Object))
        );
        assert_eq!(ask("application/json;as=Table;v=v2;g=meta.k8s.io", Offer::Object), None);
        assert_eq!(
            ask("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", Offer::Watch),
            Some((Format::Json, Shape::Metadata(false)))
        );
    }
}
