//! Single requests to the API server without kubectl's start-up cost.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::output;

/// An administrator's connection data.
#[derive(Clone)]
pub struct Raw {
    /// The API server's URL.
    pub server: String,
    pub(crate) pki: PathBuf,
}

impl Raw {
    /// Posts an object and returns the HTTP status.
    ///
    /// # Errors
    /// When no answer came.
    pub fn post(&self, path: &str, object: &Value) -> Result<u16, String> {
        Ok(self.send("POST", path, "application/json", Some(object))?.0)
    }

    /// Gets an object or a list.
    ///
    /// # Errors
    /// When no answer came, or another status than 200.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        match self.send("GET", path, "application/json", None)? {
            (200, answer) => Ok(answer),
            (status, answer) => Err(format!("GET {path}: {status}: {answer}")),
        }
    }

    /// Merges a change into an object and returns the HTTP status.
    ///
    /// # Errors
    /// When no answer came.
    pub fn merge(&self, path: &str, change: &Value) -> Result<u16, String> {
        Ok(self.send("PATCH", path, "application/merge-patch+json", Some(change))?.0)
    }

    /// Deletes an object without grace and returns the HTTP status.
    ///
    /// # Errors
    /// When no answer came.
    pub fn delete_now(&self, path: &str) -> Result<u16, String> {
        let options = serde_json::json!({"gracePeriodSeconds": 0});
        Ok(self.send("DELETE", path, "application/json", Some(&options))?.0)
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Result<(u16, Value), String> {
        let pki = |file: &str| self.pki.join(file);
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "30", "-w", "\n%{http_code}", "-X", method])
            .arg("--cacert")
            .arg(pki("ca.crt"))
            .arg("--cert")
            .arg(pki("admin.crt"))
            .arg("--key")
            .arg(pki("admin.key"));
        if let Some(body) = body {
            curl.arg("-H").arg(format!("Content-Type: {kind}")).arg("--data-binary").arg(body.to_string());
        }
        let answer = output(curl.arg(format!("{}{path}", self.server)))?;
        let (text, status) = answer.rsplit_once('\n').unwrap_or(("", answer.as_str()));
        let status = status.trim().parse().map_err(|error| format!("{method} {path}: {error}"))?;
        Ok((status, serde_json::from_str(text).unwrap_or(Value::Null)))
    }
}
