//! Which objects belong to a controller: those it owns and still selects, orphans that it selects (adopted) and owned
//! ones that it no longer selects (released). Upstream's ControllerRefManager as a pure function.

use std::sync::Arc;

use apimachinery::meta::ObjectMeta;

use super::plan::{Action, Plan, Subject, Target, controller_of};
use super::store::{Store, View};
use super::{Executor, SyncError};
use crate::views::meta::is_deleting;
use crate::views::orphans_of;
use crate::views::selector::Selector;
use crate::views::workloads::BY_OWNER;

/// The outcome of claiming.
#[derive(Debug)]
pub struct Claims<T> {
    /// Owned, including those that `actions` adopt.
    pub owned: Vec<Arc<T>>,
    /// Adoptions and releases.
    pub actions: Vec<Action>,
}

/// What of `store` is `owner`'s, after adoptions and releases. The store's views must be indexed by [`crate::views::owner_index`] under
/// `owner`.
pub async fn claim_from<T: View>(
    executor: &Executor,
    store: &Store<T>,
    (owner, meta, selector): (&Subject, &ObjectMeta, &Selector),
    filter: impl Fn(&T) -> bool,
) -> Result<Vec<Arc<T>>, SyncError> {
    let mut candidates = store.by_index(BY_OWNER, &owner.uid);
    candidates.extend(store.by_index(BY_OWNER, &orphans_of(&owner.key.namespace)));
    let claims = claim(owner, meta, selector, candidates, filter);
    executor.run(Plan { actions: claims.actions, again_after: None }).await?;
    Ok(claims.owned)
}

/// Sorts out `candidates` for `owner`. `may_adopt` further restricts orphans and owned objects (name prefixes of
/// stateful sets, for instance).
pub fn claim<T: View>(
    owner: &Subject,
    owner_meta: &ObjectMeta,
    selector: &Selector,
    candidates: impl IntoIterator<Item = Arc<T>>,
    filter: impl Fn(&T) -> bool,
) -> Claims<T> {
    let mut claims = Claims { owned: Vec::new(), actions: Vec::new() };
    let deleting = is_deleting(owner_meta);
    for object in candidates {
        let meta = object.meta();
        let matches = selector.matches(&meta.labels) && filter(&object);
        match controller_of(meta) {
            Some(controller) if controller.uid != owner.uid => {}
            Some(_) if matches => claims.owned.push(object),
            Some(_) if deleting => {}
            Some(_) => claims.actions.push(Action::Release {
                owner_uid: owner.uid.clone(),
                target: Target::of(&T::RESOURCE, meta),
                uid: meta.uid.clone(),
            }),
            None if deleting || !matches || is_deleting(meta) => {}
            None => {
                claims.actions.push(Action::Adopt {
                    owner: owner.clone(),
                    target: Target::of(&T::RESOURCE, meta),
                    uid: meta.uid.clone(),
                });
                claims.owned.push(object);
            }
        }
    }
    claims
}
