//! Upstream's flags of a daemon's secure port, and the server and certificate they ask for.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::serving::{BindError, Limits, Server};
use crate::tls::{ClientCa, ServerTls, ServerTlsOptions, SniCert, TlsError};

/// `--bind-address`, `--secure-port`, `--tls-*`, `--cert-dir` …; flatten into a daemon's clap struct.
#[derive(Clone, Debug, clap::Args)]
pub struct SecureServingFlags {
    /// The IP address on which to listen for the --secure-port port.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port on which to serve HTTPS; 0 for none; the daemon's own default when not given.
    #[arg(long)]
    pub secure_port: Option<u16>,
    /// File containing the x509 certificate for HTTPS (with intermediates after it).
    #[arg(long, default_value = "")]
    pub tls_cert_file: String,
    /// File containing the x509 private key matching --tls-cert-file.
    #[arg(long, default_value = "")]
    pub tls_private_key_file: String,
    /// Directory of the certificate <daemon>.crt and <daemon>.key when no --tls-cert-file is given.
    #[arg(long, default_value = "")]
    pub cert_dir: String,
    /// Minimum TLS version: VersionTLS12 or VersionTLS13.
    #[arg(long, default_value = "")]
    pub tls_min_version: String,
    /// Cipher suites for TLS 1.2; the library's choice when empty.
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    /// Accepted for compatibility; the library's choice is used.
    #[arg(long, value_delimiter = ',')]
    pub tls_curve_preferences: Vec<i32>,
    /// Further certificates, as certfile,keyfile or certfile,keyfile:name,name; may be repeated.
    #[arg(long, value_name = "namedCertKey")]
    pub tls_sni_cert_key: Vec<String>,
    /// Serve HTTP/1.1 only.
    #[arg(long)]
    pub disable_http2_serving: bool,
    /// HTTP/2 streams per connection; 0 for the server's default.
    #[arg(long, default_value_t = 0)]
    pub http2_max_streams_per_connection: u32,
    /// Accepted for compatibility; addresses are reused after a restart anyway.
    #[arg(long)]
    pub permit_address_sharing: bool,
    /// Accepted for compatibility; a second instance on the same port is refused.
    #[arg(long)]
    pub permit_port_sharing: bool,
}

/// Why the port cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SecureServingError {
    /// The address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A flag.
    #[error("{0}")]
    Flag(String),
}

impl SecureServingFlags {
    /// The bound server and its TLS settings; `None` when the port is 0. Without certificate files a self-signed
    /// certificate in memory is used, as upstream's daemons do.
    pub fn bind(
        &self,
        daemon: &str,
        default_port: u16,
        client_ca: Option<ClientCa>,
    ) -> Result<Option<(Server, ServerTls)>, SecureServingError> {
        let port = self.secure_port.unwrap_or(default_port);
        if port == 0 {
            return Ok(None);
        }
        let tls = self.tls(daemon, client_ca)?;
        let defaults = Limits::default();
        let streams = self.http2_max_streams_per_connection;
        let max_concurrent_streams = if streams == 0 { defaults.max_concurrent_streams } else { streams };
        let server = Server::bind(self.bind_address, port)?.limits(Limits { max_concurrent_streams, ..defaults });
        Ok(Some((server, tls)))
    }

    /// The TLS settings alone.
    pub fn tls(&self, daemon: &str, client_ca: Option<ClientCa>) -> Result<ServerTls, SecureServingError> {
        let options = ServerTlsOptions {
            min_version: self.tls_min_version.clone(),
            cipher_suites: self.tls_cipher_suites.clone(),
            client_ca,
            sni: self.tls_sni_cert_key.iter().map(|text| parse_sni(text)).collect::<Result<_, _>>()?,
            disable_http2: self.disable_http2_serving,
        };
        let (cert, key) = (self.tls_cert_file.as_str(), self.tls_private_key_file.as_str());
        match (cert.is_empty(), key.is_empty()) {
            (false, false) => return Ok(ServerTls::from_files(Path::new(cert), Path::new(key), options)?),
            (true, true) => {}
            _ => {
                let what = "--tls-cert-file and --tls-private-key-file must be given together";
                return Err(SecureServingError::Flag(what.to_owned()));
            }
        }
        if !self.cert_dir.is_empty() {
            let base = Path::new(&self.cert_dir).join(daemon);
            let (cert, key) = (base.with_extension("crt"), base.with_extension("key"));
            if cert.exists() && key.exists() {
                return Ok(ServerTls::from_files(&cert, &key, options)?);
            }
        }
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), self.bind_address.to_string()];
        Ok(ServerTls::self_signed(&names, options)?)
    }
}

fn parse_sni(text: &str) -> Result<SniCert, SecureServingError> {
    let bad = || SecureServingError::Flag(format!("--tls-sni-cert-key: {text:?} is not certfile,keyfile[:names]"));
    let (files, names) = text.split_once(':').unwrap_or((text, ""));
    let (cert, key) = files.split_once(',').ok_or_else(bad)?;
    let names = names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
    Ok(SniCert { cert: PathBuf::from(cert), key: PathBuf::from(key), names })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[derive(clap::Parser, Debug)]
    struct Flags {
        #[command(flatten)]
        serving: SecureServingFlags,
    }

    fn parse(args: &[&str]) -> SecureServingFlags {
        crate::flags::parse_from::<Flags>("demo", &[], args.iter().map(OsString::from)).unwrap().0.serving
    }

    #[tokio::test]
    async fn port_zero_serves_nothing_and_no_files_mean_self_signed() {
        assert!(parse(&["--secure-port=0"]).bind("demo", 10257, None).unwrap().is_none());
        assert!(parse(&["--tls-min-version=VersionTLS13"]).tls("demo", None).is_ok());
        assert!(parse(&["--tls-min-version=1.3"]).tls("demo", None).is_err());
    }

    #[test]
    fn certificate_and_key_go_together() {
        let error = parse(&["--tls-cert-file=/x"]).tls("demo", None).unwrap_err().to_string();
        assert!(error.contains("must be given together"), "{error}");
        let error = parse(&["--tls-sni-cert-key=x"]).tls("demo", None).unwrap_err().to_string();
        assert!(error.contains("certfile,keyfile"), "{error}");
        let sni = parse_sni("a.crt,a.key:x.example,*.y.example").unwrap();
        assert_eq!(sni.names, ["x.example", "*.y.example"]);
    }

    #[test]
    fn files_of_the_certificate_directory_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = crate::tls::self_signed_pem(&["localhost".to_owned()]).unwrap();
        std::fs::write(dir.path().join("demo.crt"), cert).unwrap();
        std::fs::write(dir.path().join("demo.key"), "not a key").unwrap();
        let flags = parse(&[&format!("--cert-dir={}", dir.path().display())]);
        assert!(flags.tls("demo", None).unwrap_err().to_string().contains("demo.key"));
        std::fs::write(dir.path().join("demo.key"), key).unwrap();
        assert!(flags.tls("demo", None).is_ok());
    }
}
