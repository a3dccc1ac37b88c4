//! Named health checks behind `/healthz`, `/livez`, `/readyz`, in upstream's text form.
//!
//! `?verbose` lists every check, `?exclude=name` skips one, `/healthz/name` asks one. Checks are plain functions of the
//! present: they must return at once.

use std::sync::{Arc, PoisonError, RwLock};

use http::{Response, StatusCode};

use crate::serving::{Body, full};

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A set of checks; cheap to clone, all clones are one set.
#[derive(Clone, Default)]
pub struct Checks {
    checks: Arc<RwLock<Vec<(String, Check)>>>,
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(checks.iter().map(|(name, _)| name)).finish()
    }
}

impl Checks {
    /// A set that holds upstream's `ping`, which always passes.
    pub fn new() -> Self {
        let checks = Self::default();
        checks.add("ping", || Ok(()));
        checks
    }

    /// Adds a check; the error is for logs and `?verbose` of one check, never secret.
    pub fn add(&self, name: impl Into<String>, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.checks.write().unwrap_or_else(PoisonError::into_inner).push((name.into(), Arc::new(check)));
    }

    /// Names of the checks that fail now, with why.
    pub fn failing(&self) -> Vec<(String, String)> {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner).clone();
        checks.into_iter().filter_map(|(name, check)| check().err().map(|why| (name, why))).collect()
    }

    /// Answers `GET /<endpoint>[/<single>]?query`.
    pub fn respond(&self, endpoint: &str, single: Option<&str>, query: &str) -> Response<Body> {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner).clone();
        let params: Vec<(&str, &str)> =
            query.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, ""))).collect();
        let verbose = params.iter().any(|(key, _)| *key == "verbose");
        let excluded = |name: &str| params.iter().any(|(key, value)| *key == "exclude" && *value == name);
        if let Some(single) = single {
            return match checks.iter().find(|(name, _)| name == single) {
                None => text(StatusCode::NOT_FOUND, format!("no such check: {single}\n")),
                Some((_, check)) => match check() {
                    Ok(()) => text(StatusCode::OK, "ok".to_owned()),
                    Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
                },
            };
        }
        let (mut report, mut failed) = (String::new(), Vec::new());
        for (name, check) in &checks {
            if excluded(name) {
                report.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            match check() {
                Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
                Err(why) => {
                    tracing::info!(check = name, endpoint, why, "health check failed");
                    report.push_str(&format!("[-]{name} failed: reason withheld\n"));
                    failed.push(name.as_str());
                }
            }
        }
        for (_, name) in
            params.iter().filter(|(key, value)| *key == "exclude" && !checks.iter().any(|(n, _)| n == value))
        {
            report.push_str(&format!("warn: some health checks cannot be excluded: no matches for {name:?}\n"));
        }
        match (failed.is_empty(), verbose) {
            (true, false) => text(StatusCode::OK, "ok".to_owned()),
            (true, true) => text(StatusCode::OK, format!("{report}{endpoint} check passed\n")),
            (false, _) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{report}{endpoint} check failed\n")),
        }
    }
}

/// A plain-text answer.
pub fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn ask(checks: &Checks, single: Option<&str>, query: &str) -> (u16, String) {
        let response = checks.respond("healthz", single, query);
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn answers_as_upstream() {
        let checks = Checks::new();
        assert_eq!(ask(&checks, None, "").await, (200, "ok".into()));
        assert_eq!(ask(&checks, None, "verbose").await, (200, "[+]ping ok\nhealthz check passed\n".into()));
        checks.add("etcd", || Err("no connection".into()));
        let (status, body) = ask(&checks, None, "").await;
        assert_eq!(
            (status, body.as_str()),
            (500, "[+]ping ok\n[-]etcd failed: reason withheld\nhealthz check failed\n")
        );
        assert_eq!(ask(&checks, None, "exclude=etcd").await.0, 200);
        assert_eq!(ask(&checks, Some("ping"), "").await, (200, "ok".into()));
        assert_eq!(ask(&checks, Some("none"), "").await.0, 404);
    }
}
