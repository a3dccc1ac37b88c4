//! The file of `--encryption-provider-config`: upstream's `EncryptionConfiguration`.

use std::path::Path;

use base64::Engine as _;
use serde_json::{Map, Value};

use super::ciphers::{Cipher, Provider};
use super::{Rule, Rules};
use crate::storage::StorageError;

/// Reads the file.
///
/// # Errors
/// It cannot be read, or names a provider or key that cannot be used.
pub(super) fn read(path: &Path) -> Result<Rules, StorageError> {
    let fail = |why: String| StorageError::Config {
        flag: "--encryption-provider-config",
        why: format!("{}: {why}", path.display()),
    };
    let text = std::fs::read_to_string(path).map_err(|err| fail(err.to_string()))?;
    let document: Value = serde_saphyr::from_str(&text).map_err(|err| fail(err.to_string()))?;
    parse(&document).map_err(fail)
}

fn parse(document: &Value) -> Result<Rules, String> {
    if document["kind"] != "EncryptionConfiguration" {
        return Err("its kind must be EncryptionConfiguration".to_owned());
    }
    let rules = document["resources"].as_array().ok_or("it has no resources")?;
    rules.iter().enumerate().map(|(at, one)| rule(one).map_err(|why| format!("resources[{at}]: {why}"))).collect()
}

fn rule(rule: &Value) -> Result<Rule, String> {
    let names = rule["resources"].as_array().into_iter().flatten();
    let resources: Vec<String> = names.filter_map(Value::as_str).map(str::to_owned).collect();
    if resources.is_empty() {
        return Err("it names no resource".to_owned());
    }
    let providers = rule["providers"].as_array().filter(|list| !list.is_empty()).ok_or("it has no providers")?;
    let named = |(at, one)| provider(one).map_err(|why| format!("providers[{at}]: {why}"));
    Ok(Rule { resources, providers: providers.iter().enumerate().map(named).collect::<Result<_, _>>()? })
}

fn provider(provider: &Value) -> Result<Provider, String> {
    let empty = Map::new();
    let fields = provider.as_object().unwrap_or(&empty);
    let [(name, settings)] = fields.iter().collect::<Vec<_>>()[..] else {
        return Err("it must be one of aescbc, aesgcm, secretbox, identity".to_owned());
    };
    let sizes = match name.as_str() {
        "identity" => return Ok(Provider::Identity),
        "aescbc" | "aesgcm" => "16, 24 or 32",
        "secretbox" => "32",
        "kms" => return Err("kms is not implemented; use secretbox, aesgcm or aescbc with keys in the file".to_owned()),
        other => return Err(format!("{other:?} is none of aescbc, aesgcm, secretbox, identity")),
    };
    let mut keys = Vec::new();
    for key in settings["keys"].as_array().into_iter().flatten() {
        let key_name = key["name"].as_str().filter(|name| !name.is_empty()).ok_or("a key has no name")?;
        if key_name.contains(':') {
            return Err(format!("the key's name {key_name:?} must not contain ':'"));
        }
        let secret = base64::engine::general_purpose::STANDARD.decode(key["secret"].as_str().unwrap_or_default());
        let secret = secret.map_err(|_| format!("the secret of key {key_name:?} is not base64"))?;
        let cipher = Cipher::new(name, &secret);
        let cipher = cipher.ok_or_else(|| format!("the secret of key {key_name:?} must have {sizes} bytes"))?;
        keys.push((format!("{key_name}:"), cipher));
    }
    if keys.is_empty() {
        return Err(format!("{name} needs at least one key"));
    }
    Ok(Provider::Keys { mark: format!("k8s:enc:{name}:v1:"), keys })
}
