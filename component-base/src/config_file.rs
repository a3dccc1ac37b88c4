//! Configuration files (`kubelet.config.k8s.io/v1beta1` and the like): YAML or JSON into a daemon's struct, strictly.
//!
//! Guarantees: an unknown field is named with its path and the nearest known name, all of them at once; wrong kind or
//! version is named; so is what stands where another type is expected. [`load`] refuses unknown fields,
//! [`load_lenient`] returns them as warnings (kube-proxy reads its v1alpha1 file so, as upstream does).
//! The struct needs no `deny_unknown_fields` and no fields for `apiVersion` and `kind`.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

mod tracked;

/// Largest configuration file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Neither YAML nor JSON, or not one object.
    #[error("configuration file {} is not readable as YAML or JSON: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Why and where.
        reason: String,
    },
    /// Another kind of file.
    #[error("configuration file {} is {found}, but {expected} is needed here", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        found: String,
        /// What is needed.
        expected: String,
    },
    /// A field has the wrong type or value.
    #[error("configuration file {}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which field and why.
        reason: String,
    },
    /// Fields that nothing knows.
    #[error("configuration file {}: {}", path.display(), unknown.join("; "))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// One sentence per field.
        unknown: Vec<String>,
    },
}

/// Loads `path`, refusing unknown fields.
pub fn load<T: DeserializeOwned>(path: &Path, api_version: &str, kind: &str) -> Result<T, ConfigError> {
    let (config, unknown) = load_lenient(path, api_version, kind)?;
    if unknown.is_empty() { Ok(config) } else { Err(ConfigError::Unknown { path: path.to_owned(), unknown }) }
}

/// Loads `path`; unknown fields come back as sentences.
pub fn load_lenient<T: DeserializeOwned>(
    path: &Path,
    api_version: &str,
    kind: &str,
) -> Result<(T, Vec<String>), ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(read)?.len();
    if size > MAX_FILE_BYTES {
        return Err(read(std::io::Error::other(format!("{size} bytes are more than {MAX_FILE_BYTES}"))));
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    parse(&text, path, api_version, kind)
}

/// [`load_lenient`] of a text that is already read; `path` is for messages.
pub fn parse<T: DeserializeOwned>(
    text: &str,
    path: &Path,
    api_version: &str,
    kind: &str,
) -> Result<(T, Vec<String>), ConfigError> {
    let value = read_value(text).map_err(|reason| ConfigError::Syntax { path: path.to_owned(), reason })?;
    let Value::Object(mut object) = value else {
        return Err(ConfigError::Syntax { path: path.to_owned(), reason: "it holds no object".to_owned() });
    };
    let mut header = |key: &str| match object.remove(key) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (found_version, found_kind) = (header("apiVersion"), header("kind"));
    if found_version != api_version || found_kind != kind {
        let shown = |text: String, what: &str| if text.is_empty() { format!("without {what}") } else { text };
        return Err(ConfigError::Kind {
            path: path.to_owned(),
            found: format!("{} {}", shown(found_version, "apiVersion"), shown(found_kind, "kind")),
            expected: format!("{api_version} {kind}"),
        });
    }
    tracked::from_value(Value::Object(object)).map_err(|reason| ConfigError::Value { path: path.to_owned(), reason })
}

fn read_value(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, Default, PartialEq)]
    #[serde(rename_all = "camelCase", default)]
    struct Demo {
        config_sync_period: crate::duration::GoDuration,
        #[serde(rename = "clusterCIDR")]
        cluster_cidr: String,
        conntrack: Conntrack,
        ports: Vec<u16>,
        oom_score_adj: Option<i32>,
    }

    #[derive(Debug, Deserialize, Default, PartialEq)]
    #[serde(rename_all = "camelCase", default)]
    struct Conntrack {
        max_per_core: Option<i32>,
    }

    fn read(text: &str) -> Result<(Demo, Vec<String>), ConfigError> {
        parse(text, Path::new("demo.yaml"), "demo/v1", "Demo")
    }

    #[test]
    fn reads_yaml_and_json() {
        let (demo, unknown) = read(
            "apiVersion: demo/v1\nkind: Demo\nconfigSyncPeriod: 15m0s\nclusterCIDR: \"10.0.0.0/8\"\nconntrack:\n  maxPerCore: 5\nports: [1, 2]\noomScoreAdj: -999\n",
        )
        .unwrap();
        assert_eq!(unknown, Vec::<String>::new());
        assert_eq!(demo.config_sync_period.as_secs(), 900);
        assert_eq!((demo.conntrack.max_per_core, demo.ports, demo.oom_score_adj), (Some(5), vec![1, 2], Some(-999)));
        assert!(read(r#"{"apiVersion":"demo/v1","kind":"Demo","clusterCIDR":null}"#).is_ok());
    }

    #[test]
    fn names_all_unknown_fields() {
        let (_, unknown) =
            read("apiVersion: demo/v1\nkind: Demo\nclusterCidr: x\nconntrack:\n  maxPerCor: 5\ncolour: red\n").unwrap();
        assert_eq!(
            unknown,
            [
                "unknown field \"clusterCidr\", did you mean \"clusterCIDR\"?",
                "unknown field \"colour\"",
                "unknown field \"conntrack.maxPerCor\", did you mean \"maxPerCore\"?",
            ]
        );
    }

    #[test]
    fn names_what_is_wrong() {
        let error = read("apiVersion: demo/v2\nkind: Demo\n").unwrap_err().to_string();
        assert!(error.contains("demo/v2 Demo, but demo/v1 Demo is needed"), "{error}");
        let error = read("kind: Demo\n").unwrap_err().to_string();
        assert!(error.contains("without apiVersion"), "{error}");
        let error = read("apiVersion: demo/v1\nkind: Demo\nconntrack:\n  maxPerCore: many\n").unwrap_err().to_string();
        assert!(error.contains("conntrack.maxPerCore: invalid type: string \"many\""), "{error}");
        assert!(matches!(read("a: [").unwrap_err(), ConfigError::Syntax { .. }));
        assert!(matches!(read("").unwrap_err(), ConfigError::Syntax { .. }));
    }
}
