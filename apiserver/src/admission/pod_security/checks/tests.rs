use serde_json::json;

use super::*;

fn said(level: Level, version: Minor, spec: &Value, annotations: &Value) -> Vec<String> {
    let found = violations(level, &Pod { annotations: annotations.as_object(), spec, version });
    found.into_iter().map(|(reason, detail)| format!("{reason}: {detail}")).collect()
}

/// Sentences of upstream's own tests of these checks.
#[test]
fn baseline_in_upstreams_words() {
    let context = |context: Value| json!({"securityContext": context});
    let container = |field: &str, value: Value| json!({"containers": [{"name": "a", field: value.clone()}, {"name": "b", field: value}]});
    let security = |value: Value| container("securityContext", value);
    let one = |value: Value| json!({"initContainers": [{"name": "i", "securityContext": value}]});
    let cases = [
        (
            json!({"hostNetwork": true, "hostPID": true, "hostIPC": false}),
            "host namespaces: hostNetwork=true, hostPID=true",
        ),
        (json!({"volumes": [{"name": "v", "hostPath": {}}]}), "hostPath volumes: volume \"v\""),
        (one(json!({"privileged": true})), "privileged: container \"i\" must not set securityContext.privileged=true"),
        (
            container("ports", json!([{"hostPort": 80}, {"hostPort": 0}])),
            "hostPort: containers \"a\", \"b\" use hostPort 80",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 9}, {"hostPort": 80}]}]}),
            "hostPort: container \"a\" uses hostPorts 80, 9",
        ),
        (
            container("livenessProbe", json!({"httpGet": {"host": "x"}, "tcpSocket": {"host": "y"}})),
            "probe or lifecycle host: containers \"a\", \"b\" use probe or lifecycle hosts \"x\", \"y\"",
        ),
        (
            json!({"containers": [{"name": "a", "lifecycle": {"preStop": {"httpGet": {"host": "x"}}}}]}),
            "probe or lifecycle host: container \"a\" uses probe or lifecycle host \"x\"",
        ),
        (
            security(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}})),
            "non-default capabilities: containers \"a\", \"b\" must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add",
        ),
        (
            one(json!({"procMount": "Unmasked"})),
            "procMount: container \"i\" must not set securityContext.procMount to \"Unmasked\"",
        ),
        (
            context(json!({"seLinuxOptions": {"user": "u", "role": "r", "type": "t"}})),
            "seLinuxOptions: pod set forbidden securityContext.seLinuxOptions: type \"t\"; user may not be set; role may not be set",
        ),
        (
            context(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile: pod must not set securityContext.seccompProfile.type to \"Unconfined\"",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}},
                "containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "Odd"}}}]}),
            "forbidden AppArmor profiles: pod and container \"a\" must not set AppArmor profile type to \"Odd\", \"Unconfined\"",
        ),
        (
            context(json!({"sysctls": [{"name": "kernel.msgmax"}, {"name": "a"}]})),
            "forbidden sysctls: kernel.msgmax, a",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}},
                "containers": [{"name": "a", "securityContext": {"windowsOptions": {"hostProcess": true}}}]}),
            "hostProcess: pod and container \"a\" must not set securityContext.windowsOptions.hostProcess=true",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(said(Level::Baseline, LATEST, &spec, &Value::Null), [expected], "{spec}");
    }
    let fine = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}], "seLinuxOptions": {"type": "container_engine_t"}},
        "containers": [{"name": "a", "securityContext": {"capabilities": {"add": ["CHOWN"]}}}]});
    assert!(said(Level::Baseline, LATEST, &fine, &Value::Null).is_empty());
    assert_eq!(said(Level::Baseline, 30, &fine, &Value::Null).len(), 2, "both came later");
}

#[test]
fn annotations_of_old() {
    let spec = json!({"containers": [{"name": "a"}]});
    let armor = json!({"container.apparmor.security.beta.kubernetes.io/a": "unconfined"});
    assert_eq!(
        said(Level::Baseline, LATEST, &spec, &armor),
        [
            "forbidden AppArmor profile: annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\""
        ]
    );
    let seccomp = json!({"container.seccomp.security.alpha.kubernetes.io/a": "unconfined", "container.seccomp.security.alpha.kubernetes.io/b": "x"});
    assert_eq!(
        said(Level::Baseline, 18, &spec, &seccomp),
        ["seccompProfile: forbidden annotation container.seccomp.security.alpha.kubernetes.io/a=\"unconfined\""]
    );
    assert!(said(Level::Baseline, 19, &spec, &seccomp).is_empty());
}

#[test]
fn restricted_in_upstreams_order_and_without_what_it_replaces() {
    let spec = json!({"hostPID": true, "securityContext": {"runAsUser": 0},
        "volumes": [{"name": "v", "hostPath": {}}, {"name": "w", "fancy": {}}, {"name": "x", "emptyDir": {}}, {"name": "y", "image": {}}],
        "containers": [{"name": "c", "securityContext": {"procMount": "Unmasked", "capabilities": {"add": ["SYS_ADMIN"]}}}]});
    assert_eq!(
        said(Level::Restricted, LATEST, &spec, &Value::Null),
        [
            "host namespaces: hostPID=true",
            "allowPrivilegeEscalation != false: container \"c\" must set securityContext.allowPrivilegeEscalation=false",
            "unrestricted capabilities: container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add",
            "procMount: container \"c\" must not set securityContext.procMount to \"Unmasked\"",
            "restricted volume types: volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"unknown\"",
            "runAsNonRoot != true: pod or container \"c\" must set securityContext.runAsNonRoot=true",
            "runAsUser=0: pod must not set runAsUser=0",
            "seccompProfile: pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        ]
    );
    let reasons = |version| -> Vec<String> {
        let all = said(Level::Restricted, version, &spec, &Value::Null);
        all.iter().map(|said| said.split(':').next().unwrap_or_default().to_owned()).collect()
    };
    let oldest =
        ["non-default capabilities", "host namespaces", "procMount", "restricted volume types", "runAsNonRoot != true"];
    assert_eq!(reasons(7), oldest);
}

#[test]
fn who_may_do_without() {
    let good = json!({"containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}}]});
    let by_pod = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "Localhost"}},
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
    let windows =
        json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]});
    let own_users = json!({"hostUsers": false, "securityContext": {"runAsNonRoot": false, "runAsUser": 0, "seccompProfile": {"type": "Localhost"}},
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
    for (spec, version, expected) in [
        (&good, LATEST, 0),
        (&by_pod, LATEST, 0),
        (&windows, LATEST, 0),
        (&windows, 24, 3),
        (&own_users, LATEST, 0),
        (&own_users, 34, 2),
    ] {
        assert_eq!(said(Level::Restricted, version, spec, &Value::Null).len(), expected, "{spec} {version}");
    }
    let unmasked =
        json!({"hostUsers": false, "containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]});
    assert!(said(Level::Baseline, LATEST, &unmasked, &Value::Null).is_empty());
    assert_eq!(said(Level::Baseline, 34, &unmasked, &Value::Null).len(), 1);
    assert_eq!(said(Level::Privileged, LATEST, &unmasked, &Value::Null).len(), 0);
}
