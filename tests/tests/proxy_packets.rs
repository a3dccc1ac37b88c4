//! kube-proxy with real packets, in each of its modes: a node, two pods and a client outside, each in its own network
//! namespace. The IPVS mode is skipped where the kernel has none.
//!
//! The API server is a small stand-in inside the node's namespace that serves lists over HTTP/2 and ends every watch with
//! "too old" when its content changes, so each change also tests the way back from 410.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use component_base::BoxError;
use component_base::serving::{Body, Server, full, service_fn};
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tests::{Process, bin, eventually, output, run};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

const NODE_IP: &str = "192.168.77.1";
const CLIENT_IP: &str = "192.168.77.2";
const PODS: [(&str, &str, &str); 2] = [("one", "10.88.1.1", "10.88.1.2"), ("two", "10.88.2.1", "10.88.2.2")];
const CLUSTER_IP: &str = "10.96.0.10:80";
const CLUSTER_IP6: &str = "[fd00:96::10]:80";
const BALANCER: &str = "203.0.113.80:80";
const UDP_IP: &str = "10.96.0.53:53";
const NODE_PORT: u16 = 30080;

/// A network namespace, removed when dropped.
struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Self {
        let name = format!("hw-{role}");
        // of an earlier run that was killed
        let _ = output(Command::new("ip").args(["netns", "delete", &name]));
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self(name);
        namespace.ip("link set lo up");
        namespace
    }

    fn ip(&self, arguments: &str) {
        run(Command::new("ip").arg("-n").arg(&self.0).args(arguments.split(' ')));
    }

    /// A cable to another namespace, with an address at each end.
    fn connect(&self, device: &str, address: &str, other: &Self, other_address: &str) {
        self.ip(&format!("link add {device} type veth peer name eth0 netns {}", other.0));
        for (namespace, device, address) in [(self, device, address), (other, "eth0", other_address)] {
            namespace.ip(&format!("address add {address}/30 dev {device}"));
            namespace.ip(&format!("link set {device} up"));
        }
        other.ip(&format!("route add default via {address}"));
    }

    /// IPv6 addresses for a cable that is there; without waiting for neighbours with the same address.
    fn connect6(&self, device: &str, address: &str, other: &Self, other_address: &str) {
        for (namespace, device, address) in [(self, device, address), (other, "eth0", other_address)] {
            namespace.ip(&format!("address add {address}/126 dev {device} nodad"));
        }
        other.ip(&format!("-6 route add default via {address}"));
    }

    /// Runs `work` in a thread of this namespace.
    fn inside<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> std::thread::JoinHandle<R> {
        let path = format!("/run/netns/{}", self.0);
        std::thread::spawn(move || {
            let file = File::open(path).expect("the namespace exists");
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .expect("entering a namespace needs root");
            work()
        })
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.0)).arg("--").arg(program);
        command
    }

    /// What a new TCP connection to `address` is told.
    fn ask(&self, address: &str) -> Result<String, String> {
        let address: SocketAddr = address.parse().expect("an address");
        let asked = self.inside(move || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        asked.join().expect("no panic").map_err(|e: std::io::Error| e.to_string())
    }

    /// Who answers `count` new connections.
    fn answering(&self, address: &str, count: usize) -> Result<BTreeSet<String>, String> {
        (0..count).map(|_| self.ask(address).map(|a| a.split(' ').next().unwrap_or_default().to_owned())).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = output(Command::new("ip").args(["netns", "delete", &self.0]));
    }
}

/// The IPv6 address that goes with an IPv4 one: `10.88.1.2` and `fd00:88:1::2`.
fn six(address: &str) -> String {
    let parts: Vec<&str> = address.split('.').collect();
    format!("fd00:{}:{}::{}", parts[1], parts[2], parts[3])
}

