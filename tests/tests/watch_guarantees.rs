//! The promises of `tests::guarantees` hold while the API server, etcd and etcd's leader are killed, and the history is
//! compacted, under load; for watchers that list first, that have the objects sent first, that read slowly and that are cut
//! off often.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tests::guarantees::{Change, Seen, Told, violations};
use tests::{ControlPlane, Options, Raw, eventually};

const WRITERS: u64 = 8;
const KEYS_PER_WRITER: u64 = 3;
const WRITES_BETWEEN_FAULTS: usize = 25;
const ROUNDS: usize = 8;
const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";
/// Written when everything else is.
const LAST: &str = "last";
/// Between two connections to a server that is down.
const PAUSE: Duration = Duration::from_millis(100);

/// How a watcher goes about it.
#[derive(Clone, Copy)]
struct Manner {
    /// Has the present objects sent by the watch, in place of a list.
    initial: bool,
    /// The watch's `timeoutSeconds`; it is resumed after it.
    timeout: u64,
    /// Rests after each event.
    rest: Duration,
}

const MANNERS: [Manner; 4] = [
    Manner { initial: false, timeout: 300, rest: Duration::ZERO },
    Manner { initial: true, timeout: 300, rest: Duration::ZERO },
    Manner { initial: false, timeout: 4, rest: Duration::ZERO },
    Manner { initial: true, timeout: 300, rest: Duration::from_millis(30) },
];

/// What all threads share.
#[derive(Default)]
struct Run {
    told: Mutex<Vec<Told>>,
    /// The newest acknowledged revision.
    newest: AtomicU64,
    writers_stop: AtomicBool,
}

impl Run {
    fn tell(&self, told: Told) {
        if let Told::Written(revision, _) = &told {
            self.newest.fetch_max(*revision, Ordering::SeqCst);
        }
        self.told.lock().unwrap().push(told);
    }

    fn acknowledged(&self) -> usize {
        self.told.lock().unwrap().iter().filter(|told| matches!(told, Told::Written(..))).count()
    }
}

