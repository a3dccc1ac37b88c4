//! The nftables back end: [`render`] turns service ports into chains, sets and map elements (pure), [`script`] turns
//! differences into one `nft -f -` transaction (pure). Only the executor runs programs.
//!
//! Packets find their Service through verdict maps, so neither they nor a change pay for the number of Services. Names,
//! comments and rules of the table `kube-proxy` are upstream's, because operators and tools read them.

pub mod executor;
pub mod render;
pub mod script;
#[cfg(test)]
mod tests;

pub use executor::Executor;