/// Answers every TCP connection with its name and the peer's address, every datagram with its name.
fn start_backend(namespace: &Namespace, name: &'static str) {
    namespace.inside(move || {
        let listener = TcpListener::bind("[::]:8080").expect("a free port");
        let socket = UdpSocket::bind("0.0.0.0:5353").expect("a free port");
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), peer);
            }
        });
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(format!("{name} {}", peer.ip().to_canonical()).as_bytes());
        }
    });
}

/// The stand-in's content.
#[derive(Clone, Default)]
struct World {
    services: Vec<Value>,
    slices: Vec<Value>,
    nodes: Vec<Value>,
    service_cidrs: Vec<Value>,
}

#[derive(Clone)]
struct FakeApi {
    world: Arc<Mutex<World>>,
    version: watch::Sender<u64>,
    /// Changes of slices that watchers are told of.
    slices: broadcast::Sender<Value>,
}

impl FakeApi {
    /// Serves in the namespace until the process ends; returns the port.
    fn start(namespace: &Namespace, world: World) -> (Self, u16) {
        let slices = broadcast::Sender::new(16);
        let api = Self { world: Arc::new(Mutex::new(world)), version: watch::Sender::new(1), slices };
        let (report, port) = std::sync::mpsc::channel();
        let served = api.clone();
        namespace.inside(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let server = Server::bind("127.0.0.1".parse().expect("an address"), 0).expect("a free port");
                report.send(server.local_addr().port()).expect("the test waits");
                let service = service_fn(move |request| {
                    let api = served.clone();
                    async move { Ok::<_, Infallible>(api.answer(&request)) }
                });
                server.serve(None, service, CancellationToken::new()).await;
            });
        });
        (api, port.recv().expect("the stand-in starts"))
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().expect("no panic"));
        self.version.send_modify(|version| *version += 1);
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default();
        if query.contains("watch=true") {
            let asked = query.split("resourceVersion=").nth(1).and_then(|v| v.split('&').next()?.parse::<u64>().ok());
            let of_slices = request.uri().path().ends_with("slices");
            return Response::new(self.watch(asked.unwrap_or(0), of_slices));
        }
        let world = self.world.lock().expect("no panic");
        let items = match request.uri().path() {
            "/api/v1/services" => &world.services,
            "/apis/discovery.k8s.io/v1/endpointslices" => &world.slices,
            "/api/v1/nodes" => &world.nodes,
            "/apis/networking.k8s.io/v1/servicecidrs" => &world.service_cidrs,
            other => panic!("kube-proxy asked for {other}"),
        };
        let version = *self.version.borrow();
        let stamped = items.iter().map(|item| {
            let mut item = item.clone();
            item["metadata"]["resourceVersion"] = version.to_string().into();
            item
        });
        let list = json!({"metadata": {"resourceVersion": version.to_string()}, "items": stamped.collect::<Vec<_>>()});
        Response::new(full(list.to_string()))
    }

    fn watch(&self, asked: u64, of_slices: bool) -> Body {
        let line = |event: Value| Ok::<_, BoxError>(Frame::data(Bytes::from(format!("{event}\n"))));
        let (mut version, slices) = (self.version.subscribe(), self.slices.subscribe());
        let gone = futures::stream::once(async move {
            let _ = version.wait_for(|version| *version > asked).await;
            line(json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}))
        });
        let changed = futures::stream::unfold(slices, move |mut slices| async move {
            let slice = slices.recv().await.ok()?;
            Some((line(json!({"type": "MODIFIED", "object": slice})), slices))
        });
        if of_slices {
            Body::new(StreamBody::new(futures::stream::select(Box::pin(gone), Box::pin(changed))))
        } else {
            Body::new(StreamBody::new(gone))
        }
    }
}

fn service(name: &str, ip: &str, protocol: &str, port: u16, more: Value) -> Value {
    let mut spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "internalTrafficPolicy": "Cluster",
        "ports": [{"name": "p", "protocol": protocol, "port": port}]});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec})
}

