//! A list on its way out: made piece by piece while it is sent, so that its size costs no memory.
//!
//! A protobuf list tells its length before its first item: its items are measured first, a few at a time between other work.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use apimachinery::proto::{self, Scratch};
use bytes::Bytes;
use component_base::BoxError;
use http_body::{Body, Frame};

use super::compress::Gzip;
use super::present::{Presenter, separator};
use crate::registry::Listing;

/// Size of the frames in which lists are sent: what fits one TLS record.
const FRAME_BYTES: usize = 16 << 10;
/// Items are made until there are so many bytes; one more item may be above.
const CHUNK_BYTES: usize = 4 * FRAME_BYTES;
/// Items that are measured before other tasks get their turn.
const MEASURED_AT_ONCE: usize = 64;

/// What comes next.
enum Stage {
    /// The length of the items, so far and of which.
    Measure(usize, Box<Listing>),
    Items,
    End,
}

/// A list as the body of an answer.
pub struct ListBody {
    presenter: Presenter,
    listing: Listing,
    /// Made, but not sent yet.
    made: Bytes,
    stage: Stage,
    first: bool,
    scratch: Scratch,
}

impl ListBody {
    /// In the presenter's form, JSON or protobuf.
    pub fn new(presenter: Presenter, listing: Listing) -> Self {
        let (made, stage) = match presenter.protobuf_list() {
            Some(_) => (Bytes::new(), Stage::Measure(0, Box::new(listing.clone()))),
            None => (presenter.list_head(&listing).into(), Stage::Items),
        };
        Self { presenter, listing, made, stage, first: true, scratch: Scratch::default() }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Stage::Measure(bytes, rest) = &mut self.stage {
            let Some((ty, api_version, kind)) = self.presenter.protobuf_list() else { return Poll::Ready(None) };
            let mut left = MEASURED_AT_ONCE;
            let more = rest.advance(|entry| {
                *bytes += self.presenter.item_bytes(ty, &mut self.scratch, entry);
                left -= 1;
                left > 0
            });
            if more {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let metadata = self.presenter.list_metadata(&self.listing);
            self.made = proto::list_head(&api_version, kind, &metadata, *bytes).into();
            self.stage = Stage::Items;
        }
        if self.made.len() < FRAME_BYTES && matches!(self.stage, Stage::Items) {
            self.make();
        }
        let size = self.made.len().min(FRAME_BYTES);
        Poll::Ready((size > 0).then(|| self.made.split_to(size)))
    }

    /// Makes the next items, behind what is made and not sent.
    fn make(&mut self) {
        let mut out = Vec::with_capacity(CHUNK_BYTES + FRAME_BYTES);
        out.extend_from_slice(&self.made);
        let (presenter, first, scratch) = (&self.presenter, &mut self.first, &mut self.scratch);
        let protobuf = presenter.protobuf_list();
        let more = if let Some((ty, ..)) = &protobuf {
            self.listing.advance(|entry| {
                presenter.push_item(ty, scratch, &mut out, entry);
                out.len() < CHUNK_BYTES
            })
        } else {
            self.listing.advance(|entry| {
                out.push(separator(first));
                presenter.write_item(&mut out, entry);
                out.len() < CHUNK_BYTES
            })
        };
        if !more {
            out.extend_from_slice(if protobuf.is_some() { proto::ENVELOPE_END } else { presenter.list_end(*first) });
            self.stage = Stage::End;
        }
        self.made = out.into();
    }
}

impl Body for ListBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.poll_piece(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A list as the body of an answer, compressed.
pub struct GzipBody {
    list: ListBody,
    gzip: Option<Gzip>,
    packed: Vec<u8>,
}

impl GzipBody {
    /// Compresses what a list makes.
    pub fn new(list: ListBody) -> Self {
        Self { list, gzip: Some(Gzip::default()), packed: Vec::new() }
    }
}

impl Body for GzipBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { list, gzip, packed } = &mut *self;
        while packed.len() < FRAME_BYTES {
            let Some(stream) = gzip else { return Poll::Ready(None) };
            match ready!(list.poll_piece(context)) {
                Some(piece) => packed.extend(stream.push(&piece)),
                None => {
                    packed.extend(gzip.take().map(Gzip::finish).unwrap_or_default());
                    break;
                }
            }
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(packed).into()))))
    }
}
