//! From stored objects to answers: one object, a list, an event, each in the form that was negotiated.
//!
//! The plain form (JSON of the version that is stored) is never decoded: the bytes of the cache go out as they are. Every
//! other form is made from one object at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use apimachinery::codec;
use apimachinery::proto;
use apimachinery::schema;
use apimachinery::status::Status;
use bytes::{BufMut, Bytes, BytesMut};
use component_base::BoxError;
use component_base::serving::{Body, full};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};

use super::compress::{Gzip, THRESHOLD_BYTES};
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

/// Size of the pieces in which lists are sent: what fits one TLS record.
const FRAME_BYTES: usize = 16 << 10;

/// An object's metadata as it stands in the text.
#[derive(serde::Deserialize)]
struct MetadataOnly<'a> {
    #[serde(borrow)]
    metadata: &'a serde_json::value::RawValue,
}

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

    /// Whether the cache's bytes are the answer.
    fn is_plain(&self) -> bool {
        self.accepted.shape == Shape::Object
            && self.accepted.format == Format::Json
            && self.served().is_some_and(|served| served.conversion.is_none() && served.custom.is_none())
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

    fn list_metadata(&self, listing: &Listing) -> Value {
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
    fn list_head(&self, listing: &Listing) -> String {
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

    fn write_item(&self, out: &mut BytesMut, entry: &Entry) {
        if self.is_plain() {
            out.put_u8(b'{');
            out.extend_from_slice(entry.untyped());
            return;
        }
        if let Shape::Metadata(beta) = self.accepted.shape
            && self.resource.strategy.hidden_annotations.is_empty()
            && let Ok(parts) = serde_json::from_slice::<MetadataOnly<'_>>(&entry.bytes)
        {
            let api_version = table::api_version(beta);
            let head = format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{api_version}\",\"metadata\":");
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(parts.metadata.get().as_bytes());
            out.put_u8(b'}');
            return;
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
        let _ = serde_json::to_writer(out.writer(), &item);
    }

    /// Writes a row with the metadata as it stands in the text, and without a tree of who owns what, if nothing of it is hidden.
    fn writes_row(&self, out: &mut BytesMut, entry: &Entry, beta: bool) -> bool {
        let as_stored = self.served().is_some_and(|served| served.conversion.is_none());
        let all_shown = self.resource.strategy.hidden_annotations.is_empty() && self.resource.custom.is_none();
        if !as_stored || !all_shown || self.include != IncludeObject::Metadata {
            return false;
        }
        let Ok(parts) = serde_json::from_slice::<MetadataOnly<'_>>(&entry.bytes) else { return false };
        let object = skim::without_owners(&entry.bytes);
        let row = table::row(&object, IncludeObject::None, beta, &self.hooks()).to_string();
        // The object is the last member, and null.
        let Some(head) = row.strip_suffix("null}") else { return false };
        let (api_version, metadata) = (table::api_version(beta), parts.metadata.get());
        let kind = "PartialObjectMetadata";
        for text in [head, r#"{"kind":""#, kind, r#"","apiVersion":""#, api_version, r#"","metadata":"#, metadata, "}}"]
        {
            out.extend_from_slice(text.as_bytes());
        }
        true
    }

    /// A list in protobuf: its items first, because the envelope tells their length.
    fn protobuf_list(&self, mut listing: Listing) -> Response<Body> {
        let (kind, api_version, ty) = match self.accepted.shape {
            Shape::Metadata(beta) => {
                let ty = schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata");
                ("PartialObjectMetadataList", table::api_version(beta).to_owned(), ty)
            }
            _ => (
                self.resource.list_kind.as_str(),
                self.resource.api_version(&self.version),
                self.served().map(|served| &*served.ty),
            ),
        };
        let Some(ty) = ty else { return protobuf_answer(StatusCode::OK, self.accepted, &Value::Null) };
        let metadata = self.list_metadata(&listing);
        let mut items = Vec::new();
        listing.advance(|entry| {
            proto::push_item(ty, &self.shaped(self.served_form(skim::with_owners_as_text(&entry.bytes))), &mut items);
            true
        });
        let head = proto::list_head(&api_version, kind, &metadata, items.len());
        items.extend_from_slice(proto::LIST_END);
        let pieces = [head, items].map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from(piece))));
        let mut response = Response::new(Body::new(StreamBody::new(futures::stream::iter(pieces))));
        set_type(&mut response, self.accepted, false);
        response
    }

    /// The answer with a list, made while it is sent.
    pub fn list(&self, mut listing: Listing, gzip: bool) -> Response<Body> {
        if self.accepted.misnamed {
            return misnamed();
        }
        if self.accepted.format == Format::Protobuf {
            return self.protobuf_list(listing);
        }
        if self.accepted.format != Format::Json || self.accepted.pretty {
            let mut text = BytesMut::from(self.list_head(&listing).as_bytes());
            let mut first = true;
            listing.advance(|entry| {
                text.put_u8(separator(&mut first));
                self.write_item(&mut text, entry);
                true
            });
            text.extend_from_slice(self.list_end(first));
            let value: Value = serde_json::from_slice(&text).unwrap_or_default();
            return value_answer(StatusCode::OK, self.accepted, &value);
        }
        let gzip = gzip && listing.exceeds_bytes(THRESHOLD_BYTES);
        let head = self.list_head(&listing);
        let mut buffer = BytesMut::with_capacity(FRAME_BYTES + 4096);
        buffer.extend_from_slice(head.as_bytes());
        let list = ListBody { presenter: self.clone(), listing, buffer, first: true, done: false };
        let body = if gzip { Body::new(GzipBody { list, gzip: Some(Gzip::default()) }) } else { Body::new(list) };
        let mut response = Response::new(body);
        set_type(&mut response, self.accepted, false);
        if gzip {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        response
    }

    /// The end of a list; upstream has `null` for a metadata list without items, and `[]` elsewhere.
    fn list_end(&self, empty: bool) -> &'static [u8] {
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

/// An event of a watch that is not shared.
fn event(accepted: Accepted, kind: &str, object: &Value) -> Bytes {
    match accepted.format {
        Format::Protobuf => proto::watch_frame(kind, &proto::encode_any(object).unwrap_or_default()).into(),
        Format::Json | Format::Yaml => format!("{}\n", json!({"type": kind, "object": object})).into(),
    }
}

/// What stands before the next item of a list.
fn separator(first: &mut bool) -> u8 {
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

/// A list on its way out.
struct ListBody {
    presenter: Presenter,
    listing: Listing,
    buffer: BytesMut,
    first: bool,
    done: bool,
}

impl ListBody {
    /// Adds items until there is a frame's worth, or the list is at its end.
    fn fill(&mut self) {
        let (presenter, buffer, first) = (&self.presenter, &mut self.buffer, &mut self.first);
        let more = self.listing.advance(|entry| {
            buffer.put_u8(separator(first));
            presenter.write_item(buffer, entry);
            buffer.len() < FRAME_BYTES
        });
        if !more {
            let end = self.presenter.list_end(self.first);
            self.buffer.extend_from_slice(end);
            self.done = true;
        }
    }

    fn next_frame(&mut self) -> Option<Bytes> {
        while self.buffer.len() < FRAME_BYTES && !self.done {
            self.fill();
        }
        if self.buffer.is_empty() {
            return None;
        }
        let size = self.buffer.len().min(FRAME_BYTES);
        Some(self.buffer.split_to(size).freeze())
    }
}

/// A list on its way out, compressed.
struct GzipBody {
    list: ListBody,
    gzip: Option<Gzip>,
}

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.next_frame().map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl http_body::Body for GzipBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(mut gzip) = self.gzip.take() else { return Poll::Ready(None) };
        let mut packed = Vec::new();
        while packed.len() < FRAME_BYTES {
            let Some(piece) = self.list.next_frame() else {
                packed.extend(gzip.finish());
                return Poll::Ready(Some(Ok(Frame::data(packed.into()))));
            };
            packed.extend(gzip.push(&piece));
        }
        self.gzip = Some(gzip);
        Poll::Ready(Some(Ok(Frame::data(packed.into()))))
    }
}