fn slice(service: &str, protocol: &str, port: u16, pods: &[&str]) -> Value {
    let endpoints: Vec<Value> = PODS
        .iter()
        .filter(|(name, _, _)| pods.contains(name))
        .map(|(_, _, ip)| json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": "node-a"}))
        .collect();
    json!({"metadata": {"name": format!("{service}-1"), "namespace": "default", "uid": format!("{service}-1"),
        "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "p", "protocol": protocol, "port": port}]})
}

/// Both pods by their IPv6 addresses.
fn slice6(service: &str, port: u16) -> Value {
    let mut slice = slice(service, "TCP", port, &["one", "two"]);
    slice["metadata"]["name"] = format!("{service}-6").into();
    slice["addressType"] = "IPv6".into();
    for (endpoint, (_, _, address)) in slice["endpoints"].as_array_mut().into_iter().flatten().zip(PODS) {
        endpoint["addresses"] = json!([six(address)]);
    }
    slice
}

fn world() -> World {
    let ports = json!([{"name": "p", "protocol": "TCP", "port": 80, "nodePort": NODE_PORT}]);
    let web = json!({"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": ports,
        "clusterIPs": ["10.96.0.10", "fd00:96::10"], "ipFamilyPolicy": "PreferDualStack"});
    let sticky = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    let ranges = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "loadBalancerSourceRanges": ["192.168.77.0/30"]});
    let mut balanced = service("balanced", "10.96.0.13", "TCP", 80, ranges);
    balanced["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.80", "ipMode": "VIP"}]}});
    World {
        services: vec![
            service("web", "10.96.0.10", "TCP", 80, web),
            service("dns", "10.96.0.53", "UDP", 53, json!({})),
            service("sticky", "10.96.0.11", "TCP", 80, sticky),
            service("empty", "10.96.0.12", "TCP", 80, json!({})),
            balanced,
        ],
        slices: vec![
            slice("web", "TCP", 8080, &["one", "two"]),
            slice("dns", "UDP", 5353, &["one"]),
            slice("sticky", "TCP", 8080, &["one", "two"]),
            slice6("web", 8080),
            slice("balanced", "TCP", 8080, &["one"]),
        ],
        nodes: vec![json!({"metadata": {"name": "node-a", "uid": "n"}, "spec": {"podCIDRs": ["10.88.0.0/16"]},
            "status": {"addresses": [{"type": "InternalIP", "address": NODE_IP}]}})],
        service_cidrs: vec![
            json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd00:96::/112"]}}),
        ],
    }
}

struct Cluster {
    mode: &'static str,
    proxy: Option<Process>,
    api: FakeApi,
    dir: tempfile::TempDir,
    node: Namespace,
    client: Namespace,
    pods: Vec<Namespace>,
}

