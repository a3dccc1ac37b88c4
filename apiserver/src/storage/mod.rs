//! The log (etcd) and what is derived from it: one cache per resource, kept by one clock, and the fan-out of events.
//!
//! Guarantees: a write is acknowledged only when etcd has committed it; a cache never shows a revision before everything up
//! to it was applied; events of a resource reach every watcher in revision order. Knows bytes, keys, labels and selectable
//! fields, but no kinds, no users and no HTTP.

pub mod cache;
pub mod clock;
mod commit;
pub mod compaction;
pub mod diagnose;
pub mod entry;
pub mod etcd;
pub mod fanout;
pub mod lease;
mod measure;
mod position;
pub mod probe;
pub mod terms;
pub mod transform;

use apimachinery::status::{Cause, Details, Status};

/// Why storage did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The settings cannot be used.
    #[error("{flag}: {why}")]
    Config {
        /// The flag to correct.
        flag: &'static str,
        /// What is wrong with its value.
        why: String,
    },
    /// No etcd server could be talked to.
    #[error("cannot use etcd at {servers} (--etcd-servers): {why}")]
    Unreachable {
        /// The value of `--etcd-servers`.
        servers: String,
        /// Which step failed and what helps.
        why: String,
    },
    /// A call failed; a write may or may not have happened.
    #[error("etcd {call}: {why}")]
    Call {
        /// What was called.
        call: &'static str,
        /// etcd's or the transport's words.
        why: String,
    },
    /// A call took too long; a write may or may not have happened.
    #[error("etcd {call}: no answer within {seconds} s")]
    Timeout {
        /// What was called.
        call: &'static str,
        /// How long it was waited.
        seconds: u64,
    },
    /// The value exceeds etcd's limit.
    #[error("the object is too large for etcd (--max-request-bytes)")]
    TooLarge,
    /// A stored value cannot be read.
    #[error("the value of {key} cannot be read: {why}")]
    Corrupt {
        /// The etcd key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// Events or the state at that revision are gone.
    #[error("too old resource version: {asked} ({oldest})")]
    Expired {
        /// What was asked.
        asked: u64,
        /// The oldest one that is held.
        oldest: u64,
    },
    /// The revision lies in the future.
    #[error("Too large resource version: {asked}, current: {current}")]
    Future {
        /// What was asked.
        asked: u64,
        /// The newest one that is known.
        current: u64,
    },
}

impl From<StorageError> for Status {
    fn from(error: StorageError) -> Self {
        let message = error.to_string();
        match error {
            StorageError::Expired { .. } => Self::expired(message),
            StorageError::Future { .. } => {
                let mut status = Self::timeout(message);
                let cause = Cause {
                    reason: "ResourceVersionTooLarge".to_owned(),
                    message: "Too large resource version".to_owned(),
                    field: String::new(),
                };
                let details = Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() };
                status.details = Some(Box::new(details));
                status
            }
            StorageError::Timeout { .. } => Self::timeout(message),
            StorageError::TooLarge => Self::request_entity_too_large(message),
            StorageError::Unreachable { .. } => Self::service_unavailable(message),
            StorageError::Config { .. } | StorageError::Call { .. } | StorageError::Corrupt { .. } => {
                Self::internal(message)
            }
        }
    }
}
