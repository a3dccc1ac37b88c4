//! The version that every daemon reports. Guarantees the field names of upstream's `version.Info`.

use serde::Serialize;

/// Major version of the API that is served.
pub const MAJOR: &str = "1";
/// Minor version of the API that is served.
pub const MINOR: &str = "36";
/// The semantic version as upstream writes it.
pub const GIT_VERSION: &str = "v1.36.3";

/// What `/version` answers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// Major version.
    pub major: &'static str,
    /// Minor version.
    pub minor: &'static str,
    /// Major version of what this binary can emulate.
    pub emulation_major: &'static str,
    /// Minor version of what this binary can emulate.
    pub emulation_minor: &'static str,
    /// Oldest major version that may run beside this one.
    pub min_compatibility_major: &'static str,
    /// Oldest minor version that may run beside this one.
    pub min_compatibility_minor: &'static str,
    /// Full semantic version.
    pub git_version: &'static str,
    /// Commit the binary was built from; unknown outside release builds.
    pub git_commit: &'static str,
    /// `clean` or `dirty`.
    pub git_tree_state: &'static str,
    /// RFC 3339 build time.
    pub build_date: &'static str,
    /// Upstream puts the Go version here; clients only print it.
    pub go_version: &'static str,
    /// What compiled it.
    pub compiler: &'static str,
    /// `linux/amd64` and the like.
    pub platform: &'static str,
}

/// The version of this binary.
pub const fn info() -> Info {
    Info {
        major: MAJOR,
        minor: MINOR,
        emulation_major: MAJOR,
        emulation_minor: MINOR,
        min_compatibility_major: MAJOR,
        min_compatibility_minor: "35",
        git_version: GIT_VERSION,
        git_commit: match option_env!("HARDWAY_GIT_COMMIT") {
            Some(commit) => commit,
            None => "unknown",
        },
        git_tree_state: "clean",
        build_date: match option_env!("HARDWAY_BUILD_DATE") {
            Some(date) => date,
            None => "1970-01-01T00:00:00Z",
        },
        go_version: "none",
        compiler: "rustc",
        platform: PLATFORM,
    }
}

/// `os/arch` in Go's words.
pub const PLATFORM: &str = if cfg!(target_arch = "x86_64") {
    "linux/amd64"
} else if cfg!(target_arch = "aarch64") {
    "linux/arm64"
} else {
    "linux/unknown"
};

/// The User-Agent of a component: `kubelet/v1.36.3 (linux/amd64) kubernetes/unknown`.
pub fn user_agent(component: &str) -> String {
    format!("{component}/{GIT_VERSION} ({PLATFORM}) kubernetes/{}", info().git_commit.get(..7).unwrap_or("unknown"))
}
