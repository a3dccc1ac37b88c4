//! Turns `schema/*.json` into static Rust tables: types, defaults, resource rows.
//!
//! Everything comes out as statics that refer to each other, so that the tables cost neither start-up time nor heap.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::Value;

#[path = "build/defaults.rs"]
mod defaults;
#[path = "build/resources.rs"]
mod resources;
#[path = "build/types.rs"]
mod types;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> Fallible<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let schema = Path::new("schema");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=schema");
    let types = read(&schema.join("types.json"))?;
    let defaults = read(&schema.join("defaults.json"))?;
    fs::write(out.join("types.rs"), types::generate(&types)?)?;
    fs::write(out.join("defaults.rs"), defaults::generate(&types, &defaults)?)?;
    let rows = resources::generate(
        &read(&schema.join("resources.json"))?,
        &read(&schema.join("fields.json"))?,
        &read(&schema.join("tables.json"))?,
    )?;
    fs::write(out.join("resources.rs"), rows)?;
    Ok(())
}

fn read(path: &Path) -> Fallible<Value> {
    let text = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?)
}

/// A string member, empty when absent.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A boolean member, false when absent.
fn flag(value: &Value, key: &str) -> bool {
    value[key].as_bool().unwrap_or_default()
}

/// A list member, empty when absent.
fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `&["a", "b"]`.
fn strings(values: &[Value]) -> String {
    let quoted: Vec<String> = values.iter().filter_map(Value::as_str).map(|s| format!("{s:?}")).collect();
    format!("&[{}]", quoted.join(", "))
}
