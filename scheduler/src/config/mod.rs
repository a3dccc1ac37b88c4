//! The validated configuration: flags and file merged, profiles ready, nothing left to parse.

use std::path::{Path, PathBuf};

use client::leader::LeaderElectionConfig;
use client::{ClientConfig, ClientConfigError};
use component_base::config_file::{self, ConfigError};
use component_base::secure_serving::SecureServingFlags;

use crate::queue::Times;
use file::{File, OldFile};
use profile::Profile;

pub mod file;
pub mod profile;

/// Name of the scheduler that places pods which name none.
pub const DEFAULT_SCHEDULER_NAME: &str = "default-scheduler";
const GROUP: &str = "kubescheduler.config.k8s.io";
const KIND: &str = "KubeSchedulerConfiguration";

/// What the daemon runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach the API server.
    pub client: ClientConfig,
    /// Leader election.
    pub leader: LeaderElectionConfig,
    /// Profiles, at least one.
    pub profiles: Vec<Profile>,
    /// Programs that are asked too.
    pub extenders: Vec<file::ExtenderFile>,
    /// Back-off and flush times.
    pub times: Times,
    /// Where and how to serve health and metrics.
    pub serving: SecureServingFlags,
    /// Who may ask.
    pub auth: client::delegated::DelegatedOptions,
    /// Paths that everybody may ask.
    pub always_allow_paths: Vec<String>,
}

/// Why flags and file make no configuration.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// A value in the file makes no sense.
    #[error("configuration file {}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which and why.
        reason: String,
    },
    /// A flag makes no sense.
    #[error("{0}")]
    Flag(String),
    /// The API server cannot be reached by these settings.
    #[error(transparent)]
    Client(#[from] ClientConfigError),
    /// Delegated authentication and authorization.
    #[error(transparent)]
    Delegated(#[from] client::delegated::DelegatedError),
}

/// Reads a configuration file of today's or a former version. Returns it with warnings.
///
/// # Errors
/// When it cannot be read, or asks for what is not possible.
pub fn load(path: &Path) -> Result<(File, Vec<String>), InvalidConfig> {
    let current = format!("{GROUP}/v1");
    let error = match config_file::load::<File>(path, &current, KIND) {
        Ok(file) => return Ok((file, Vec::new())),
        Err(error) => error,
    };
    if !matches!(error, ConfigError::Kind { .. }) {
        return Err(error.into());
    }
    let old = |version: &str| format!("{path:?} is of {GROUP}/{version}, which upstream removed: use {current}");
    for version in ["v1beta3", "v1beta2", "v1beta1"] {
        match config_file::load::<File>(path, &format!("{GROUP}/{version}"), KIND) {
            Ok(file) => return Ok((file, vec![old(version)])),
            Err(ConfigError::Kind { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match config_file::load::<OldFile>(path, &format!("{GROUP}/v1alpha1"), KIND) {
        Ok(file) => {
            let value = |reason| InvalidConfig::Value { path: path.to_owned(), reason };
            let (file, mut warnings) = file.modernise().map_err(value)?;
            warnings.insert(0, old("v1alpha1"));
            Ok((file, warnings))
        }
        Err(ConfigError::Kind { .. }) => Err(error.into()),
        Err(error) => Err(error.into()),
    }
}

/// The back-off times of a file.
///
/// # Errors
/// When they make no sense.
pub fn times(file: &File, max_unschedulable_ms: u64) -> Result<Times, String> {
    let seconds = |value: Option<i64>, default: i64, name: &str| {
        u64::try_from(value.unwrap_or(default))
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| format!("{name} must be above zero"))
    };
    let initial = seconds(file.pod_initial_backoff_seconds, 1, "podInitialBackoffSeconds")?;
    let max = seconds(file.pod_max_backoff_seconds, 10, "podMaxBackoffSeconds")?;
    if max < initial {
        return Err("podMaxBackoffSeconds must not be less than podInitialBackoffSeconds".into());
    }
    Ok(Times { initial_backoff_ms: initial * 1000, max_backoff_ms: max * 1000, max_unschedulable_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<(File, Vec<String>), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scheduler.yaml");
        std::fs::write(&path, text).unwrap();
        load(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn versions_of_files() {
        let text = |version: &str, more: &str| format!("apiVersion: {GROUP}/{version}\nkind: {KIND}\n{more}");
        let (file, warnings) = load_text(&text("v1", "podMaxBackoffSeconds: 2\n")).unwrap();
        assert_eq!((file.pod_max_backoff_seconds, warnings.len()), (Some(2), 0));
        let (_, warnings) = load_text(&text("v1beta3", "profiles: [{schedulerName: a}]\n")).unwrap();
        assert!(warnings[0].contains("v1beta3"));
        let old = "clientConnection: {kubeconfig: /x}\nleaderElection: {leaderElect: true}\ndisablePreemption: true\n";
        let (file, warnings) = load_text(&text("v1alpha1", old)).unwrap();
        assert_eq!((file.client_connection.kubeconfig.as_str(), warnings.len()), ("/x", 1));
        assert!(!file::profiles(&file.profiles).unwrap()[0].preemption);
        let policy = "algorithmSource: {policy: {file: {path: /p}}}\n";
        assert!(load_text(&text("v1alpha1", policy)).unwrap_err().contains("policy"));
        assert!(load_text(&text("v1", "podMaxBackoffSecond: 2\n")).unwrap_err().contains("podMaxBackoffSeconds"));
        assert!(load_text(&text("v9", "")).unwrap_err().contains("v9"));
    }
}
