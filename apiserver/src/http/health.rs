//! `/healthz`, `/livez`, `/readyz`: named checks with upstream's names and text form.

use component_base::health::Checks;
use component_base::serving::Body;
use http::Response;

/// The three sets of checks.
#[derive(Clone, Debug)]
pub struct Health {
    /// Whether to restart the process.
    pub livez: Checks,
    /// Whether to send it requests.
    pub readyz: Checks,
    /// The old combination.
    pub healthz: Checks,
}

impl Default for Health {
    fn default() -> Self {
        Self { livez: Checks::new(), readyz: Checks::new(), healthz: Checks::new() }
    }
}

impl Health {
    /// Adds a check to all three.
    pub fn add(&self, name: &str, check: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static) {
        self.livez.add(name, check.clone());
        self.readyz.add(name, check.clone());
        self.healthz.add(name, check);
    }

    /// Adds a check to all three that always passes: what it stands for was done before the port was served.
    pub fn add_done(&self, name: &str) {
        self.add(name, || Ok(()));
    }

    /// Adds a check to readiness only.
    pub fn add_ready(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.readyz.add(name, check);
    }

    /// The answer, if the path is one of the three.
    pub fn respond(&self, path: &str, query: &str) -> Option<Response<Body>> {
        let (endpoint, single) = match path.trim_start_matches('/').split_once('/') {
            Some((endpoint, single)) => (endpoint, Some(single)),
            None => (path.trim_start_matches('/'), None),
        };
        let checks = match endpoint {
            "livez" => &self.livez,
            "readyz" => &self.readyz,
            "healthz" => &self.healthz,
            _ => return None,
        };
        Some(checks.respond(endpoint, single.filter(|s| !s.is_empty()), query))
    }
}
