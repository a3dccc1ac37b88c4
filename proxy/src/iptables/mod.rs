//! The iptables back end: [`render`] turns service ports into chains and rules (pure), [`sync`] turns two states of the
//! kernel's tables into what `iptables-restore --noflush` has to be told (pure). Only the executor runs programs.
//!
//! Chain names, comments and rules are upstream's, because operators and tools read them.

pub mod executor;
pub mod names;
pub mod render;
pub mod ruleset;
pub mod sync;
pub mod tables;
#[cfg(test)]
mod tests;

pub use executor::Executor;
pub use ruleset::{Jump, Ruleset, Table, jump};
pub use tables::Tables;
