//! What every controller stands on: one informer per resource, key queues and workers, plans and their executor.
//!
//! Contract: a controller registers its interest while the process is being put together, then only ever answers
//! "bring this key one step closer". It sees snapshots (stores), decides purely (a [`plan::Plan`]) and lets the
//! [`executor::Executor`] act. Nothing here knows any particular controller.

pub mod backoff;
pub mod claim;
pub mod credentials;
pub mod discovery;
pub mod executor;
pub mod expectations;
pub mod plan;
pub mod pod_control;
pub mod runtime;
pub mod store;

pub use client::ObjectKey as Key;
pub use client::events::EventType as EventKind;
pub use executor::Executor;
pub use expectations::Expectations;
pub use plan::{Action, Plan, Subject, Target};
pub use runtime::{Controller, Queue, Setup, SyncError, SyncResult};
pub use store::{Store, Stores, View};