fn revision(metadata: &Value) -> u64 {
    metadata["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn value(object: &Value) -> u64 {
    object["data"]["n"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Makes, changes and deletes its objects in turn. What became of an object whose request was not answered is open.
fn write(writer: u64, raw: &Raw, run: &Run) {
    let mut written: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0.. {
        if run.writers_stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("object-{writer}-{}", number % KEYS_PER_WRITER);
        let (path, last) = (format!("{COLLECTION}/{key}"), written.get(&key).copied());
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": key}, "data": {"n": number.to_string()}});
        let deletes = last.is_some() && number / KEYS_PER_WRITER % 4 == 3;
        let answer = match last {
            None => raw.request("POST", COLLECTION, &object),
            Some(_) if deletes => raw.request("DELETE", &path, &Value::Null),
            Some(_) => raw.request("PUT", &path, &object),
        };
        match (answer, last) {
            (Ok((200, _)), Some(last)) if deletes => {
                written.remove(&key);
                run.tell(Told::Deleted(last, key));
            }
            (Ok((200 | 201, object)), _) => {
                let at = revision(&object["metadata"]);
                written.insert(key.clone(), at);
                run.tell(Told::Written(at, Change { key, value: Some(number) }));
            }
            // It is there, or is not, because of a request that was not answered.
            (Ok((409, _)), None) => drop(written.insert(key, 0)),
            (Ok((404, _)), Some(_)) => drop(written.remove(&key)),
            (_, _) => {
                run.tell(Told::Nothing(key));
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// One watcher: where it is, and what it saw.
struct Watcher {
    raw: Raw,
    manner: Manner,
    seen: Vec<Seen>,
    /// Where it resumes; `None` when it must begin anew.
    place: Option<u64>,
}

impl Watcher {
    fn is_done(&self) -> bool {
        match self.seen.last() {
            Some(Seen::Event(_, change)) => change.key == LAST,
            Some(Seen::List(_, objects)) => objects.contains_key(LAST),
            _ => false,
        }
    }

    fn run(mut self) -> Vec<Seen> {
        while !self.is_done() {
            if self.place.is_none() && !self.manner.initial {
                self.list();
            } else {
                self.watch();
            }
            std::thread::sleep(PAUSE);
        }
        self.seen
    }

    fn saw(&mut self, revision: u64, seen: Seen) {
        self.place = Some(revision);
        self.seen.push(seen);
    }

    fn list(&mut self) {
        let Ok((200, list)) = self.raw.request("GET", COLLECTION, &Value::Null) else { return };
        let items = list["items"].as_array().unwrap();
        let objects = items.iter().map(|item| (name(item), (revision(&item["metadata"]), value(item)))).collect();
        let at = revision(&list["metadata"]);
        self.saw(at, Seen::List(at, objects));
    }

    fn watch(&mut self) {
        let from = match self.place {
            Some(place) => format!("resourceVersion={place}"),
            None => "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
        };
        let timeout = self.manner.timeout;
        let path = format!("{COLLECTION}?watch=1&allowWatchBookmarks=true&timeoutSeconds={timeout}&{from}");
        let Ok(lines) = self.raw.stream(&path) else { return };
        let mut initial = BTreeMap::new();
        for line in lines {
            let object = &line["object"];
            let at = revision(&object["metadata"]);
            let is_deletion = match line["type"].as_str() {
                Some("ADDED" | "MODIFIED") => false,
                Some("DELETED") => true,
                Some("BOOKMARK") => {
                    let seen = if self.place.is_some() {
                        Seen::Bookmark(at)
                    } else {
                        Seen::List(at, std::mem::take(&mut initial))
                    };
                    self.saw(at, seen);
                    // The last write was there when it began anew: nothing more will come.
                    if self.is_done() {
                        return;
                    }
                    continue;
                }
                // An error event, or a Status in place of a stream: its place is gone, or the server is not ready.
                _ => {
                    let code = [&line["code"], &object["code"]].into_iter().find_map(Value::as_u64);
                    self.place = self.place.filter(|_| code != Some(410));
                    return;
                }
            };
            if self.place.is_none() {
                initial.insert(name(object), (at, value(object)));
                continue;
            }
            let change = Change { key: name(object), value: (!is_deletion).then(|| value(object)) };
            self.saw(at, Seen::Event(at, change));
            std::thread::sleep(self.manner.rest);
            if self.is_done() {
                return;
            }
        }
    }
}

/// What is done to a control plane with one etcd, in turn.
fn harm(plane: &mut ControlPlane, round: usize, newest: u64) {
    match round % 4 {
        0 => {
            plane.kill_api();
            plane.start_api();
        }
        1 => {
            plane.kill_etcd();
            plane.start_etcd();
        }
        2 => plane.compact(newest),
        _ => {
            // What was before is gone from etcd and from the server's memory.
            plane.kill_api();
            plane.compact(newest);
            plane.kill_etcd();
            plane.start_etcd();
            plane.start_api();
        }
    }
    plane.wait_ready();
}

/// What is done to one with three members, in turn: the leader falls, and comes back with the next harm.
fn harm_leaders(plane: &mut ControlPlane, round: usize, newest: u64) {
    plane.start_etcd();
    match round % 3 {
        0 => plane.kill_etcd_leader(),
        1 => {
            plane.kill_etcd_leader();
            plane.kill_api();
            plane.start_api();
        }
        _ => {
            plane.compact(newest);
            plane.kill_etcd_leader();
        }
    }
    plane.wait_ready();
}

#[test]
fn watchers_are_told_everything_once_and_in_order() {
    play(Options::default(), harm);
}

#[test]
fn a_change_of_etcds_leader_is_not_seen_by_watchers() {
    play(Options { more_etcd_members: 2, ..Options::default() }, harm_leaders);
}

fn play(options: Options, harm: fn(&mut ControlPlane, usize, u64)) {
    let mut plane = ControlPlane::start(options);
    let run = Arc::new(Run::default());
    let watchers: Vec<_> = MANNERS
        .into_iter()
        .map(|manner| {
            let watcher = Watcher { raw: plane.raw(), manner, seen: Vec::new(), place: None };
            std::thread::spawn(move || watcher.run())
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (raw, run) = (plane.raw(), Arc::clone(&run));
            std::thread::spawn(move || write(writer, &raw, &run))
        })
        .collect();
    for round in 0..ROUNDS {
        let enough = run.acknowledged() + WRITES_BETWEEN_FAULTS;
        eventually("acknowledged writes", || match run.acknowledged() {
            n if n >= enough => Ok(()),
            n => Err(format!("{n} of {enough}; {}", plane.log("apiserver.log"))),
        });
        harm(&mut plane, round, run.newest.load(Ordering::SeqCst));
    }
    run.writers_stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": LAST}, "data": {"n": "0"}});
    let (_, last) = plane.raw().request("POST", COLLECTION, &last).unwrap();
    run.tell(Told::Written(revision(&last["metadata"]), Change { key: LAST.to_owned(), value: Some(0) }));
    eventually("the watchers reach the last write", || {
        watchers.iter().all(|watcher| watcher.is_finished()).then_some(()).ok_or_else(|| plane.log("apiserver.log"))
    });
    let seen: Vec<Vec<Seen>> = watchers.into_iter().map(|watcher| watcher.join().unwrap()).collect();
    let told = run.told.lock().unwrap().clone();
    let count = |wanted: fn(&Seen) -> bool| seen.iter().flatten().filter(|seen| wanted(seen)).count();
    println!(
        "{} writes acknowledged; {} events, {} lists, {} bookmarks seen",
        run.acknowledged(),
        count(|seen| matches!(seen, Seen::Event(..))),
        count(|seen| matches!(seen, Seen::List(..))),
        count(|seen| matches!(seen, Seen::Bookmark(_)))
    );
    let found = violations(&told, &seen);
    assert!(found.is_empty(), "{found:#?}");
}
