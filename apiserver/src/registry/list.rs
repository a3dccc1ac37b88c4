//! Reading collections: which revision, which part, which objects. The result is a cursor over a snapshot; nothing is copied
//! or decoded here. Follows upstream's rules for `resourceVersion`, `resourceVersionMatch`, `limit` and `continue`.

use std::sync::Arc;

use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::gvk::GroupKind;
use apimachinery::resources::Selectable;
use apimachinery::selector::{FieldSelector, LabelSelector};
use apimachinery::status::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{Registry, Target};
use crate::resources::ServedVersion;
use crate::storage::cache::{Map, ResourceCache, Snapshot};
use crate::storage::entry::{Entry, FieldRef, Filter};
use crate::storage::fanout::Scope;

/// Query options of list, and those that list and watch share.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// `labelSelector`
    pub label_selector: String,
    /// `fieldSelector`
    pub field_selector: String,
    /// `resourceVersion`
    pub resource_version: String,
    /// `resourceVersionMatch`
    pub resource_version_match: String,
    /// `limit`; 0 for all.
    pub limit: usize,
    /// `continue`
    pub continue_token: String,
}

/// Where a continued list goes on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: i64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// A list that waits to be sent: objects in key order at one revision. A clone begins where this one is.
#[derive(Clone, Debug)]
pub struct Listing {
    /// `metadata.resourceVersion`.
    pub revision: u64,
    /// `metadata.continue`; empty on the last page.
    pub continue_token: String,
    /// `metadata.remainingItemCount`, where it is known.
    pub remaining: Option<usize>,
    /// What only the converted objects can be asked.
    pub(super) late: Option<Filter>,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// A page, or one object.
    Fixed(std::vec::IntoIter<Arc<Entry>>),
    /// Everything in a range, found while it is sent.
    Cursor { map: Map, next: String, prefix: String, filter: Box<Filter> },
}

impl Listing {
    /// A list of these objects.
    pub fn fixed(revision: u64, entries: Vec<Arc<Entry>>) -> Self {
        let source = Source::Fixed(entries.into_iter());
        Self { revision, continue_token: String::new(), remaining: None, late: None, source }
    }

    /// Calls `visit` for further objects until it says no more; `false` when the list is at its end.
    pub fn advance(&mut self, mut visit: impl FnMut(&Entry) -> bool) -> bool {
        match &mut self.source {
            Source::Fixed(entries) => {
                for entry in entries.by_ref() {
                    if !visit(&entry) {
                        return true;
                    }
                }
                false
            }
            Source::Cursor { map, next, prefix, filter } => {
                let stopped_at = from(map, next)
                    .take_while(|(key, _)| key.starts_with(prefix.as_str()))
                    .find(|(_, entry)| filter.matches(entry) && !visit(entry))
                    .map(|(key, _)| after(key));
                match stopped_at {
                    Some(key) => {
                        *next = key;
                        true
                    }
                    None => false,
                }
            }
        }
    }

    /// With a filter for the converted objects.
    pub(super) fn asked_late(mut self, late: Option<Filter>) -> Self {
        self.late = late;
        self
    }

    /// The revision, and all that is left of the list.
    pub fn into_entries(mut self) -> (u64, Vec<Arc<Entry>>) {
        let mut entries = Vec::new();
        self.advance(|entry| {
            entries.push(Arc::new(entry.clone()));
            true
        });
        (self.revision, entries)
    }

    /// Whether the objects together have at least this many bytes; looks no further than needed.
    pub fn exceeds_bytes(&self, bytes: usize) -> bool {
        let mut sum = 0;
        let mut add = |entry: &Arc<Entry>| {
            sum += entry.bytes.len();
            sum >= bytes
        };
        match &self.source {
            Source::Fixed(entries) => entries.as_slice().iter().any(add),
            Source::Cursor { map, next, prefix, filter } => from(map, next)
                .take_while(|(key, _)| key.starts_with(prefix.as_str()))
                .any(|(_, entry)| filter.matches(entry) && add(entry)),
        }
    }
}

