//! Why etcd cannot be used, in words: what the gRPC client reports is one sentence for a dozen causes, so that each server is
//! tried again by hand, step by step (address, connection, TLS), and the step that fails is named with its remedy.

use std::sync::Arc;
use std::time::Duration;

use component_base::tls::{CertificateDer, ClientTlsOptions, client_config};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

/// What is shown to the servers.
#[derive(Debug)]
pub struct Material {
    /// Authorities, PEM.
    pub ca: Option<Vec<u8>>,
    /// Certificate and key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Finding {
    /// One sentence per server that fails; `None` when all steps pass.
    pub why: Option<String>,
    /// Waiting will not help.
    pub is_final: bool,
}

/// Tries every server.
pub async fn servers(servers: &[String], material: &Material) -> Finding {
    let (mut sentences, mut is_final) = (Vec::new(), true);
    for server in servers {
        match tokio::time::timeout(Duration::from_secs(5), one(server, material)).await {
            Ok(Ok(())) => is_final = false,
            Ok(Err((why, lasting))) => {
                sentences.push(format!("{server}: {why}"));
                is_final &= lasting;
            }
            Err(_) => {
                sentences.push(format!("{server}: no answer within 5 s; check address and firewall"));
                is_final = false;
            }
        }
    }
    let is_final = is_final && !sentences.is_empty();
    Finding { why: (!sentences.is_empty()).then(|| sentences.join("; ")), is_final }
}

/// The error's flag tells whether it will last.
async fn one(server: &str, material: &Material) -> Result<(), (String, bool)> {
    let (scheme, rest) = server.split_once("://").unwrap_or(("http", server));
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "2379"));
    let host = host.trim_matches(['[', ']']);
    let port: u16 = port.parse().map_err(|_| (format!("{port:?} is not a port"), true))?;
    let stream = TcpStream::connect((host, port)).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => ("connection refused: is etcd running there?".to_owned(), false),
        _ => (format!("cannot connect: {error}"), false),
    })?;
    if scheme != "https" {
        // Asked only after the client failed.
        return Err(("it accepts connections but does not answer plain HTTP; is it https there?".to_owned(), false));
    }
    let options = ClientTlsOptions {
        ca_pem: material.ca.clone(),
        identity_pem: material.identity.clone(),
        alpn: vec![b"h2".to_vec()],
        ..ClientTlsOptions::default()
    };
    let config = client_config(&options).map_err(|error| (error.to_string(), true))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| (format!("{host:?} is not a host name"), true))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.map_err(|error| tls_words(&error, material))?;
    client_accepted(&mut stream, material).await
}

/// In TLS 1.3 the server refuses our certificate only after its own handshake is done: the first read tells.
async fn client_accepted(
    stream: &mut tokio_rustls::client::TlsStream<TcpStream>,
    material: &Material,
) -> Result<(), (String, bool)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    // An HTTP/2 preface with empty settings makes the server speak.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut answer = [0; 9];
    let spoken = async {
        stream.write_all(preface).await?;
        stream.flush().await?;
        stream.read(&mut answer).await
    };
    spoken.await.map(|_| ()).map_err(|error| tls_words(&error, material))
}

fn tls_words(error: &std::io::Error, material: &Material) -> (String, bool) {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let own = own_validity(material).map_or_else(String::new, |why| format!(" ({why})"));
    let words = match inner {
        Some(Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => {
            "its certificate is not signed by the authority in --etcd-cafile".to_owned()
        }
        Some(Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
            "its certificate has expired; renew it (or check this machine's clock)".to_owned()
        }
        Some(Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. })) => {
            "its certificate is not valid yet; check the clocks".to_owned()
        }
        Some(Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
            "its certificate is not for this address: add it to the certificate's names, or use another in --etcd-servers"
                .to_owned()
        }
        Some(Error::AlertReceived(Alert::BadCertificate | Alert::CertificateRequired)) if material.identity.is_none() => {
            "it wants a client certificate: set --etcd-certfile and --etcd-keyfile".to_owned()
        }
        Some(Error::AlertReceived(Alert::BadCertificate | Alert::UnknownCA | Alert::DecryptError)) => {
            format!("it refuses our certificate (--etcd-certfile): not signed by etcd's --trusted-ca-file{own}")
        }
        Some(Error::AlertReceived(Alert::CertificateExpired)) => {
            format!("our certificate (--etcd-certfile) has expired{own}")
        }
        Some(other) => format!("TLS: {other}{own}"),
        None => return (format!("TLS: {error}; is it https there?{own}"), false),
    };
    (words, true)
}

fn own_validity(material: &Material) -> Option<String> {
    let (cert, _) = material.identity.as_ref()?;
    let chain: Vec<CertificateDer<'static>> = component_base::tls::read_certificates(cert, "--etcd-certfile").ok()?;
    let facts = component_base::tls::facts(chain.first()?).ok()?;
    component_base::tls::explain(&facts, "--etcd-certfile", jiff::Timestamp::now())
}
