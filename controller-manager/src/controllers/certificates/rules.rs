//! What may be asked of which signer, purely. Errors are sentences for the request's condition.

use pki::csr::Request;

use super::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY};

const NODES_GROUP: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// Whether the signer may sign this.
pub fn check(signer: &str, request: &Request, usages: &[String]) -> Result<(), String> {
    match signer {
        CLIENT => client(usages),
        KUBELET_CLIENT => kubelet_client(request, usages),
        KUBELET_SERVING => kubelet_serving(request, usages),
        LEGACY => Ok(()),
        other => Err(format!("signer {other} is not one of this controller manager's")),
    }
}

fn usages_are(usages: &[String], needed: &[&str], optional: &[&str]) -> bool {
    needed.iter().all(|usage| usages.iter().any(|asked| asked == usage))
        && usages.iter().all(|asked| needed.contains(&asked.as_str()) || optional.contains(&asked.as_str()))
}

fn client(usages: &[String]) -> Result<(), String> {
    if usages_are(usages, &["client auth"], &["digital signature", "key encipherment"]) {
        Ok(())
    } else {
        Err("usages did not match [client auth, digital signature, key encipherment]".to_owned())
    }
}

/// A kubelet asks for itself: its group, its name, nothing else.
pub fn kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    kubelet_subject(request)?;
    if !request.alt_names.is_empty() {
        return Err("DNS, email, IP and URI subject alternative names are not allowed".to_owned());
    }
    if !usages_are(usages, &["digital signature", "client auth"], &["key encipherment"]) {
        return Err("usages did not match [key encipherment, digital signature, client auth]".to_owned());
    }
    Ok(())
}

fn kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    kubelet_subject(request)?;
    let names = &request.alt_names;
    if names.dns.is_empty() && names.ips.is_empty() {
        return Err("DNS or IP subject alternative name is required".to_owned());
    }
    if !names.emails.is_empty() || !names.uris.is_empty() {
        return Err("email and URI subject alternative names are not allowed".to_owned());
    }
    if !usages_are(usages, &["digital signature", "server auth"], &["key encipherment"]) {
        return Err("usages did not match [key encipherment, digital signature, server auth]".to_owned());
    }
    Ok(())
}

fn kubelet_subject(request: &Request) -> Result<(), String> {
    if request.subject.organizations != [NODES_GROUP] {
        return Err(format!("subject organization is not {NODES_GROUP}"));
    }
    if !request.subject.common_name.starts_with(NODE_PREFIX) {
        return Err(format!("subject common name does not begin with {NODE_PREFIX}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::csr::{AltNames, Subject, make};
    use pki::key::PrivateKey;

    fn request(common_name: &str, organizations: &[&str], dns: &[&str]) -> Request {
        let key = PrivateKey::generate(pki::key::Algorithm::EcdsaP256).unwrap();
        let names = AltNames::new(dns.iter().copied(), []);
        Request::from_pem(make(&key, &Subject::new(common_name, organizations), &names).unwrap().as_bytes()).unwrap()
    }

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn each_signer_has_its_own_rules() {
        let client = usages(&["digital signature", "key encipherment", "client auth"]);
        let server = usages(&["digital signature", "server auth"]);
        let kubelet = request("system:node:a", &["system:nodes"], &[]);
        let server_kubelet = request("system:node:a", &["system:nodes"], &["a.example"]);
        let user = request("jane", &["devs"], &[]);
        for (signer, request, usages, fine) in [
            (KUBELET_CLIENT, &kubelet, &client, true),
            (KUBELET_CLIENT, &kubelet, &server, false),
            (KUBELET_CLIENT, &server_kubelet, &client, false),
            (KUBELET_CLIENT, &user, &client, false),
            (KUBELET_SERVING, &server_kubelet, &server, true),
            (KUBELET_SERVING, &kubelet, &server, false),
            (CLIENT, &user, &client, true),
            (CLIENT, &user, &server, false),
            (LEGACY, &user, &server, true),
            ("example.com/mine", &user, &client, false),
        ] {
            assert_eq!(check(signer, request, usages).is_ok(), fine, "{signer} {usages:?}");
        }
    }
}
