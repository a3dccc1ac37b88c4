//! Starting watches: from which revision, with or without the present objects first.

use std::sync::Arc;

use apimachinery::field::{ErrorList, FieldError, Path};
use apimachinery::status::Status;

use super::list::{self, ReadOptions, invalid_options};
use super::{Listing, Registry, Target};
use crate::storage::cache::ResourceCache;
use crate::storage::clock::Clock;
use crate::storage::entry::Filter;
use crate::storage::fanout::{Next, Watcher};

/// Query options of a watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Shared with list.
    pub read: ReadOptions,
    /// `allowWatchBookmarks`
    pub bookmarks: bool,
    /// `sendInitialEvents`
    pub send_initial_events: Option<bool>,
}

/// An open watch. Dropping it ends it.
pub struct Watch {
    /// The objects to send first, as added; `None` when the watch starts with changes.
    pub initial: Option<Listing>,
    /// After the initial objects a bookmark says that they are complete.
    pub marks_end_of_initial: bool,
    /// What only the converted objects can be asked.
    pub late: Option<Filter>,
    clock: Arc<Clock>,
    cache: Arc<ResourceCache>,
    watcher: Arc<Watcher>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.cache.unwatch(&self.watcher);
    }
}

impl Watch {
    /// What is next; never waits.
    pub fn take(&self) -> Next {
        self.watcher.take()
    }

    /// Resolves when there may be something to take.
    pub async fn woken(&self) {
        self.watcher.woken().await;
    }

    /// A revision up to which everything was taken, or what came instead meanwhile.
    pub fn progress(&self) -> Result<u64, Next> {
        let revision = self.clock.revision();
        match self.watcher.take() {
            Next::Empty => Ok(revision),
            next => Err(next),
        }
    }
}

/// Upstream's rules for `sendInitialEvents` and `resourceVersionMatch`.
fn validate(options: &WatchOptions) -> Result<(), Status> {
    const ONLY: &str = "NotOlderThan";
    let mut errors = ErrorList::new();
    let matching = options.read.resource_version_match.as_str();
    let path = || Path::new("resourceVersionMatch");
    let asks = options.send_initial_events.is_some();
    if asks && matching != ONLY {
        let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(path(), detail));
    }
    if !matching.is_empty() {
        if !asks {
            let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(path(), detail));
        }
        if matching != ONLY {
            errors.push(FieldError::not_supported(path(), matching, &[ONLY]));
        }
        if !options.read.continue_token.is_empty() {
            errors.push(FieldError::forbidden(path(), "resourceVersionMatch is forbidden when continue is provided"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(invalid_options(&errors)) }
}

impl Registry {
    /// Opens a watch.
    ///
    /// # Errors
    /// 400 and 422 for the options, 410 for a revision that is gone, 504 for one that has not come.
    pub async fn watch(&self, target: &Target<'_>, options: &WatchOptions) -> Result<Watch, Status> {
        validate(options)?;
        let cache = self.cache(target.resource)?;
        let (filter, late) = Self::split(target.resource, list::filter(target, &cache, &options.read)?);
        let scope = list::scope(target, &filter, &cache);
        let version = options.read.resource_version.as_str();
        let since = if version.is_empty() { 0 } else { list::parse_version(version)? };
        // Upstream reads `00` as 0 too.
        let since = (since > 0).then_some(since);
        let present_first = options.send_initial_events.unwrap_or(since.is_none());
        if options.send_initial_events == Some(true) {
            self.reach(version).await?;
        } else if version.is_empty() && present_first {
            self.clock.catch_up().await?;
        }
        let since = since.filter(|_| !present_first);
        let watcher = Arc::new(Watcher::new(scope.clone(), filter.clone(), since.unwrap_or_default()));
        let clock = Arc::clone(&self.clock);
        let snapshot = cache.watch(&watcher, since, clock.revision())?;
        let initial = present_first.then(|| list::whole(&cache, snapshot, &scope, filter).asked_late(late.clone()));
        let marks_end_of_initial = options.send_initial_events == Some(true);
        Ok(Watch { initial, marks_end_of_initial, late, clock, cache, watcher })
    }
}