/// The entries from a key on.
fn from<'m>(map: &'m Map, key: &str) -> impl Iterator<Item = (&'m Arc<str>, &'m Arc<Entry>)> {
    map.range::<_, str>((std::ops::Bound::Included(key), std::ops::Bound::Unbounded))
}

/// The least key after this one.
fn after(key: &str) -> String {
    format!("{key}\0")
}

/// A resource version as a number.
///
/// # Errors
/// 500 without a reason, as upstream answers.
pub fn parse_version(text: &str) -> Result<u64, Status> {
    text.parse()
        .map_err(|_| Status::failure(500, "", format!("resourceVersion: Invalid value: {text:?}: must be a number")))
}

fn encode_token(revision: u64, last: &str) -> String {
    let token =
        Continue { v: TOKEN_VERSION.to_owned(), rv: i64::try_from(revision).unwrap_or(i64::MAX), start: after(last) };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn decode_token(text: &str) -> Result<Continue, Status> {
    let refuse = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| refuse("not base64"))?;
    let token: Continue = serde_json::from_slice(&bytes).map_err(|_| refuse("not a token of this server"))?;
    match token {
        Continue { v, .. } if v != TOKEN_VERSION => Err(refuse("unknown version")),
        Continue { rv: 0, .. } => Err(refuse("no resource version")),
        Continue { start, .. } if start.is_empty() || start.contains("..") => Err(refuse("bad start")),
        token => Ok(token),
    }
}

/// 410 for a continued list, with the token that goes on with what there is now.
fn too_old(start: &str) -> Status {
    let mut status = Status::expired(
        "The list that the continue parameter belongs to is too old to go on consistently: start again without it, or go on with the token in metadata.continue, which shows the objects as they are now.",
    );
    let token = Continue { v: TOKEN_VERSION.to_owned(), rv: -1, start: start.to_owned() };
    status.metadata.continue_token = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default());
    status
}

/// Upstream's `ValidateListOptions`.
fn validate(options: &ReadOptions) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    let path = Path::new("resourceVersionMatch");
    match options.resource_version_match.as_str() {
        "" => {}
        "NotOlderThan" | "Exact" => {
            if options.resource_version.is_empty() {
                let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                errors.push(FieldError::forbidden(path.clone(), detail));
            }
            if !options.continue_token.is_empty() {
                let detail = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(path.clone(), detail));
            }
            if options.resource_version_match == "Exact" && options.resource_version == "0" {
                let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(path, detail));
            }
        }
        other => {
            if options.resource_version.is_empty() {
                let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                errors.push(FieldError::forbidden(path.clone(), detail));
            }
            errors.push(FieldError::not_supported(path, other, &["Exact", "NotOlderThan", ""]));
        }
    }
    if !errors.is_empty() {
        return Err(invalid_options(&errors));
    }
    let version = options.resource_version.as_str();
    if !version.is_empty() && options.continue_token.is_empty() && version.parse::<u64>().is_err() {
        return Err(Status::bad_request(format!("invalid resource version: {version:?} is no number of 64 bits")));
    }
    Ok(())
}

/// The one revision that a list is to show; 0, however it is written, is none.
fn exact(options: &ReadOptions) -> Option<u64> {
    let is_exact = match options.resource_version_match.as_str() {
        "Exact" => true,
        "NotOlderThan" => false,
        _ => options.limit > 0,
    };
    options.resource_version.parse().ok().filter(|revision| is_exact && *revision > 0)
}

/// The 422 about query options.
pub(crate) fn invalid_options(errors: &ErrorList) -> Status {
    let kind = GroupKind { group: "meta.k8s.io".to_owned(), kind: "ListOptions".to_owned() };
    Status::invalid(&kind, "", errors)
}

