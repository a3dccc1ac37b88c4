//! The loop against an API server in memory.

use serde_json::{Value, json};

use super::*;
use crate::config::file::ExtenderFile;
use crate::config::profile::Profile;
use fake::Fake;
use http::Method;

mod fake;

const PODS: &str = "/api/v1/pods";
const NODES: &str = "/api/v1/nodes";

fn start() -> (Fake, CancellationToken) {
    start_with(Vec::new())
}

fn start_with(extenders: Vec<Extender>) -> (Fake, CancellationToken) {
    let shutdown = CancellationToken::new();
    let fake = Fake::start(&shutdown);
    let (client, token) = (fake.client.clone(), shutdown.clone());
    tokio::spawn(async move {
        let inbox = Arc::new(Inbox::default());
        let sources = Sources::start(&client, &inbox, &token);
        sources.synced().await;
        let times = Times { initial_backoff_ms: 10, max_backoff_ms: 20, max_unschedulable_ms: 300_000 };
        let profiles: Arc<[Profile]> = vec![Profile::default_for("default-scheduler")].into();
        let recorder = Recorder::start(&client, "default-scheduler", "test", token.clone());
        let scheduler = Scheduler::new(client, recorder, sources, inbox, profiles, times);
        scheduler.with_extenders(extenders).run(token).await;
    });
    (fake, shutdown)
}

fn node(fake: &Fake, name: &str, cpu: &str) {
    fake.put(
        NODES,
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "10"}}}),
    );
}

fn pod(fake: &Fake, name: &str, cpu: &str, more: &Value) {
    let mut spec = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    fake.put(PODS, json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec}));
}

fn look<'a>(name: &'a str) -> impl Fn(&Fake) -> Value + 'a {
    move |fake| fake.get(PODS, "ns", name).unwrap_or_default()
}

fn on(node: &'static str) -> impl Fn(&Value) -> bool {
    move |pod| pod["spec"]["nodeName"] == node
}

fn condition(pod: &Value) -> Value {
    let list = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    list.into_iter().find(|c| c["type"] == "PodScheduled").unwrap_or_default()
}

#[tokio::test]
async fn binds_reports_and_wakes() {
    let (fake, shutdown) = start();
    node(&fake, "n1", "1");
    pod(&fake, "a", "1", &json!({}));
    fake.until(look("a"), on("n1")).await;
    pod(&fake, "b", "1", &json!({}));
    let b = fake.until(look("b"), |p| condition(p)["reason"] == "Unschedulable").await;
    let want = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
                1 No preemption victims found for incoming pod.";
    assert_eq!(condition(&b)["message"], want);
    assert!(condition(&b)["lastTransitionTime"].is_string());
    fake.remove(PODS, "ns", "a");
    fake.until(look("b"), on("n1")).await;
    let events = |f: &Fake| {
        let store: Vec<Value> = f.all("/apis/events.k8s.io/v1/events");
        store.iter().map(|e| e["reason"].as_str().unwrap_or_default().to_string()).collect::<Vec<_>>()
    };
    let wanted = ["Scheduled", "FailedScheduling"];
    fake.until(events, |seen| wanted.iter().all(|w| seen.iter().any(|s| s == w))).await;
    shutdown.cancel();
}

#[tokio::test]
async fn a_failed_binding_is_undone_and_repeated() {
    let (fake, shutdown) = start();
    *fake.refuse.lock().unwrap() = Some((Method::POST, "/binding"));
    node(&fake, "n1", "1");
    pod(&fake, "a", "1", &json!({}));
    fake.until(look("a"), |p| condition(p)["reason"] == "SchedulerError").await;
    *fake.refuse.lock().unwrap() = None;
    fake.until(look("a"), on("n1")).await;
    shutdown.cancel();
}

