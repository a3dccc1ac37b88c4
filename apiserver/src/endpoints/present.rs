//! From stored objects to answers: one object, a list, an event, each in the form that was negotiated.
//!
//! The plain form (JSON of the version that is stored) is never decoded: the bytes of the cache go out as they are. Every
//! other form is made from one object at a time.

use std::sync::Arc;

use apimachinery::codec;
use apimachinery::proto::{self, Scratch};
use apimachinery::schema::{self, Type};
use apimachinery::status::Status;
use bytes::{BufMut, Bytes, BytesMut};
use component_base::serving::{Body, full};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::compress::THRESHOLD_BYTES;
use super::list_body::{GzipBody, ListBody};
use super::negotiate::{Accepted, Format, Offer, Shape, negotiate};
use super::skim;
use super::table::{self, IncludeObject};
use crate::extension::convert;
use crate::http::request::{Query, RequestContext};
use crate::http::respond;
use crate::registry::{Listing, Object, Registry};
use crate::resources::{HookContext, Resource, ServedVersion};
use crate::storage::entry::Entry;
use crate::storage::fanout::{Delivery, Encoding, Event};

/// Presents the objects of one request.
#[derive(Clone)]
pub struct Presenter {
    /// For the configuration that cells may look at.
    pub registry: Arc<Registry>,
    /// The request.
    pub ctx: RequestContext,
    /// Whose objects.
    pub resource: Arc<Resource>,
    /// Served version.
    pub version: String,
    /// What was negotiated.
    pub accepted: Accepted,
    /// For Tables.
    pub include: IncludeObject,
}

impl Presenter {
    fn served(&self) -> Option<&ServedVersion> {
        self.resource.version(&self.version)
    }

