use super::*;

fn authority() -> (rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "test-ca");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let cert = params.self_signed(&key).unwrap();
    (cert, rcgen::Issuer::new(params, key))
}

fn leaf(issuer: &rcgen::Issuer<'_, rcgen::KeyPair>) -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n1");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth, rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    (params.signed_by(&key, issuer).unwrap(), key)
}

#[test]
fn verifies_client_chains() {
    let (ca, issuer) = authority();
    let (cert, _) = leaf(&issuer);
    let verifier = ClientCa::from_pem(ca.pem().as_bytes()).unwrap();
    let peer = verifier.verify(&[cert.der().clone()], jiff::Timestamp::now()).unwrap();
    assert_eq!(peer.common_name, "system:node:n1");
    assert_eq!(peer.organizations, ["system:nodes"]);
    let (other, _) = authority();
    let stranger = ClientCa::from_pem(other.pem().as_bytes()).unwrap();
    assert!(stranger.verify(&[cert.der().clone()], jiff::Timestamp::now()).is_err());
}

#[test]
fn reload_follows_the_files_and_survives_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let (cert_path, key_path) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let (_, issuer) = authority();
    let write = || {
        let (cert, key) = leaf(&issuer);
        std::fs::write(&cert_path, cert.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
    };
    let touch = |seconds| {
        let time = std::time::SystemTime::now() + std::time::Duration::from_secs(seconds);
        std::fs::File::options().write(true).open(&cert_path).unwrap().set_modified(time).unwrap();
    };
    write();
    let tls = ServerTls::from_files(&cert_path, &key_path, ServerTlsOptions::default()).unwrap();
    let first = tls.config();
    write();
    touch(10);
    tls.reload_if_changed();
    let second = tls.config();
    assert!(!Arc::ptr_eq(&first, &second));
    std::fs::write(&cert_path, "garbage").unwrap();
    touch(20);
    tls.reload_if_changed();
    assert!(Arc::ptr_eq(&second, &tls.config()));
}

#[test]
fn mismatched_pair_and_unknown_settings_are_named() {
    let (_, issuer) = authority();
    let (cert, _) = leaf(&issuer);
    let (_, key) = leaf(&issuer);
    let build = |options| ServerTls::from_pem(cert.pem().as_bytes(), key.serialize_pem().as_bytes(), options);
    let error = build(ServerTlsOptions::default()).unwrap_err();
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
    let self_signed = |options| ServerTls::self_signed(&["localhost".to_owned()], options);
    assert!(self_signed(ServerTlsOptions { min_version: "SSL3".into(), ..Default::default() }).is_err());
    let suites = vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()];
    assert!(self_signed(ServerTlsOptions { cipher_suites: suites, ..Default::default() }).is_ok());
    assert!(self_signed(ServerTlsOptions { cipher_suites: vec!["RC4".into()], ..Default::default() }).is_err());
}

#[test]
fn dates_in_words() {
    let (_, issuer) = authority();
    let (cert, _) = leaf(&issuer);
    let mut f = facts(cert.der()).unwrap();
    let now = jiff::Timestamp::now();
    f.not_after = now.as_second() - 100;
    assert!(explain(&f, "/etc/x.crt", now).unwrap().contains("/etc/x.crt (system:node:n1) expired on"));
    f.not_after = now.as_second() + 5 * 86_400;
    assert!(explain(&f, "/etc/x.crt", now).unwrap().contains("expires in"));
    f.not_after = now.as_second() + 90 * 86_400;
    assert_eq!(explain(&f, "x", now), None);
    f.not_before = now.as_second() + 50;
    assert!(explain(&f, "x", now).unwrap().contains("clock skew?"));
}