/// The position of a selector's field, by the rules of the served version.
fn resolve(version: &ServedVersion, cache: &ResourceCache, namespaced: bool, field: &str) -> Option<FieldRef> {
    let named = |name: &str| match name {
        "metadata.name" => Some(FieldRef::Name),
        "metadata.namespace" => Some(FieldRef::Namespace),
        other => cache.probe().index(other).map(FieldRef::Field),
    };
    match version.selectable.iter().find(|(name, _)| name == field).map(|(_, how)| how) {
        Some(Selectable::Field) => named(field),
        Some(Selectable::Alias(other)) => named(other),
        Some(Selectable::Valueless) => Some(FieldRef::Valueless),
        None if field == "metadata.name" || (field == "metadata.namespace" && namespaced) => named(field),
        None => None,
    }
}

/// Both selectors, resolved.
pub(super) fn filter(target: &Target<'_>, cache: &ResourceCache, options: &ReadOptions) -> Result<Filter, Status> {
    let labels = LabelSelector::parse(&options.label_selector).map_err(|e| Status::bad_request(e.to_string()))?;
    let fields = FieldSelector::parse(&options.field_selector).map_err(|e| Status::bad_request(e.to_string()))?;
    Filter::new(labels, &fields, |field| resolve(target.version, cache, target.resource.namespaced, field)).map_err(
        |field| {
            let api_version = target.resource.api_version(&target.version.version);
            Status::bad_request(format!(
                "Unable to find {:?} that match label selector {:?}, field selector {:?}: field label not supported: {field}",
                format!("{api_version}, Resource={}", target.resource.plural),
                options.label_selector,
                options.field_selector
            ))
        },
    )
}

/// Which part of the keys a request can be about; the prefix may be a whole key.
pub(super) fn scope(target: &Target<'_>, filter: &Filter, cache: &ResourceCache) -> Scope {
    let namespace = if target.namespace.is_empty() && target.resource.namespaced {
        filter.required(FieldRef::Namespace).unwrap_or_default()
    } else if target.resource.namespaced {
        target.namespace
    } else {
        ""
    };
    let name = if target.name.is_empty() { filter.required(FieldRef::Name).unwrap_or_default() } else { target.name };
    if !name.is_empty() && (!namespace.is_empty() || !target.resource.namespaced) {
        let key = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        return Scope::Object(key);
    }
    if !namespace.is_empty() {
        return Scope::Namespace(namespace.to_owned());
    }
    match cache.indexed().and_then(|field| filter.required(field)) {
        Some(value) => Scope::Indexed(value.to_owned()),
        None => Scope::All,
    }
}

fn key_prefix(scope: &Scope) -> String {
    match scope {
        Scope::Namespace(namespace) => format!("{namespace}/"),
        _ => String::new(),
    }
}