#[tokio::test]
async fn preempts_then_waits_for_the_victim_to_leave() {
    let (fake, shutdown) = start();
    node(&fake, "n1", "1");
    pod(&fake, "low", "1", &json!({"priority": 1}));
    fake.until(look("low"), on("n1")).await;
    pod(&fake, "high", "1", &json!({"priority": 10}));
    let low = fake.until(look("low"), |p| p["metadata"]["deletionTimestamp"].is_string()).await;
    let target =
        low["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "DisruptionTarget").cloned();
    assert_eq!(target.unwrap()["reason"], "PreemptionByScheduler");
    let high = fake.until(look("high"), |p| p["status"]["nominatedNodeName"] == "n1").await;
    assert!(high["spec"]["nodeName"].is_null());
    fake.remove(PODS, "ns", "low");
    fake.until(look("high"), on("n1")).await;
    shutdown.cancel();
}

#[tokio::test]
async fn gates_hold_a_pod() {
    let (fake, shutdown) = start();
    node(&fake, "n1", "1");
    pod(&fake, "a", "1", &json!({"schedulingGates": [{"name": "x"}]}));
    fake.until(look("a"), |p| condition(p)["reason"] == "SchedulingGated").await;
    let mut open = look("a")(&fake);
    open["spec"]["schedulingGates"] = json!([]);
    fake.put(PODS, open);
    fake.until(look("a"), on("n1")).await;
    shutdown.cancel();
}

#[tokio::test]
async fn a_claim_is_bound_before_its_pod() {
    let (fake, shutdown) = start();
    node(&fake, "n1", "1");
    node(&fake, "n2", "1");
    let class = json!({"metadata": {"name": "late"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"});
    fake.put("/apis/storage.k8s.io/v1/storageclasses", class);
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}]}});
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "storageClassName": "late", "nodeAffinity": affinity}, "status": {"phase": "Available"}});
    fake.put("/api/v1/persistentvolumes", volume);
    let claims = "/api/v1/persistentvolumeclaims";
    let claim = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "late", "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
    fake.put(claims, claim);
    pod(&fake, "a", "1", &json!({"volumes": [{"name": "x", "persistentVolumeClaim": {"claimName": "c"}}]}));
    let volume = |f: &Fake| f.get("/api/v1/persistentvolumes", "", "v").unwrap_or_default();
    fake.until(volume, |v| v["spec"]["claimRef"]["name"] == "c").await;
    assert!(look("a")(&fake)["spec"]["nodeName"].is_null());
    // What the volume controller does next.
    let mut bound = fake.get(claims, "ns", "c").unwrap();
    bound["spec"]["volumeName"] = json!("v");
    bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    fake.put(claims, bound);
    fake.until(look("a"), on("n2")).await;
    shutdown.cancel();
}

/// An extender that answers by the path's last part, and its URL.
fn extender(shutdown: &CancellationToken, answer: fn(&str, &Value) -> Value) -> String {
    use component_base::serving::{Server, full, service_fn};
    let server = Server::bind("127.0.0.1".parse().unwrap(), 0).unwrap();
    let url = format!("http://{}/sched", server.local_addr());
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
        assert_eq!(request.version(), http::Version::HTTP_11, "most extenders speak nothing else without TLS");
        let path = request.uri().path().to_owned();
        let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        let asked: Value = serde_json::from_slice(&body).unwrap();
        assert!(asked["Pod"]["metadata"]["name"].is_string(), "{asked}");
        let answer = answer(path.strip_prefix("/sched/").unwrap(), &asked);
        Ok::<_, std::convert::Infallible>(http::Response::new(full(answer.to_string())))
    });
    tokio::spawn(server.serve(None, service, shutdown.clone()));
    url
}

#[tokio::test]
async fn extenders_refuse_score_and_are_ignored_when_they_may_be() {
    let shutdown = CancellationToken::new();
    let url = extender(&shutdown, |verb, asked| {
        assert!(asked["NodeNames"].is_array(), "{asked}");
        match verb {
            "filter" => json!({"NodeNames": ["n1", "n2"], "FailedNodes": {"n3": "too far"}, "Nodes": null}),
            "prioritize" => json!([{"Host": "n2", "Score": 10}, {"host": "n3", "score": 10}]),
            other => json!({"error": other}),
        }
    });
    let asked = ExtenderFile {
        url_prefix: url,
        filter_verb: "filter".into(),
        prioritize_verb: "prioritize".into(),
        weight: 1,
        node_cache_capable: true,
        ..ExtenderFile::default()
    };
    let broken = ExtenderFile {
        filter_verb: "nonsense".into(),
        prioritize_verb: String::new(),
        ignorable: true,
        ..asked.clone()
    };
    let (fake, stop) = start_with([broken, asked].map(|file| Extender::new(file).unwrap()).into());
    for name in ["n1", "n2", "n3"] {
        node(&fake, name, "1");
    }
    pod(&fake, "a", "1", &json!({}));
    fake.until(look("a"), on("n2")).await;
    pod(&fake, "b", "1", &json!({}));
    fake.until(look("b"), on("n1")).await;
    pod(&fake, "c", "1", &json!({}));
    let c = fake.until(look("c"), |p| condition(p)["reason"] == "Unschedulable").await;
    assert!(
        condition(&c)["message"]
            .as_str()
            .unwrap()
            .starts_with("0/3 nodes are available: 1 too far, 2 Insufficient cpu.")
    );
    stop.cancel();
    shutdown.cancel();
}