impl Cluster {
    fn start(mode: &'static str, world: World) -> Self {
        let namespace = |role: &str| Namespace::new(&format!("{mode}-{role}"));
        let (node, client) = (namespace("node"), namespace("client"));
        node.connect("out", NODE_IP, &client, CLIENT_IP);
        // as every machine has one: a cluster address must be routed somewhere before it is translated
        node.ip(&format!("route add default via {CLIENT_IP}"));
        let mut pods = Vec::new();
        for (name, gateway, address) in PODS {
            let pod = namespace(name);
            node.connect(&format!("pod-{name}"), gateway, &pod, address);
            node.connect6(&format!("pod-{name}"), &six(gateway), &pod, &six(address));
            start_backend(&pod, name);
            pods.push(pod);
        }
        node.ip("-6 route add default dev out");
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let forward = node.inside(move || std::fs::write(format!("/proc/sys/net/{switch}"), "1"));
            forward.join().expect("no panic").expect("forwarding can be switched on");
        }
        // somebody else's rule, which must survive everything
        run(node.command("iptables").args(["-t", "nat", "-A", "POSTROUTING", "-s", "203.0.113.7", "-j", "ACCEPT"]));
        let (api, port) = FakeApi::start(&node, world);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kubeconfig = json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": ""}}],
            "clusters": [{"name": "k", "cluster": {"server": format!("http://127.0.0.1:{port}")}}]});
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig.to_string()).expect("a file");
        let mut cluster = Self { mode, proxy: None, api, dir, node, client, pods };
        cluster.start_proxy();
        cluster
    }

    fn command(&self) -> Command {
        let mut command = self.node.command(bin("kube-proxy"));
        command.arg(format!("--kubeconfig={}", self.dir.path().join("kubeconfig").display())).args([
            &format!("--proxy-mode={}", self.mode),
            "--hostname-override=node-a",
            "--ipvs-sync-period=1s",
            "--ipvs-min-sync-period=100ms",
            "--cluster-cidr=10.88.0.0/16,fd00:88::/32",
            "--healthz-bind-address=127.0.0.1:10256",
            "--iptables-sync-period=1s",
            "--iptables-min-sync-period=100ms",
            "--conntrack-max-per-core=0",
            "-v=4",
        ]);
        command
    }

    fn start_proxy(&mut self) {
        self.proxy = Some(Process::start(&mut self.command(), &self.dir.path().join("log")));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn http(&self, url: &str) -> Result<String, String> {
        output(self.node.command("curl").args(["-sS", "--max-time", "5", url]))
    }

    /// Waits until exactly these backends answer at `address`, as seen from `from`.
    fn expect(&self, from: &Namespace, address: &str, backends: &[&str]) {
        eventually(&format!("{backends:?} at {address}"), || {
            let answering = from.answering(address, 24).map_err(|why| format!("{why}\n{}", self.log()))?;
            let wanted: BTreeSet<String> = backends.iter().map(|b| (*b).to_owned()).collect();
            if answering == wanted { Ok(()) } else { Err(format!("{answering:?}")) }
        });
    }

    /// Everything that the modes may leave in the kernel.
    fn save(&self) -> String {
        let mut out = run(&mut self.node.command("iptables-save"));
        // what a kernel does not have is not there
        for command in ["nft list ruleset ip", "ipvsadm -Ln", "ipset list -n", "ip -o link show type dummy"] {
            let words: Vec<&str> = command.split(' ').collect();
            out += &output(self.node.command(words[0]).args(&words[1..])).unwrap_or_default();
        }
        out
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn packets_reach_the_endpoints(mode: &'static str) {
    if !is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    let mut cluster = Cluster::start(mode, world());
    reach(&cluster);
    policies_and_affinity(&cluster);
    source_ranges(&cluster);
    udp_follows_its_endpoint(&cluster);
    health_and_metrics(&cluster);
    flushed_rules_come_back(&cluster);
    a_restart_disturbs_nothing(&mut cluster);
    endpoints_go(&cluster);
    if mode != "iptables" {
        the_mode_changes(&mut cluster);
    }
    clean_up(&mut cluster);
}

#[test]
fn iptables_packets_reach_the_endpoints() {
    packets_reach_the_endpoints("iptables");
}

#[test]
fn nftables_packets_reach_the_endpoints() {
    packets_reach_the_endpoints("nftables");
}

#[test]
fn ipvs_packets_reach_the_endpoints() {
    if let Err(why) = output(Command::new("ipvsadm").arg("-Ln")) {
        println!("skipped: no IPVS in this kernel: {why}");
        return;
    }
    packets_reach_the_endpoints("ipvs");
}

fn reach(cluster: &Cluster) {
    cluster.expect(&cluster.node, CLUSTER_IP, &["one", "two"]);
    cluster.expect(&cluster.node, CLUSTER_IP6, &["one", "two"]);
    for pod in &cluster.pods {
        cluster.expect(pod, CLUSTER_IP6, &["one", "two"]);
        // also to themselves: the source must then be another
        cluster.expect(pod, CLUSTER_IP, &["one", "two"]);
    }
    cluster.expect(&cluster.client, &format!("{NODE_IP}:{NODE_PORT}"), &["one", "two"]);
    if cluster.mode == "iptables" {
        cluster.expect(&cluster.node, &format!("127.0.0.1:{NODE_PORT}"), &["one", "two"]);
        loopback_is_closed(cluster);
    }
    cluster.expect(&cluster.node, &format!("{NODE_IP}:{NODE_PORT}"), &["one", "two"]);
    // nobody is there, and no such port
    for address in ["10.96.0.12:80", "10.96.0.10:81"].into_iter().take(if cluster.mode == "nftables" { 2 } else { 1 }) {
        let refused = cluster.node.ask(address).expect_err("nobody answers");
        assert!(refused.contains("refused"), "{address}: {refused}");
    }
}

/// Node ports at 127.0.0.1 make the kernel take packets to it from anywhere; the rules do not (CVE-2020-8558).
fn loopback_is_closed(cluster: &Cluster) {
    start_backend(&cluster.node, "node");
    cluster.expect(&cluster.client, &format!("{NODE_IP}:8080"), &["node"]);
    // a neighbour that sends packets to the loopback address out
    cluster.client.ip("address del 127.0.0.1/8 dev lo");
    let out = || std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1");
    cluster.client.inside(out).join().expect("no panic").expect("a switch of the kernel");
    cluster.client.ip(&format!("route add 127.0.0.1/32 via {NODE_IP}"));
    let why = cluster.client.ask("127.0.0.1:8080").expect_err("what listens on the node's loopback is its own");
    assert!(!why.contains("refused"), "{why}");
    run(cluster.node.command("iptables").args(["-I", "INPUT", "-d", "127.0.0.1", "-j", "ACCEPT"]));
    cluster.expect(&cluster.client, "127.0.0.1:8080", &["node"]);
}

fn source_ranges(cluster: &Cluster) {
    cluster.expect(&cluster.client, BALANCER, &["one"]);
    let why = cluster.pods[1].ask(BALANCER).expect_err("not in the ranges");
    assert!(!why.contains("refused"), "{why}");
}

fn policies_and_affinity(cluster: &Cluster) {
    let address = format!("{NODE_IP}:{NODE_PORT}");
    let seen = |answer: String| answer.split(' ').nth(1).unwrap_or_default().to_owned();
    // policy Cluster hides the client, policy Local does not
    assert_ne!(cluster.client.ask(&address).map(seen), Ok(CLIENT_IP.to_owned()));
    cluster.api.change(|world| {
        world.services[0]["spec"]["externalTrafficPolicy"] = "Local".into();
        world.services[0]["spec"]["type"] = "LoadBalancer".into();
        world.services[0]["spec"]["healthCheckNodePort"] = 32000.into();
    });
    eventually("the client's own address", || match cluster.client.ask(&address).map(seen) {
        Ok(peer) if peer == CLIENT_IP => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually("the health check node port", || {
        let body = cluster.http(&format!("http://{NODE_IP}:32000/"))?;
        if body.contains("\"localEndpoints\":2") { Ok(()) } else { Err(body) }
    });
    let stuck = cluster.node.answering("10.96.0.11:80", 20).expect("answers");
    assert_eq!(stuck.len(), 1, "{stuck:?}");
}

fn udp_follows_its_endpoint(cluster: &Cluster) {
    // one socket: connection tracking would keep sending it to the first endpoint
    let (ask, asked) = std::sync::mpsc::channel::<()>();
    let (told, answers) = std::sync::mpsc::channel::<Result<String, String>>();
    cluster.node.inside(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect(UDP_IP).expect("a route");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        while asked.recv().is_ok() {
            let mut buffer = [0; 64];
            let received = socket.send(b"?").and_then(|_| socket.recv(&mut buffer));
            let answer = received.map(|count| String::from_utf8_lossy(&buffer[..count]).into_owned());
            if told.send(answer.map_err(|e| e.to_string())).is_err() {
                return;
            }
        }
    });
    let wait_for = |name: &str| {
        eventually(&format!("UDP answers of {name}"), || {
            ask.send(()).map_err(|e| e.to_string())?;
            let answer = answers.recv().map_err(|e| e.to_string())??;
            if answer == name { Ok(()) } else { Err(answer) }
        });
    };
    wait_for("one");
    cluster.api.change(|world| world.slices[1] = slice("dns", "UDP", 5353, &["two"]));
    wait_for("two");
}

fn health_and_metrics(cluster: &Cluster) {
    let health = cluster.http("http://127.0.0.1:10256/healthz").expect("healthy");
    assert!(health.contains("lastUpdated") && health.contains("\"nodeEligible\":true"), "{health}");
    let metrics = cluster.http("http://127.0.0.1:10249/metrics").expect("metrics");
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"}",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
    ] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    assert_eq!(cluster.http("http://127.0.0.1:10249/proxyMode").as_deref(), Ok(cluster.mode));
    if cluster.mode == "iptables" {
        assert!(metrics.contains("kubeproxy_sync_proxy_rules_iptables_total{table=\"nat\",ip_family=\"IPv4\"}"));
    }
}

fn flushed_rules_come_back(cluster: &Cluster) {
    if cluster.mode == "nftables" {
        run(cluster.node.command("nft").args(["flush", "table", "ip", "kube-proxy"]));
        cluster.expect(&cluster.node, CLUSTER_IP, &["one", "two"]);
        run(cluster.node.command("nft").args(["delete", "table", "ip", "kube-proxy"]));
    }
    if cluster.mode == "ipvs" {
        run(cluster.node.command("ipvsadm").arg("-C"));
        cluster.expect(&cluster.node, CLUSTER_IP, &["one", "two"]);
        cluster.node.ip("link delete kube-ipvs0");
    }
    for table in ["nat", "filter", "mangle"] {
        run(cluster.node.command("iptables").args(["-t", table, "-F"]));
        run(cluster.node.command("iptables").args(["-t", table, "-X"]));
    }
    run(cluster.node.command("iptables").args(["-t", "nat", "-A", "POSTROUTING", "-s", "203.0.113.7", "-j", "ACCEPT"]));
    cluster.expect(&cluster.node, CLUSTER_IP, &["one", "two"]);
    cluster.expect(&cluster.pods[0], CLUSTER_IP, &["one", "two"]);
}

fn a_restart_disturbs_nothing(cluster: &mut Cluster) {
    let sticky = if cluster.mode == "ipvs" { "10.96.0.11:80" } else { "default/sticky" };
    assert!(cluster.save().contains(sticky));
    cluster.proxy = None;
    cluster.expect(&cluster.node, CLUSTER_IP, &["one", "two"]);
    cluster.api.change(|world| world.services.retain(|s| s["metadata"]["name"] != "sticky"));
    cluster.start_proxy();
    eventually("the stale Service's rules to go", || {
        if cluster.save().contains(sticky) { Err(cluster.log()) } else { Ok(()) }
    });
    cluster.expect(&cluster.node, CLUSTER_IP, &["one", "two"]);
}

/// To iptables and back: what the other mode had goes, Services stay.
fn the_mode_changes(cluster: &mut Cluster) {
    let own = cluster.mode;
    for (mode, gone) in
        [("iptables", ["table ip kube-proxy", "kube-ipvs0", "KUBE-CLUSTER-IP"]), (own, ["KUBE-SVC-"; 3])]
    {
        cluster.proxy = None;
        cluster.mode = mode;
        cluster.start_proxy();
        eventually("the other mode's rules to go", || {
            let left = cluster.save();
            match gone.iter().find(|what| left.contains(**what)) {
                Some(what) => Err(format!("{what} is left\n{}", cluster.log())),
                None => Ok(()),
            }
        });
        cluster.expect(&cluster.node, CLUSTER_IP, &["one"]);
    }
}

fn endpoints_go(cluster: &Cluster) {
    cluster.api.change(|world| world.slices[0] = slice("web", "TCP", 8080, &["two"]));
    cluster.expect(&cluster.client, &format!("{NODE_IP}:{NODE_PORT}"), &["two"]);
    cluster.api.change(|world| world.slices[0] = slice("web", "TCP", 8080, &[]));
    eventually("refused connections", || match cluster.node.ask(CLUSTER_IP) {
        Err(why) if why.contains("refused") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cluster.api.change(|world| world.slices[0] = slice("web", "TCP", 8080, &["one"]));
    cluster.expect(&cluster.node, CLUSTER_IP, &["one"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.proxy.as_ref().expect("it runs").pid()));
    let status = status.unwrap_or_default();
    let resident: Vec<&str> = status.lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("Rss")).collect();
    println!("kube-proxy {resident:?}");
}

fn clean_up(cluster: &mut Cluster) {
    cluster.proxy = None;
    run(cluster.command().arg("--cleanup"));
    let left = cluster.save();
    // the kubelet shares KUBE-FIREWALL
    let ours: Vec<&str> = left.lines().filter(|l| l.contains("KUBE-") && !l.contains("KUBE-FIREWALL")).collect();
    assert_eq!(ours, Vec::<&str>::new());
    assert!(!left.contains("kube-"), "{left}");
    assert!(left.contains("203.0.113.7"), "{left}");
    assert!(cluster.node.ask(CLUSTER_IP).is_err());
}

/// What many Services cost: `cargo test -p tests --test proxy_packets scale -- --ignored --nocapture MODE`, for
/// `docs/scale.md`. SERVICES and ENDPOINTS in the environment say how many.
fn scale(mode: &'static str) {
    let number =
        |name: &str, otherwise: u32| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise);
    let (services, endpoints) = (number("SERVICES", 10_000), number("ENDPOINTS", 10));
    let mut world = world();
    let big_slice = |at: u32, count: u32| {
        let mut slice = slice(&format!("s{at}"), "TCP", 8080, &[]);
        let address = |n: u32| std::net::Ipv4Addr::from(0x0a80_0000 + at * 64 + n).to_string();
        let endpoint = |n| json!({"addresses": [address(n)], "conditions": {"ready": true}, "nodeName": format!("node-{}", n % 50)});
        slice["endpoints"] = (0..count).map(endpoint).collect();
        slice
    };
    for at in 0..services {
        let ip = std::net::Ipv4Addr::from(0x0a61_0000 + at).to_string();
        world.services.push(service(&format!("s{at}"), &ip, "TCP", 80, json!({})));
        world.slices.push(big_slice(at, endpoints));
    }
    let cluster = Cluster::start(mode, world);
    let pid = cluster.proxy.as_ref().expect("it runs").pid();
    let metric = |name: &str| -> f64 {
        let text = cluster.http("http://127.0.0.1:10249/metrics").unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name) && line.contains("IPv4")).unwrap_or_default();
        line.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
    };
    // ticks of 10 ms, its own and of the programs that it ran
    let cpu = || -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.skip(11).take(4).filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() * 10.0
    };
    let partial = "kubeproxy_sync_partial_proxy_rules_duration_seconds";
    let waited = std::time::Instant::now();
    while metric("kubeproxy_sync_full_proxy_rules_duration_seconds_count") < 1.0 {
        assert!(waited.elapsed() < Duration::from_secs(900), "{}", cluster.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let full = metric("kubeproxy_sync_full_proxy_rules_duration_seconds_sum");
    println!("{mode}: first write {full:.2} s, CPU since the start {:.1} s", cpu() / 1000.0);
    let (cpu_before, count_before, sum_before) =
        (cpu(), metric(&format!("{partial}_count")), metric(&format!("{partial}_sum")));
    for round in 0..20 {
        let mut slice = big_slice(7, endpoints - round % 2);
        slice["metadata"]["resourceVersion"] = (round + 2).to_string().into();
        cluster.api.slices.send(slice).expect("it watches");
        eventually("the change", || {
            if metric(&format!("{partial}_count")) > count_before + f64::from(round) {
                Ok(())
            } else {
                Err("not yet".to_owned())
            }
        });
    }
    let count = metric(&format!("{partial}_count")) - count_before;
    let wall = (metric(&format!("{partial}_sum")) - sum_before) / count * 1000.0;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident: Vec<&str> = status.lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("RssAnon")).collect();
    println!(
        "{mode}: one endpoint {wall:.1} ms, CPU {:.1} ms; {count} changes, {resident:?}",
        (cpu() - cpu_before) / count
    );
}

