//! Requests to the API server without kubectl's start-up cost.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

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
        Ok(self.request("POST", path, object)?.0)
    }

    /// Gets an object or a list.
    ///
    /// # Errors
    /// When no answer came, or another status than 200.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        match self.request("GET", path, &Value::Null)? {
            (200, answer) => Ok(answer),
            (status, answer) => Err(format!("GET {path}: {status}: {answer}")),
        }
    }

    /// Merges a change into an object and returns the HTTP status.
    ///
    /// # Errors
    /// When no answer came.
    pub fn merge(&self, path: &str, change: &Value) -> Result<u16, String> {
        Ok(self.send("PATCH", path, "application/merge-patch+json", change)?.0)
    }

    /// Deletes an object without grace and returns the HTTP status.
    ///
    /// # Errors
    /// When no answer came.
    pub fn delete_now(&self, path: &str) -> Result<u16, String> {
        Ok(self.request("DELETE", path, &serde_json::json!({"gracePeriodSeconds": 0}))?.0)
    }

    /// Makes a request, with an object as its body unless that is null; gives the HTTP status and the answer, null where
    /// that is no JSON.
    ///
    /// # Errors
    /// When no answer came.
    pub fn request(&self, method: &str, path: &str, object: &Value) -> Result<(u16, Value), String> {
        self.send(method, path, "application/json", object)
    }

    fn curl(&self, path: &str) -> Command {
        let pki = |file: &str| self.pki.join(file);
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-N", "--cacert"]).arg(pki("ca.crt")).arg("--cert").arg(pki("admin.crt"));
        curl.arg("--key").arg(pki("admin.key")).arg(format!("{}{path}", self.server));
        curl
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<(u16, Value), String> {
        let mut curl = self.curl(path);
        curl.args(["--max-time", "30", "-w", "\n%{http_code}", "-X", method]);
        if !body.is_null() {
            curl.arg("-H").arg(format!("Content-Type: {kind}")).arg("--data-binary").arg(body.to_string());
        }
        let answer = output(&mut curl)?;
        let (text, status) = answer.rsplit_once('\n').unwrap_or(("", answer.as_str()));
        let status = status.trim().parse().map_err(|error| format!("{method} {path}: {error}"))?;
        Ok((status, serde_json::from_str(text).unwrap_or(Value::Null)))
    }

    /// Opens an answer that comes line by line, as watches do.
    ///
    /// # Errors
    /// When curl cannot be started.
    pub fn stream(&self, path: &str) -> Result<Lines, String> {
        let mut curl = self.curl(path);
        let mut child = curl
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        let lines = child.stdout.take().ok_or("no output")?;
        Ok(Lines { child, lines: BufReader::new(lines) })
    }
}

/// The lines of an answer, each of them JSON; ends with the connection, and ends it when dropped.
pub struct Lines {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Iterator for Lines {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).ok()?;
        // A line that was cut is none.
        serde_json::from_str(&line).ok()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // ended already is fine
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
