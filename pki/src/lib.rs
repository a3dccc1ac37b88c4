//! Certificate authorities, leaf profiles, certificate signing requests and kubeconfigs.
//!
//! Contract: a library with no policy of its own. Which certificates a cluster has is data ([`profile`]); signing takes
//! the signer's policy and never copies extensions from a request ([`authority`], [`csr`]); the clock is an argument.
//! Only [`store`] and [`token_keys`] touch files. Nothing here knows of a daemon or of the API.

pub mod authority;
pub mod csr;
mod error;
pub mod inspect;
pub mod key;
pub mod kubeconfig;
pub mod profile;
pub mod store;
pub mod token_keys;

pub use error::Error;
