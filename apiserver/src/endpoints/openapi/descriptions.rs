//! What types and fields are for, in upstream's words: data that `scripts/descriptions.py` takes from the release.
//!
//! Lies compressed in the binary. It is unpacked while documents are made and given back when the last of them is done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use flate2::read::GzDecoder;

static PACKED: &[u8] = include_bytes!("../../../data/descriptions.json.gz");
static IN_USE: Mutex<Weak<Descriptions>> = Mutex::new(Weak::new());

/// The texts of every type, by field; the type's own is under the empty name.
#[derive(Default)]
pub struct Descriptions(HashMap<String, HashMap<String, String>>);

impl Descriptions {
    /// The one copy in memory, unpacked when there is none.
    pub fn get() -> Arc<Self> {
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = in_use.upgrade() {
            return shared;
        }
        // The data is part of the binary: that it reads is a test's business, and documents are whole without it.
        let texts = serde_json::from_reader(GzDecoder::new(PACKED)).unwrap_or_default();
        let shared = Arc::new(Self(texts));
        *in_use = Arc::downgrade(&shared);
        shared
    }

    /// Of a type (empty `field`) or one of its fields.
    pub fn of(&self, type_name: &str, field: &str) -> Option<&str> {
        self.0.get(type_name)?.get(field).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let texts = Descriptions::get();
        assert!(texts.of("io.k8s.api.core.v1.Pod", "").is_some_and(|text| text.contains("containers")));
        assert!(texts.of("io.k8s.api.core.v1.PodSpec", "nodeName").is_some());
        assert_eq!(texts.of("io.k8s.api.core.v1.PodSpec", "nothing"), None);
    }
}