    fn hooks(&self) -> HookContext<'_> {
        HookContext {
            request: &self.ctx,
            resource: &self.resource,
            version: &self.version,
            subresource: "",
            options: self.registry.options(),
            allocators: None,
        }
    }

    /// Whether objects are served in the form in which they are stored.
    fn is_as_stored(&self) -> bool {
        self.served().is_some_and(|served| served.conversion.is_none() && served.custom.is_none())
    }

    /// Whether the cache's bytes are the answer.
    fn is_plain(&self) -> bool {
        self.accepted.shape == Shape::Object && self.accepted.format == Format::Json && self.is_as_stored()
    }

    /// The object in its served version.
    fn value(&self, stored: &[u8]) -> Value {
        self.served_form(serde_json::from_slice(stored).unwrap_or_default())
    }

    fn served_form(&self, mut value: Value) -> Value {
        if let Some(conversion) = self.served().and_then(|served| served.conversion) {
            (conversion.from_storage)(&mut value);
        }
        convert::settle(&self.resource, &self.version, &mut value);
        value
    }

    fn partial(&self, value: &Value, beta: bool) -> Value {
        table::partial(value, beta, &self.resource)
    }

    fn columns(&self) -> Value {
        self.served().map(|served| table::columns(served, &self.hooks())).unwrap_or_default()
    }

    /// One object in the negotiated shape, alone.
    fn shaped(&self, value: Value) -> Value {
        match self.accepted.shape {
            Shape::Object => value,
            Shape::Metadata(beta) => self.partial(&value, beta),
            Shape::Table(beta) => {
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let row = table::row(&value, self.include, beta, &self.hooks());
                table::table(&metadata, &self.columns(), &[row], beta)
            }
        }
    }

    /// The answer with one object of the resource.
    pub fn object(&self, code: StatusCode, object: &Object) -> Response<Body> {
        if self.accepted.misnamed {
            return misnamed();
        }
        if self.is_plain() && !self.accepted.pretty {
            return answer(code, self.accepted, object.bytes.clone());
        }
        self.value_answer(code, &self.shaped(self.value(&object.bytes)))
    }

    /// The answer with a view of an object that is of another kind (a Scale).
    pub fn view(&self, code: StatusCode, view: Value) -> Response<Body> {
        let Shape::Table(beta) = self.accepted.shape else { return self.value_answer(code, &self.shaped(view)) };
        let metadata = json!({"resourceVersion": view["metadata"]["resourceVersion"]});
        let row = table::scale_row(&view, self.include, beta, &self.hooks());
        self.value_answer(code, &table::table(&metadata, &table::scale_columns(), &[row], beta))
    }

    /// The answer with a list of what is not stored.
    pub fn values(&self, values: &[Value]) -> Response<Body> {
        let metadata = json!({});
        let list = match self.accepted.shape {
            Shape::Table(beta) => {
                let rows: Vec<Value> =
                    values.iter().map(|value| table::row(value, self.include, beta, &self.hooks())).collect();
                table::table(&metadata, &self.columns(), &rows, beta)
            }
            Shape::Metadata(beta) => {
                let items: Vec<Value> = values.iter().map(|value| self.partial(value, beta)).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": table::api_version(beta), "metadata": metadata, "items": items})
            }
            Shape::Object => {
                let api_version = self.resource.api_version(&self.version);
                json!({"kind": self.resource.list_kind, "apiVersion": api_version, "metadata": metadata, "items": values})
            }
        };
        self.value_answer(StatusCode::OK, &list)
    }

    /// The answer with something of another kind (a Status, a review).
    pub fn value_answer(&self, code: StatusCode, value: &Value) -> Response<Body> {
        value_answer(code, self.accepted, value)
    }

    pub(super) fn list_metadata(&self, listing: &Listing) -> Value {
        let mut metadata = json!({"resourceVersion": listing.revision.to_string()});
        // Upstream's lists of custom objects always have it.
        let always = self.resource.custom.is_some() && self.accepted.shape == Shape::Object;
        if always || !listing.continue_token.is_empty() {
            metadata["continue"] = listing.continue_token.clone().into();
        }
        if let Some(remaining) = listing.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }

    /// The head of a list, up to its items.
    pub(super) fn list_head(&self, listing: &Listing) -> String {
        let metadata = self.list_metadata(listing);
        match self.accepted.shape {
            Shape::Object => {
                let (kind, api_version) = (&self.resource.list_kind, self.resource.api_version(&self.version));
                format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":")
            }
            Shape::Metadata(beta) => {
                let api_version = table::api_version(beta);
                format!(
                    "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":"
                )
            }
            Shape::Table(beta) => {
                let (api_version, columns) = (table::api_version(beta), self.columns());
                format!(
                    "{{\"kind\":\"Table\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"columnDefinitions\":{columns},\"rows\":"
                )
            }
        }
    }

    /// Adds an object as an item of a JSON list.
    pub(super) fn write_item(&self, out: &mut Vec<u8>, entry: &Entry) {
        if self.is_plain() {
            out.push(b'{');
            out.extend_from_slice(entry.untyped());
            return;
        }
        if let Shape::Metadata(beta) = self.accepted.shape
            && self.resource.strategy.hidden_annotations.is_empty()
        {
            return write_partial(out, entry, beta);
        }
        if let Shape::Table(beta) = self.accepted.shape
            && self.writes_row(out, entry, beta)
        {
            return;
        }
        let mut value = self.value(&entry.bytes);
        let item = match self.accepted.shape {
            Shape::Object => {
                if let Some(map) = value.as_object_mut().filter(|_| self.resource.custom.is_none()) {
                    map.remove("kind");
                    map.remove("apiVersion");
                }
                value
            }
            Shape::Metadata(beta) => self.partial(&value, beta),
            Shape::Table(beta) => table::row(&value, self.include, beta, &self.hooks()),
        };
        // Writing into memory cannot fail.
        let _ = serde_json::to_writer(out, &item);
    }

    /// Writes a row with the metadata as it stands in the text, and without a tree of who owns what, if nothing of it is hidden.
    fn writes_row(&self, out: &mut Vec<u8>, entry: &Entry, beta: bool) -> bool {
        let all_shown = self.resource.strategy.hidden_annotations.is_empty() && self.resource.custom.is_none();
        if !self.is_as_stored() || !all_shown || self.include != IncludeObject::Metadata {
            return false;
        }
        let object = skim::shown(&entry.bytes);
        let row = table::row(&object, IncludeObject::None, beta, &self.hooks()).to_string();
        // The object is the last member, and null.
        let Some(head) = row.strip_suffix("null}") else { return false };
        out.extend_from_slice(head.as_bytes());
        write_partial(out, entry, beta);
        out.push(b'}');
        true
    }

    /// The type of the items of a protobuf list, and the list's `apiVersion` and `kind`; `None` for another format.
    pub(super) fn protobuf_list(&self) -> Option<(&Type, String, &str)> {
        if self.accepted.format != Format::Protobuf {
            return None;
        }
        if let Shape::Metadata(beta) = self.accepted.shape {
            let ty = schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata")?;
            return Some((ty, table::api_version(beta).to_owned(), "PartialObjectMetadataList"));
        }
        let ty = self.served().map(|served| &*served.ty)?;
        Some((ty, self.resource.api_version(&self.version), &self.resource.list_kind))
    }

    /// Adds an object as an item of a protobuf list.
    pub(super) fn push_item(&self, ty: &Type, scratch: &mut Scratch, out: &mut Vec<u8>, entry: &Entry) {
        if self.accepted.shape == Shape::Object && self.is_as_stored() {
            return proto::push_item(ty, &entry.bytes, scratch, out);
        }
        let mut text = Vec::with_capacity(entry.bytes.len());
        self.write_item(&mut text, entry);
        proto::push_item(ty, &text, scratch, out);
    }

    /// The length of what [`Self::push_item`] adds.
    pub(super) fn item_bytes(&self, ty: &Type, scratch: &mut Scratch, entry: &Entry) -> usize {
        let mut measure = || {
            let mut item = Vec::with_capacity(entry.bytes.len());
            self.push_item(ty, scratch, &mut item, entry);
            item.len()
        };
        if self.accepted.shape == Shape::Object && self.is_as_stored() {
            return *entry.protobuf_bytes.get_or_init(measure);
        }
        measure()
    }

    /// The answer with a list, made while it is sent.
    pub fn list(&self, mut listing: Listing, gzip: bool) -> Response<Body> {
        if self.accepted.misnamed {
            return misnamed();
        }
        if self.accepted.format == Format::Yaml || self.accepted.pretty {
            let mut text = self.list_head(&listing).into_bytes();
            let mut first = true;
            listing.advance(|entry| {
                text.push(separator(&mut first));
                self.write_item(&mut text, entry);
                true
            });
            text.extend_from_slice(self.list_end(first));
            let value: Value = serde_json::from_slice(&text).unwrap_or_default();
            return value_answer(StatusCode::OK, self.accepted, &value);
        }
        let gzip = gzip && listing.exceeds_bytes(THRESHOLD_BYTES);
        let list = ListBody::new(self.clone(), listing);
        let body = if gzip { Body::new(GzipBody::new(list)) } else { Body::new(list) };
        let mut response = Response::new(body);
        set_type(&mut response, self.accepted, false);
        if gzip {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        response
    }

    /// The end of a list; upstream has `null` for a metadata list without items, and `[]` elsewhere.
    pub(super) fn list_end(&self, empty: bool) -> &'static [u8] {
        match (empty, self.accepted.shape) {
            (false, _) => b"]}\n",
            (true, Shape::Metadata(_)) => b"null}\n",
            (true, _) => b"[]}\n",
        }
    }

    /// How events are shared between watchers.
    pub fn encoding(&self) -> Encoding {
        let shape = match self.accepted.shape {
            Shape::Object => 0,
            Shape::Metadata(beta) => 1 + u8::from(beta),
            Shape::Table(beta) => {
                let include = match self.include {
                    IncludeObject::None => 0,
                    IncludeObject::Metadata => 1,
                    IncludeObject::Object => 2,
                };
                3 + 2 * include + u8::from(beta)
            }
        };
        let protobuf = if self.accepted.format == Format::Protobuf { 16 } else { 0 };
        Encoding { api_version: self.resource.api_version(&self.version).into(), format: shape + protobuf }
    }

    fn event_object(&self, stored: &[u8], with_columns: bool) -> Value {
        let value = self.value(stored);
        match self.accepted.shape {
            Shape::Object => value,
            Shape::Metadata(beta) => self.partial(&value, beta),
            Shape::Table(beta) => {
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let row = table::row(&value, self.include, beta, &self.hooks());
                let columns = if with_columns { self.columns() } else { Value::Null };
                table::table(&metadata, &columns, &[row], beta)
            }
        }
    }

    fn event_frame(&self, kind: &str, stored: &[u8], with_columns: bool) -> Bytes {
        if self.accepted.format == Format::Protobuf {
            return event(self.accepted, kind, &self.event_object(stored, with_columns));
        }
        let mut out = BytesMut::with_capacity(stored.len() + 64);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        if self.is_plain() {
            out.extend_from_slice(stored);
        } else {
            // Writing into memory cannot fail.
            let _ = serde_json::to_writer((&mut out).writer(), &self.event_object(stored, with_columns));
        }
        out.extend_from_slice(b"}\n");
        out.freeze()
    }

    /// Whether the first event differs from later ones.
    fn has_columns(&self) -> bool {
        matches!(self.accepted.shape, Shape::Table(_))
    }

    /// An object that is there when the watch begins.
    pub fn added(&self, entry: &Entry, first: bool) -> Bytes {
        self.event_frame("ADDED", &entry.bytes, first)
    }

    /// A change, encoded once for all watchers of this form.
    pub fn event(&self, event: &Event, delivery: Delivery, encoding: &Encoding, first: bool) -> Bytes {
        let make = || -> Result<Bytes, std::convert::Infallible> {
            let first = first && self.has_columns();
            Ok(match delivery {
                Delivery::Added => self.event_frame("ADDED", &event.entry.bytes, first),
                Delivery::Modified => self.event_frame("MODIFIED", &event.entry.bytes, first),
                Delivery::Deleted => self.event_frame("DELETED", &event.entry.bytes, first),
                Delivery::Unmatched => {
                    let previous = event.previous.as_ref().unwrap_or(&event.entry);
                    self.event_frame("DELETED", &previous.bytes_at(event.revision), first)
                }
            })
        };
        let made = if first && self.has_columns() { make() } else { event.encoded(encoding, delivery, make) };
        made.unwrap_or_default()
    }

    /// A bookmark.
    pub fn bookmark(&self, revision: u64, ends_initial: bool, first: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let api_version = self.resource.api_version(&self.version);
        let mut object = json!({"kind": self.resource.kind, "apiVersion": api_version, "metadata": metadata});
        if let Some(served) = self.served() {
            codec::canonicalize(&served.ty, &mut object);
        }
        let object = match self.accepted.shape {
            Shape::Object => object,
            Shape::Metadata(beta) => self.partial(&object, beta),
            Shape::Table(beta) => {
                let metadata = json!({"resourceVersion": revision.to_string()});
                let row = table::row(&object, self.include, beta, &self.hooks());
                let columns = if first { self.columns() } else { Value::Null };
                table::table(&metadata, &columns, &[row], beta)
            }
        };
        event(self.accepted, "BOOKMARK", &object)
    }
}

