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
        let pki = |file: &str| self.pki.join(file);
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}"])
            .arg("--cacert")
            .arg(pki("ca.crt"))
            .arg("--cert")
            .arg(pki("admin.crt"))
            .arg("--key")
            .arg(pki("admin.key"))
            .args(["-H", "Content-Type: application/json", "--data-binary"])
            .arg(object.to_string())
            .arg(format!("{}{path}", self.server));
        output(&mut curl)?.trim().parse().map_err(|e| format!("{e}"))
    }
}
