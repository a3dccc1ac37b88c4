//! `legacy-serviceaccount-token-cleaner-controller`: once a day, token secrets that were made for accounts automatically
//! and have not been used for `--legacy-service-account-token-clean-up-period` are marked invalid, and removed when they
//! have been so for as long again.
//!
//! Use is recorded by the API server in a label, since the date in its config map; before it has recorded for the whole
//! period nothing is judged. Dates compare as text. Secrets that pods mount stay.

use std::collections::HashSet;
use std::time::Duration;

use client::{ListOptions, resources};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::framework::{Controller, Executor, Key, Setup, Store, SyncError, SyncResult, Target, View};
use crate::views::config::TokenSecretView;
use crate::views::namespace::ServiceAccountView;
use crate::views::pod::{BY_NAMESPACE, PodView};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const TRACKING: (&str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking");
const EVERY: Duration = Duration::from_secs(24 * 3600);

/// Registers `legacy-serviceaccount-token-cleaner-controller`.
pub fn register(setup: &mut Setup) {
    let queue = setup.queue("legacy_service_account_token_cleaner");
    let accounts = setup.stores.of::<ServiceAccountView>();
    let pods = setup.stores.of::<PodView>();
    let executor = setup.executor("legacy-service-account-token-cleaner");
    let period = SignedDuration::try_from(setup.config.legacy_token_period).unwrap_or(SignedDuration::MAX);
    queue.add(Key::default());
    setup.workers(queue, 1, Cleaner { accounts, pods, executor, period });
}

/// What becomes of a token secret.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// It is marked with the date.
    Invalidate,
    /// It goes.
    Remove,
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

/// Judges a secret that nobody mounts and its account names. `limit` is the first instant that is recent enough.
pub fn judge(secret: &TokenSecretView, limit: Timestamp) -> Verdict {
    let meta = &secret.metadata;
    let limit_day = limit.strftime("%Y-%m-%d").to_string();
    if meta.deletion_timestamp.is_some() || meta.creation_timestamp.is_some_and(|created| created > limit) {
        return Verdict::Keep;
    }
    if let Some(used) = meta.labels.get(LAST_USED)
        && (!is_date(used) || *used >= limit_day)
    {
        return Verdict::Keep;
    }
    match meta.labels.get(INVALID_SINCE).filter(|since| is_date(since)) {
        None => Verdict::Invalidate,
        Some(since) if *since >= limit_day => Verdict::Keep,
        Some(_) => Verdict::Remove,
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tracking {
    data: Value,
}

struct Cleaner {
    accounts: Store<ServiceAccountView>,
    pods: Store<PodView>,
    executor: Executor,
    period: SignedDuration,
}

impl Cleaner {
    async fn clean(&self) -> Result<(), SyncError> {
        let now = Timestamp::now();
        let Ok(limit) = now.checked_sub(self.period) else { return Ok(()) };
        let tracking: Tracking =
            self.executor.client().get(&resources::CONFIG_MAPS, Some(TRACKING.0), TRACKING.1).await?;
        let since = tracking.data["since"].as_str().filter(|since| is_date(since));
        let limit_day = limit.strftime("%Y-%m-%d").to_string();
        if since.is_none_or(|since| *since > *limit_day) {
            return Ok(());
        }
        let fields = TokenSecretView::field_selector().unwrap_or_default().to_owned();
        let only = ListOptions { field_selector: fields, ..ListOptions::default() };
        let secrets = self.executor.client().list::<TokenSecretView>(&resources::SECRETS, None, &only).await?;
        for secret in &secrets.items {
            let meta = &secret.metadata;
            let account = self.accounts.get(&meta.namespace, secret.account());
            if account.is_none_or(|account| !account.names(&meta.name)) || self.is_mounted(secret) {
                continue;
            }
            let target = Target::of(&TokenSecretView::RESOURCE, meta);
            match judge(secret, limit) {
                Verdict::Keep => {}
                Verdict::Invalidate => {
                    let day = now.strftime("%Y-%m-%d").to_string();
                    let change = json!({"metadata": {"uid": meta.uid, "labels": {(INVALID_SINCE): day}}});
                    self.executor.apply(target.change(change)).await?;
                }
                Verdict::Remove => {
                    self.executor.apply(target.delete(&meta.uid)).await?;
                }
            }
        }
        Ok(())
    }

    fn is_mounted(&self, secret: &TokenSecretView) -> bool {
        let pods = self.pods.by_index(BY_NAMESPACE, &secret.metadata.namespace);
        let mounted: HashSet<&str> = pods.iter().flat_map(|pod| pod.secrets()).collect();
        mounted.contains(secret.metadata.name.as_str())
    }
}

impl Controller for Cleaner {
    async fn sync(&self, _: &Key) -> SyncResult {
        match self.clean().await {
            // The API server does not record use (yet): nothing can be judged.
            Err(error) if error.is_not_found() => tracing::debug!(%error, "legacy tokens are not tracked"),
            other => other?,
        }
        Ok(Some(EVERY))
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::time::parse_time;

    use super::*;

    #[test]
    fn unused_tokens_are_marked_and_later_removed() {
        let limit = parse_time("2026-01-10T12:00:00Z").unwrap();
        for (created, used, invalid, wanted) in [
            ("2026-01-11T00:00:00Z", None, None, Verdict::Keep),
            ("2025-01-01T00:00:00Z", Some("2026-01-10"), None, Verdict::Keep),
            ("2025-01-01T00:00:00Z", Some("yesterday"), None, Verdict::Keep),
            ("2025-01-01T00:00:00Z", Some("2026-01-09"), None, Verdict::Invalidate),
            ("2025-01-01T00:00:00Z", None, Some("never"), Verdict::Invalidate),
            ("2025-01-01T00:00:00Z", None, Some("2026-01-10"), Verdict::Keep),
            ("2025-01-01T00:00:00Z", None, Some("2026-01-09"), Verdict::Remove),
        ] {
            let labels = json!({(LAST_USED): used, (INVALID_SINCE): invalid});
            let labels: Value = labels
                .as_object()
                .unwrap()
                .iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            let secret = json!({"metadata": {"creationTimestamp": created, "labels": labels}});
            assert_eq!(judge(&serde_json::from_value(secret).unwrap(), limit), wanted, "{used:?} {invalid:?}");
        }
    }
}