/// Writes an object's PartialObjectMetadata, with the metadata as it stands in the text.
fn write_partial(out: &mut Vec<u8>, entry: &Entry, beta: bool) {
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"");
    out.extend_from_slice(table::api_version(beta).as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    out.extend_from_slice(entry.metadata());
    out.push(b'}');
}

/// An event of a watch that is not shared.
fn event(accepted: Accepted, kind: &str, object: &Value) -> Bytes {
    match accepted.format {
        Format::Protobuf => proto::watch_frame(kind, &proto::encode_any(object).unwrap_or_default()).into(),
        Format::Json | Format::Yaml => format!("{}\n", json!({"type": kind, "object": object})).into(),
    }
}

/// What stands before the next item of a list.
pub(super) fn separator(first: &mut bool) -> u8 {
    if std::mem::take(first) { b'[' } else { b',' }
}

/// The event that ends a watch with a reason.
pub fn error_event(accepted: Accepted, status: &Status) -> Bytes {
    event(accepted, "ERROR", &status.to_value())
}

/// The same answer in the form that the client takes; JSON when it takes none.
pub fn status_answer(headers: &http::HeaderMap, status: &Status, code: StatusCode) -> Option<Response<Body>> {
    let accepted = negotiate(headers, &Query::default(), Offer::ObjectOnly, true).ok()?;
    (accepted.format != Format::Json).then(|| value_answer(code, accepted, &status.to_value()))
}

