use super::*;
use crate::fake_server::FakeServer;
use crate::resources::{CONFIG_MAPS, PODS};
use std::sync::Mutex;

#[derive(Debug, Deserialize)]
struct Pod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
}

impl Cached for Pod {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

fn pod(name: &str, version: u32, node: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"x","uid":"{name}","resourceVersion":"{version}"}},"spec":{{"nodeName":"{node}"}}}}"#
    )
}

fn list(version: u32, items: &[String]) -> String {
    format!(r#"{{"metadata":{{"resourceVersion":"{version}"}},"items":[{}]}}"#, items.join(","))
}

fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

const EXPIRED: &str = r#"{"kind":"Status","status":"Failure","reason":"Expired","code":410,"message":"too old"}"#;

struct Fixture {
    server: FakeServer,
    seen: Arc<Mutex<Vec<String>>>,
    changed: Arc<tokio::sync::Notify>,
}

impl Fixture {
    fn new() -> Self {
        Self { server: FakeServer::start(), seen: Arc::default(), changed: Arc::default() }
    }

    fn start(&self) -> Reader<Pod> {
        let (seen, changed) = (Arc::clone(&self.seen), Arc::clone(&self.changed));
        Informer::<Pod>::builder(&self.server.client, PODS)
            .index("node", |pod| vec![pod.spec.node_name.clone()])
            .backoff(Duration::from_millis(1), Duration::from_millis(5))
            .on_event(move |delta| {
                let word = match delta {
                    Delta::Added(_) => "added",
                    Delta::Updated { .. } => "updated",
                    Delta::Deleted(_) => "deleted",
                };
                seen.lock().unwrap().push(format!("{word} {}", delta.object().meta().name));
                changed.notify_one();
            })
            .start(self.server.shutdown.clone())
    }

    async fn until(&self, what: &[&str]) {
        let wait = async {
            loop {
                if *self.seen.lock().unwrap() == what {
                    return;
                }
                self.changed.notified().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "saw {:?} instead of {what:?}", self.seen.lock().unwrap());
    }
}

#[tokio::test]
async fn follows_list_and_watch() {
    let fixture = Fixture::new();
    fixture.server.will_answer(200, list(5, &[pod("a", 3, "n1"), pod("b", 4, "n2")]));
    let watch = fixture.server.will_stream();
    let reader = fixture.start();
    reader.synced().await;
    fixture.until(&["added a", "added b"]).await;
    // In pieces that end anywhere, two events in one piece.
    let moved = event("MODIFIED", &pod("a", 6, "n2"));
    let (head, tail) = moved.split_at(20);
    watch.send(head.to_owned()).await.unwrap();
    watch.send(tail.to_owned() + &event("ADDED", &pod("c", 7, "n1"))).await.unwrap();
    watch.send(event("DELETED", &pod("b", 8, "n2"))).await.unwrap();
    fixture.until(&["added a", "added b", "updated a", "added c", "deleted b"]).await;
    let names = |node: &str| reader.by_index("node", node).iter().map(|p| p.metadata.name.clone()).collect::<Vec<_>>();
    assert_eq!((names("n1"), names("n2")), (vec!["c".to_owned()], vec!["a".to_owned()]));
    assert_eq!(reader.len(), 2);
    assert_eq!(reader.get("x", "a").unwrap().metadata.resource_version, "6");
    let late: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = Arc::clone(&late);
    reader.on_event(move |delta| sink.lock().unwrap().push(delta.key().name));
    assert_eq!(late.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn resumes_by_version_and_lists_again_when_expired() {
    let fixture = Fixture::new();
    fixture.server.will_answer(200, list(5, &[pod("a", 3, ""), pod("b", 4, "")]));
    let first = fixture.server.will_stream();
    let reader = fixture.start();
    reader.synced().await;
    first.send(event("BOOKMARK", r#"{"metadata":{"resourceVersion":"9"}}"#)).await.unwrap();
    first.send(event("ADDED", &pod("c", 10, ""))).await.unwrap();
    fixture.until(&["added a", "added b", "added c"]).await;
    // The watch breaks; the next one resumes at 10 and is told that 10 is gone; the list then differs.
    let second = fixture.server.will_stream();
    fixture.server.will_answer(200, list(20, &[pod("a", 3, ""), pod("c", 15, ""), pod("d", 16, "")]));
    let third = fixture.server.will_stream();
    drop(first);
    second.send(event("ERROR", EXPIRED)).await.unwrap();
    fixture.until(&["added a", "added b", "added c", "deleted b", "updated c", "added d"]).await;
    third.send(event("DELETED", &pod("d", 21, ""))).await.unwrap();
    fixture.until(&["added a", "added b", "added c", "deleted b", "updated c", "added d", "deleted d"]).await;
    let seen = fixture.server.seen();
    let version = |line: &str| line.split("resourceVersion=").nth(1).map(|v| v.split('&').next().unwrap().to_owned());
    assert_eq!(
        seen.iter().map(|l| version(l)).collect::<Vec<_>>(),
        [None, Some("5".into()), Some("10".into()), None, Some("20".into())]
    );
    assert!(seen[1].contains("allowWatchBookmarks=true"));
}

#[tokio::test]
async fn survives_failures_pages_and_unreadable_objects() {
    let fixture = Fixture::new();
    fixture.server.will_answer(500, "starting");
    let page = format!(r#"{{"metadata":{{"resourceVersion":"5","continue":"more"}},"items":[{}]}}"#, pod("a", 1, ""));
    fixture.server.will_answer(200, page);
    fixture.server.will_answer(200, list(5, &[pod("b", 2, "")]));
    fixture.server.will_answer(410, EXPIRED);
    fixture.server.will_answer(200, list(6, &[pod("a", 1, ""), pod("b", 2, "")]));
    let watch = fixture.server.will_stream();
    let _reader = fixture.start();
    fixture.until(&["added a", "added b"]).await;
    watch.send(event("ADDED", r#"{"metadata":{"name":"odd","resourceVersion":"7"},"spec":5}"#)).await.unwrap();
    watch.send(event("ADDED", &pod("c", 8, ""))).await.unwrap();
    fixture.until(&["added a", "added b", "added c"]).await;
    assert!(fixture.server.seen()[2].contains("continue=more"));
}

#[tokio::test]
async fn an_object_made_again_is_two_changes() {
    let fixture = Fixture::new();
    fixture.server.will_answer(200, list(5, &[pod("a", 3, "")]));
    let watch = fixture.server.will_stream();
    let _reader = fixture.start();
    fixture.until(&["added a"]).await;
    watch.send(event("MODIFIED", &pod("a", 6, "").replace(r#""uid":"a""#, r#""uid":"z""#))).await.unwrap();
    fixture.until(&["added a", "deleted a", "added a"]).await;
}

#[tokio::test]
async fn a_pause_ends_when_the_server_is_there_again() {
    let before = FakeServer::start();
    let port = before.client.server().rsplit(':').next().unwrap().parse().unwrap();
    before.shutdown.cancel();
    let client = before.client.clone();
    while !matches!(client.get::<Pod>(&PODS, Some("x"), "a").await, Err(ClientError::Connect { .. })) {
        tokio::task::yield_now().await;
    }
    let hour = Duration::from_secs(3600);
    let reader = Informer::<Pod>::builder(&client, CONFIG_MAPS).backoff(hour, hour).start(CancellationToken::new());
    // Its first list has failed once its failure is counted; then only a new connection can wake it.
    while FAILURES.with(&["list", "configmaps"]).get() == 0 {
        tokio::task::yield_now().await;
    }
    let server = FakeServer::start_at(port);
    server.will_answer(200, pod("a", 1, ""));
    server.will_answer(200, list(5, &[pod("a", 3, "")]));
    client.get::<Pod>(&PODS, Some("x"), "a").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), reader.synced()).await.unwrap();
    assert_eq!(reader.len(), 1);
}