impl Registry {
    /// A collection.
    ///
    /// # Errors
    /// 400 and 422 for the options, 410 for a revision that is gone, 504 for one that has not come.
    pub async fn list(&self, target: &Target<'_>, options: &ReadOptions) -> Result<Listing, Status> {
        validate(options)?;
        let cache = self.cache(target.resource)?;
        let (filter, late) = Self::split(target.resource, filter(target, &cache, options)?);
        let scope = scope(target, &filter, &cache);
        let mut start = key_prefix(&scope);
        let snapshot = if options.continue_token.is_empty() {
            self.snapshot_for(&cache, options).await?
        } else {
            let token = decode_token(&options.continue_token)?;
            if !options.resource_version.is_empty() && options.resource_version != "0" {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            if !token.start.starts_with(&start) {
                return Err(Status::bad_request("continue key is not valid: it is of another collection"));
            }
            start = token.start;
            match u64::try_from(token.rv) {
                Ok(revision) => cache.snapshot_at(revision).map_err(|_| too_old(&start))?,
                Err(_) => cache.snapshot(self.clock.catch_up().await?),
            }
        };
        // What any state will do for is served whole, as upstream's cache does it.
        let limit = if options.resource_version == "0" { 0 } else { options.limit };
        Ok(listing(&cache, snapshot, &scope, start, filter, limit).asked_late(late))
    }

    async fn snapshot_for(&self, cache: &ResourceCache, options: &ReadOptions) -> Result<Snapshot, Status> {
        let reached = self.reach(&options.resource_version).await?;
        Ok(match exact(options) {
            Some(revision) => cache.snapshot_at(revision)?,
            None => cache.snapshot(reached),
        })
    }
}

/// Everything in scope, as one list.
pub(super) fn whole(cache: &ResourceCache, snapshot: Snapshot, scope: &Scope, filter: Filter) -> Listing {
    let revision = snapshot.revision;
    if let Scope::Object(key) = scope {
        let found = snapshot.map.get(key.as_str()).filter(|entry| filter.matches(entry));
        return Listing::fixed(revision, found.into_iter().cloned().collect());
    }
    let (prefix, map) = (key_prefix(scope), snapshot.narrowed(&filter, cache));
    let source = Source::Cursor { map, next: prefix.clone(), prefix, filter: Box::new(filter) };
    Listing { revision, continue_token: String::new(), remaining: None, late: None, source }
}

fn listing(
    cache: &ResourceCache,
    snapshot: Snapshot,
    scope: &Scope,
    start: String,
    filter: Filter,
    limit: usize,
) -> Listing {
    let revision = snapshot.revision;
    if matches!(scope, Scope::Object(_)) {
        return whole(cache, snapshot, scope, filter);
    }
    let (prefix, map) = (key_prefix(scope), snapshot.clone().narrowed(&filter, cache));
    if limit == 0 {
        let source = Source::Cursor { map, next: start, prefix, filter: Box::new(filter) };
        return Listing { revision, continue_token: String::new(), remaining: None, late: None, source };
    }
    let mut page: Vec<Arc<Entry>> = Vec::new();
    let mut rest = 0;
    let whole = filter.is_everything();
    for (_, entry) in from(&map, &start).take_while(|(key, _)| key.starts_with(&prefix)) {
        if !filter.matches(entry) {
            continue;
        }
        if page.len() < limit {
            page.push(Arc::clone(entry));
            continue;
        }
        rest += 1;
        if !whole {
            break;
        }
    }
    let mut listing = Listing::fixed(revision, page);
    if rest > 0
        && let Source::Fixed(entries) = &listing.source
        && let Some(last) = entries.as_slice().last()
    {
        listing.continue_token = encode_token(revision, &last.key);
        listing.remaining = whole.then_some(rest);
        cache.pin(&snapshot);
    }
    listing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let token = decode_token(&encode_token(7, "a/b")).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (7, "a/b\0"));
        for bad in ["x", "e30", "%%%"] {
            assert_eq!(decode_token(bad).unwrap_err().code, 400);
        }
    }

    #[test]
    fn options() {
        let of = |version: &str, matching: &str| ReadOptions {
            resource_version: version.to_owned(),
            resource_version_match: matching.to_owned(),
            ..ReadOptions::default()
        };
        for (version, matching, good) in [
            ("", "", true),
            ("5", "Exact", true),
            ("0", "NotOlderThan", true),
            ("0", "Exact", false),
            ("", "Exact", false),
            ("1", "Other", false),
            ("x", "", false),
            ("18446744073709551615", "", true),
            ("18446744073709551616", "", false),
            ("00", "Exact", true),
        ] {
            assert_eq!(validate(&of(version, matching)).is_ok(), good, "{version} {matching}");
        }
        for (version, matching, limit, revision) in [
            ("7", "", 0, None),
            ("7", "", 5, Some(7)),
            ("7", "NotOlderThan", 5, None),
            ("7", "Exact", 0, Some(7)),
            ("00", "Exact", 0, None),
            ("00", "", 5, None),
            ("", "", 5, None),
        ] {
            assert_eq!(
                exact(&ReadOptions { limit, ..of(version, matching) }),
                revision,
                "{version} {matching} {limit}"
            );
        }
    }
}
