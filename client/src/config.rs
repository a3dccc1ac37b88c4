//! Where the API server is and who we are: kubeconfig, the in-cluster files, or explicit values.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Files that every pod finds its credentials in.
const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why no client can be made of what was given.
#[derive(Debug, thiserror::Error)]
pub enum ClientConfigError {
    /// The kubeconfig cannot be read.
    #[error("cannot read kubeconfig {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kubeconfig makes no sense.
    #[error("kubeconfig {}: {reason}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong and how to fix it.
        reason: String,
    },
    /// Not in a pod.
    #[error("not running in a pod: {0}; give a kubeconfig")]
    NotInCluster(String),
    /// A credential file cannot be read, or its content cannot be used.
    #[error("credentials for {server}: {reason}")]
    Credentials {
        /// The server.
        server: String,
        /// Which file and why.
        reason: String,
    },
    /// The server URL is not one.
    #[error("server {0:?} is no URL: write it like https://10.0.0.1:6443")]
    Server(String),
}

/// Bytes that are given, or a file that may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Material {
    /// Given in the configuration.
    Inline(Vec<u8>),
    /// Read at each new connection and watched.
    File(PathBuf),
}

impl Material {
    /// The bytes, as they are now.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Inline(bytes) => Ok(bytes.clone()),
            Self::File(path) => std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display())),
        }
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Inline(_) => "the configuration's own data".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// The server and the credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `https://host:port`; `http` only for tests and loopback.
    pub server: String,
    /// Authorities to trust; the system's when absent.
    pub ca: Option<Material>,
    /// Client certificate chain.
    pub certificate: Option<Material>,
    /// Client key.
    pub key: Option<Material>,
    /// Bearer token.
    pub token: Option<Material>,
    /// Name to verify instead of the host.
    pub tls_server_name: Option<String>,
    /// Trust any server.
    pub insecure_skip_tls_verify: bool,
    /// Namespace of the context, where one is named.
    pub namespace: Option<String>,
}

/// Everything a [`crate::Client`] is made of.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Server and credentials.
    pub access: Access,
    /// Sent with every request.
    pub user_agent: String,
    /// Requests per second; 0 or less is no limit.
    pub qps: f32,
    /// Requests at once above `qps`.
    pub burst: u32,
}

impl ClientConfig {
    /// From a kubeconfig file's current context.
    pub fn from_kubeconfig(path: &Path, component: &str) -> Result<Self, ClientConfigError> {
        Ok(Self::with_access(Access::from_kubeconfig(path)?, component))
    }

