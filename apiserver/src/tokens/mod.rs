//! Service-account tokens: the keys that sign and verify them, what stands in them, and the JWT form itself.
//!
//! Guarantees: a token is accepted only with a signature by one of the configured keys, an algorithm that fits that key,
//! and claims inside their time. Does not know of requests; [`crate::authn`] checks the bound objects.

pub mod claims;
pub mod issuer;
pub mod jwt;
pub mod keys;

pub use claims::{BoundObject, Claims, TokenSubject};
pub use issuer::{Discovery, Issuer};
pub use jwt::{JwtError, Signer, Verifier};
pub use keys::{KeyError, PublicKey};
