//! Pod status: `generate` computes it (pure), `conditions` its conditions (pure), `manager` writes it to the API.

pub mod conditions;
pub mod generate;
pub mod manager;