    /// From the files of the pod we run in.
    pub fn in_cluster(component: &str) -> Result<Self, ClientConfigError> {
        let env =
            |name: &str| std::env::var(name).map_err(|_| ClientConfigError::NotInCluster(format!("{name} is not set")));
        let (host, port) = (env("KUBERNETES_SERVICE_HOST")?, env("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let dir = Path::new(SERVICE_ACCOUNT_DIR);
        let access = Access {
            server: format!("https://{host}:{port}"),
            ca: Some(Material::File(dir.join("ca.crt"))),
            token: Some(Material::File(dir.join("token"))),
            namespace: std::fs::read_to_string(dir.join("namespace")).ok(),
            ..Access::default()
        };
        Ok(Self::with_access(access, component))
    }

    /// From a kubeconfig path, a `--master` URL overriding its server, or, with neither, the pod's files.
    pub fn from_flags(kubeconfig: &str, master: &str, component: &str) -> Result<Self, ClientConfigError> {
        let mut config = match (kubeconfig, master) {
            ("", "") => Self::in_cluster(component)?,
            ("", master) => Self::with_access(Access { server: master.to_owned(), ..Access::default() }, component),
            (path, _) => Self::from_kubeconfig(Path::new(path), component)?,
        };
        if !master.is_empty() {
            master.clone_into(&mut config.access.server);
        }
        Ok(config)
    }

    /// From explicit values.
    pub fn with_access(access: Access, component: &str) -> Self {
        Self { access, user_agent: component_base::version::user_agent(component), qps: 0.0, burst: 0 }
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, qps: f32, burst: u32) -> Self {
        (self.qps, self.burst) = (qps, burst);
        self
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_json::Value>,
}

impl Access {
    /// The current context of a kubeconfig file. Relative paths in it are relative to the file.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, ClientConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ClientConfigError::Read { path: path.to_owned(), source })?;
        Self::parse_kubeconfig(&text, path.parent().unwrap_or(Path::new(".")))
            .map_err(|reason| ClientConfigError::Kubeconfig { path: path.to_owned(), reason })
    }

    fn parse_kubeconfig(text: &str, dir: &Path) -> Result<Self, String> {
        let config: Kubeconfig = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        let wanted = config.current_context.as_str();
        if wanted.is_empty() {
            return Err("current-context is not set".to_owned());
        }
        let context = config.contexts.iter().find(|c| c.name == wanted).map(|c| &c.context);
        let context = context.ok_or_else(|| format!("current-context {wanted:?} is not among its contexts"))?;
        let cluster = config.clusters.iter().find(|c| c.name == context.cluster).map(|c| &c.cluster);
        let cluster =
            cluster.ok_or_else(|| format!("cluster {:?} of context {wanted:?} is missing", context.cluster))?;
        let user = match config.users.iter().find(|u| u.name == context.user) {
            Some(user) => user.user.clone(),
            None if context.user.is_empty() => User::default(),
            None => return Err(format!("user {:?} of context {wanted:?} is missing", context.user)),
        };
        if user.exec.is_some() {
            return Err(format!(
                "user {:?} uses an exec plugin, which daemons do not run; use a certificate or a token",
                context.user
            ));
        }
        let material = |data: &Option<String>, file: &Option<PathBuf>, what: &str| match (data, file) {
            (Some(data), _) if !data.is_empty() => STANDARD
                .decode(data.trim())
                .map(|bytes| Some(Material::Inline(bytes)))
                .map_err(|e| format!("{what}-data is not base64: {e}")),
            (_, Some(file)) if !file.as_os_str().is_empty() => Ok(Some(Material::File(dir.join(file)))),
            _ => Ok(None),
        };
        let token = match (&user.token_file, user.token) {
            (Some(file), _) if !file.as_os_str().is_empty() => Some(Material::File(dir.join(file))),
            (_, Some(token)) if !token.is_empty() => Some(Material::Inline(token.into_bytes())),
            _ => None,
        };
        Ok(Self {
            server: cluster.server.clone(),
            ca: material(&cluster.certificate_authority_data, &cluster.certificate_authority, "certificate-authority")?,
            certificate: material(&user.client_certificate_data, &user.client_certificate, "client-certificate")?,
            key: material(&user.client_key_data, &user.client_key, "client-key")?,
            token,
            tls_server_name: cluster.tls_server_name.clone(),
            insecure_skip_tls_verify: cluster.insecure_skip_tls_verify,
            namespace: context.namespace.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster:\n    server: https://h:6443\n    certificate-authority: pki/ca.crt\ncontexts:\n- name: c\n  context: {cluster: k, user: u}\nusers:\n- name: u\n  user:\n    client-certificate-data: QQ==\n    client-key: /abs/key\n    tokenFile: t\n";

    #[test]
    fn kubeconfig() {
        let access = Access::parse_kubeconfig(GOOD, Path::new("/etc/x")).unwrap();
        assert_eq!(access.server, "https://h:6443");
        assert_eq!(access.ca, Some(Material::File("/etc/x/pki/ca.crt".into())));
        assert_eq!(access.certificate, Some(Material::Inline(b"A".to_vec())));
        assert_eq!(access.key, Some(Material::File("/abs/key".into())));
        assert_eq!(access.token, Some(Material::File("/etc/x/t".into())));
        let parse = |text: &str| Access::parse_kubeconfig(text, Path::new("/"));
        assert!(parse(&GOOD.replace("current-context: c", "")).unwrap_err().contains("current-context is not set"));
        assert!(parse(&GOOD.replace("user: u}", "user: v}")).unwrap_err().contains("\"v\""));
        assert!(parse(&GOOD.replace("QQ==", "no!")).unwrap_err().contains("not base64"));
    }
}