fn set_type(response: &mut Response<Body>, accepted: Accepted, is_watch: bool) {
    let value = HeaderValue::from_static(accepted.content_type(is_watch));
    response.headers_mut().insert(CONTENT_TYPE, value);
}

fn answer(code: StatusCode, accepted: Accepted, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    set_type(&mut response, accepted, false);
    response
}

/// A tree as an answer.
pub fn value_answer(code: StatusCode, accepted: Accepted, value: &Value) -> Response<Body> {
    let text = match accepted.format {
        Format::Json if accepted.pretty => serde_json::to_string_pretty(value).unwrap_or_default(),
        Format::Json => value.to_string(),
        Format::Yaml => serde_saphyr::to_string(value).unwrap_or_default(),
        Format::Protobuf => return protobuf_answer(code, accepted, value),
    };
    answer(code, accepted, format!("{text}\n").into())
}

/// Metadata of a list under an object's name, or the other way round.
fn misnamed() -> Response<Body> {
    respond::status(&Status::not_acceptable(
        "PartialObjectMetadataList is the metadata of a list, PartialObjectMetadata that of an object",
    ))
}

/// Custom kinds have no protobuf form.
fn protobuf_answer(code: StatusCode, accepted: Accepted, value: &Value) -> Response<Body> {
    if let Some(bytes) = proto::encode_any(value) {
        return answer(code, accepted, bytes.into());
    }
    let status =
        Status::not_acceptable("only the following media types are accepted: application/json, application/yaml");
    answer(StatusCode::NOT_ACCEPTABLE, Accepted::JSON, status.to_value().to_string().into())
}
