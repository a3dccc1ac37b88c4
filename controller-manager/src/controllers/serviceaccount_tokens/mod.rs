//! Token secrets of service accounts (the legacy kind: no end, no audience): [`secrets`] fills and removes them,
//! [`cleaner`] takes back those that nobody has used for long.

pub mod cleaner;
pub mod secrets;