#[test]
#[ignore = "a measurement"]
fn scale_iptables() {
    scale("iptables");
}

#[test]
#[ignore = "a measurement"]
fn scale_nftables() {
    scale("nftables");
}

#[test]
#[ignore = "a measurement"]
fn scale_ipvs() {
    scale("ipvs");
}

/// The same daemon against the real API server and etcd, all in one namespace: what it is allowed to see and how it is told.
#[test]
fn follows_the_real_api_server() {
    if !is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    let node = Namespace::new("proxy-api");
    let pod = Namespace::new("proxy-pod");
    node.connect("pod", "10.88.3.1", &pod, "10.88.3.2");
    node.ip("route add default via 10.88.3.2");
    start_backend(&pod, "real");
    // children live where the thread that starts them lives
    let plane = node.inside(|| tests::ControlPlane::start(tests::Options::default())).join().expect("a control plane");
    let objects = plane.path("objects.json");
    let made = [
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}, "spec": {"podCIDR": "10.88.3.0/24"}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "10.0.7.7", "ports": [{"port": 80, "targetPort": 8080}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": [{"addresses": ["10.88.3.2"], "conditions": {"ready": true}}],
            "ports": [{"port": 8080, "protocol": "TCP", "name": ""}]}),
    ];
    let list = made.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    std::fs::write(&objects, list).expect("a file");
    let kubectl = |arguments: &[&str]| {
        let kubeconfig = plane.kubeconfig().display().to_string();
        output(node.command("kubectl").arg("--kubeconfig").arg(kubeconfig).args(arguments))
    };
    kubectl(&["create", "-f", &objects.display().to_string()]).expect("objects are made");
    let address =
        [json!({"op": "add", "path": "/status/addresses", "value": [{"type": "InternalIP", "address": "10.88.3.1"}]})];
    let address = json!(address).to_string();
    kubectl(&["patch", "node", "node-a", "--subresource=status", "--type=json", "-p", &address]).expect("an address");
    let log = plane.path("proxy.log");
    let mut command = node.command(bin("kube-proxy"));
    command.arg(format!("--kubeconfig={}", plane.path("kube-proxy.conf").display())).args([
        "--hostname-override=node-a", "--detect-local-mode=NodeCIDR", "--healthz-bind-address=",
        "--metrics-bind-address=", "--conntrack-max-per-core=0", "-v=4",
    ]);
    let _proxy = Process::start(&mut command, &log);
    let words = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("an answer through the Service", || {
        node.ask("10.0.7.7:80").map_err(|why| format!("{why}\n{}", words()))
    });
    kubectl(&["delete", "endpointslice", "web-1"]).expect("it is deleted");
    eventually("refusal without endpoints", || match node.ask("10.0.7.7:80") {
        Err(why) if why.contains("refused") => Ok(()),
        other => Err(format!("{other:?}\n{}", words())),
    });
}