/// Two nodes, each full of a pod that may go; the lesser one is on n1, and extenders decide.
async fn preempt_beside(extenders: Vec<ExtenderFile>) -> (Fake, CancellationToken) {
    let (fake, stop) = start_with(extenders.into_iter().map(|file| Extender::new(file).unwrap()).collect());
    for (name, lesser, priority) in [("n1", "least", 1), ("n2", "less", 2)] {
        node(&fake, name, "1");
        pod(&fake, lesser, "1", &json!({"priority": priority, "nodeName": name}));
    }
    pod(&fake, "high", "1", &json!({"priority": 10}));
    (fake, stop)
}

#[tokio::test]
async fn extenders_choose_where_pods_are_preempted() {
    let shutdown = CancellationToken::new();
    let url = extender(&shutdown, |verb, asked| match verb {
        "names" => {
            let mut nodes = asked["NodeNameToMetaVictims"].clone();
            assert!(nodes["n1"]["Pods"][0]["UID"].is_string() && nodes["n1"]["NumPDBViolations"] == 0, "{asked}");
            nodes.as_object_mut().unwrap().remove("n1");
            json!({"NodeNameToMetaVictims": nodes})
        }
        "objects" => {
            let victim = &asked["NodeNameToVictims"]["n2"]["Pods"][0];
            assert_eq!(victim["spec"]["priority"], 2, "{asked}");
            let pods = json!([{"uid": victim["metadata"]["uid"]}]);
            json!({"nodeNameToMetaVictims": {"n2": {"pods": pods, "numPDBViolations": 0}}})
        }
        "nobody" => json!({"NodeNameToMetaVictims": {"n2": {"Pods": null}}}),
        "nowhere" => json!({"NodeNameToMetaVictims": null}),
        _ => json!({"NodeNameToMetaVictims": {"n1": {"Pods": [{"UID": "of no pod"}]}}}),
    });
    let asked = |verb: &str, ignorable: bool| ExtenderFile {
        url_prefix: url.clone(),
        preempt_verb: verb.into(),
        node_cache_capable: verb != "objects",
        ignorable,
        ..ExtenderFile::default()
    };
    for verb in ["names", "objects"] {
        let (fake, stop) = preempt_beside(vec![asked("nonsense", true), asked(verb, false)]).await;
        fake.until(look("high"), |p| p["status"]["nominatedNodeName"] == "n2").await;
        fake.until(look("less"), |p| p["metadata"]["deletionTimestamp"].is_string()).await;
        assert!(look("least")(&fake)["metadata"]["deletionTimestamp"].is_null());
        stop.cancel();
    }
    let refused = [
        (asked("nobody", false), "preemption: expected at least one victim pod on node \"n2\""),
        (asked("nobody", true), "preemption: no candidate node for preemption"),
        (asked("nowhere", false), "preemption: no candidate node for preemption"),
        (asked("nonsense", false), "(UID: of no pod) on node n1, where it is not found"),
    ];
    for (extender, why) in refused {
        let (fake, stop) = preempt_beside(vec![extender]).await;
        let high = fake.until(look("high"), |p| condition(p)["reason"] == "Unschedulable").await;
        assert!(condition(&high)["message"].as_str().unwrap().ends_with(why), "{high}");
        stop.cancel();
    }
    shutdown.cancel();
}
