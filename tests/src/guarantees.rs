//! What etcd promises its watchers, checked on what watchers of the API server saw: ordered, unique, atomic, reliable,
//! resumable, bookmarkable; and that no acknowledged write is lost. Pure.
//!
//! Every revision changes one object here, so that atomic means: one revision, one event, the same for everybody.

use std::collections::{BTreeMap, BTreeSet};

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Name.
    pub key: String,
    /// What was written; `None` when the object was deleted.
    pub value: Option<u64>,
}

/// What a writer was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The write has this revision.
    Written(u64, Change),
    /// The object, last written at this revision, is gone.
    Deleted(u64, String),
    /// No answer came: the object may be as before or not.
    Nothing(String),
}

/// What a watcher saw, in its order. It resumes where it was until it lists anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All objects at a revision: by key the revision and the value.
    List(u64, BTreeMap<String, (u64, u64)>),
    /// A change at a revision.
    Event(u64, Change),
    /// Nothing is missing up to this revision.
    Bookmark(u64),
}

/// What happened, as far as anybody knows.
#[derive(Default)]
struct History {
    changes: BTreeMap<u64, Change>,
    violations: Vec<String>,
}

impl History {
    fn learn(&mut self, revision: u64, change: &Change) {
        let known = self.changes.entry(revision).or_insert_with(|| change.clone());
        if known != change {
            let text = format!("atomic: revision {revision} is {known:?} to one and {change:?} to another");
            self.violations.push(text);
        }
    }

    fn of(told: &[Told], watchers: &[Vec<Seen>]) -> Self {
        let mut history = Self::default();
        for told in told {
            if let Told::Written(revision, change) = told {
                history.learn(*revision, change);
            }
        }
        for seen in watchers.iter().flatten() {
            match seen {
                Seen::Event(revision, change) => history.learn(*revision, change),
                Seen::List(_, objects) => {
                    for (key, (revision, value)) in objects {
                        history.learn(*revision, &Change { key: key.clone(), value: Some(*value) });
                    }
                }
                Seen::Bookmark(_) => {}
            }
        }
        history
    }

    /// The objects at a revision.
    fn at(&self, revision: u64) -> BTreeMap<String, (u64, u64)> {
        let mut objects = BTreeMap::new();
        for (at, Change { key, value }) in self.changes.range(..=revision) {
            match value {
                Some(value) => drop(objects.insert(key.clone(), (*at, *value))),
                None => drop(objects.remove(key)),
            }
        }
        objects
    }
}

/// What lists may say otherwise than the history, which knows nothing of deletions that no watcher saw.
struct Excuses<'t> {
    /// Objects whose fate was not told.
    open: BTreeSet<&'t str>,
    /// Objects that are gone, with their last revision.
    deleted: BTreeSet<(&'t str, u64)>,
}

impl<'t> Excuses<'t> {
    fn of(told: &'t [Told]) -> Self {
        let mut excuses = Self { open: BTreeSet::new(), deleted: BTreeSet::new() };
        for told in told {
            match told {
                Told::Nothing(key) => drop(excuses.open.insert(key)),
                Told::Deleted(written, key) => drop(excuses.deleted.insert((key, *written))),
                Told::Written(..) => {}
            }
        }
        excuses
    }

    fn covers(&self, key: &str, wanted: Option<&(u64, u64)>, listed: Option<&(u64, u64)>) -> bool {
        let is_deleted = wanted.is_some_and(|(at, _)| self.deleted.contains(&(key, *at)));
        self.open.contains(key) || listed.is_none() && is_deleted
    }
}

/// What a watcher knows at its end: the revision of each object.
fn last_view(seen: &[Seen]) -> BTreeMap<&str, u64> {
    let mut view = BTreeMap::new();
    for seen in seen {
        match seen {
            Seen::List(_, objects) => view = objects.iter().map(|(key, (at, _))| (key.as_str(), *at)).collect(),
            Seen::Event(at, Change { key, value: Some(_) }) => drop(view.insert(key.as_str(), *at)),
            Seen::Event(_, Change { key, value: None }) => drop(view.remove(key.as_str())),
            Seen::Bookmark(_) => {}
        }
    }
    view
}

/// Every way in which what was told and seen breaks a promise; empty when none does.
pub fn violations(told: &[Told], watchers: &[Vec<Seen>]) -> Vec<String> {
    let history = History::of(told, watchers);
    let mut found = history.violations.clone();
    let excuses = Excuses::of(told);
    let acknowledged = told.iter().filter_map(|told| if let Told::Written(at, _) = told { Some(*at) } else { None });
    let last = acknowledged.max().unwrap_or_default();
    for (number, seen) in watchers.iter().enumerate() {
        let tell = |what: String| format!("watcher {number}: {what}");
        found.extend(watcher(&history, seen, last, &excuses).into_iter().map(tell));
        let view = last_view(seen);
        let undone = excuses.deleted.iter().filter(|(key, written)| view.get(key) == Some(written));
        found.extend(undone.map(|(key, at)| tell(format!("lost: {key}, written at {at}, was deleted and is there"))));
    }
    found
}

fn watcher(history: &History, seen: &[Seen], last: u64, excuses: &Excuses) -> Vec<String> {
    let mut found = Vec::new();
    // Everything up to here was seen.
    let mut place = 0;
    for seen in seen {
        let (revision, next) = match seen {
            Seen::List(revision, objects) => {
                found.extend(differences(&history.at(*revision), objects, *revision, excuses));
                if *revision < place {
                    found.push(format!("reliable: listed {revision} after it had been at {place}"));
                }
                place = *revision;
                continue;
            }
            Seen::Event(revision, _) if *revision == place => {
                found.push(format!("unique: revision {revision} came twice"));
                continue;
            }
            Seen::Event(revision, _) if *revision < place => {
                found.push(format!("ordered: revision {revision} came after {place}"));
                continue;
            }
            Seen::Bookmark(revision) if *revision < place => {
                found.push(format!("bookmarkable: a bookmark at {revision} after {place}"));
                continue;
            }
            Seen::Event(revision, _) => (*revision, *revision),
            Seen::Bookmark(revision) => (*revision, revision + 1),
        };
        let missed = history.changes.range(place + 1..next);
        found.extend(missed.map(|(at, change)| format!("reliable: {change:?} at {at} was not seen before {seen:?}")));
        place = revision;
    }
    if place < last {
        found.push(format!("reliable: it ended at {place}, before the acknowledged {last}"));
    }
    found
}

fn differences(
    wanted: &BTreeMap<String, (u64, u64)>,
    listed: &BTreeMap<String, (u64, u64)>,
    revision: u64,
    excuses: &Excuses,
) -> Vec<String> {
    let keys: BTreeSet<&String> = wanted.keys().chain(listed.keys()).collect();
    let differs = |key: &&&String| {
        let (wanted, listed) = (wanted.get(**key), listed.get(**key));
        wanted != listed && !excuses.covers(key, wanted, listed)
    };
    let tell = |key: &String| {
        let (wanted, listed) = (wanted.get(key), listed.get(key));
        format!("lost: the list at {revision} has {listed:?} of {key} in place of {wanted:?}")
    };
    keys.iter().filter(differs).map(|key| tell(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<u64>) -> Change {
        Change { key: key.to_owned(), value }
    }

    fn event(revision: u64, key: &str, value: Option<u64>) -> Seen {
        Seen::Event(revision, change(key, value))
    }

    fn list(revision: u64, objects: &[(&str, u64, u64)]) -> Seen {
        Seen::List(revision, objects.iter().map(|(key, at, value)| ((*key).to_owned(), (*at, *value))).collect())
    }

    fn told() -> Vec<Told> {
        vec![
            Told::Written(3, change("a", Some(1))),
            Told::Written(5, change("b", Some(2))),
            Told::Deleted(3, "a".to_owned()),
            Told::Written(9, change("b", Some(3))),
        ]
    }

    fn whole() -> Vec<Seen> {
        vec![
            list(3, &[("a", 3, 1)]),
            event(5, "b", Some(2)),
            Seen::Bookmark(5),
            event(7, "a", None),
            Seen::Bookmark(8),
            event(9, "b", Some(3)),
        ]
    }

    #[test]
    fn what_keeps_all_promises_is_found_good() {
        let relisted = vec![list(2, &[]), event(3, "a", Some(1)), list(8, &[("b", 5, 2)]), event(9, "b", Some(3))];
        assert_eq!(violations(&told(), &[whole(), relisted]), Vec::<String>::new());
    }

    #[test]
    fn every_planted_violation_is_found() {
        type Plant = fn(&mut Vec<Seen>);
        let plants: [(&str, Plant); 9] = [
            ("ordered", |seen| seen.swap(1, 3)),
            ("unique", |seen| seen.insert(2, event(5, "b", Some(2)))),
            ("atomic", |seen| seen[1] = event(5, "b", Some(7))),
            ("reliable", |seen| drop(seen.remove(1))),
            ("reliable", |seen| drop(seen.pop())),
            ("reliable", |seen| seen.insert(4, list(5, &[("a", 3, 1), ("b", 5, 2)]))),
            ("bookmarkable", |seen| seen[4] = Seen::Bookmark(6)),
            ("reliable", |seen| seen[2] = Seen::Bookmark(8)),
            ("lost", |seen| seen.push(list(9, &[]))),
        ];
        for (promise, plant) in plants {
            let mut broken = whole();
            plant(&mut broken);
            let found = violations(&told(), &[whole(), broken]);
            assert!(found.iter().any(|what| what.contains(promise)), "{promise}: {found:?}");
        }
    }

    #[test]
    fn a_deletion_may_be_seen_by_its_absence_and_must_not_be_undone() {
        let mut told = told();
        let absent = vec![list(3, &[("a", 3, 1)]), list(8, &[("b", 5, 2)]), event(9, "b", Some(3))];
        assert_eq!(violations(&told, std::slice::from_ref(&absent)), Vec::<String>::new());
        let undone = vec![list(5, &[("a", 3, 1), ("b", 5, 2)]), event(9, "b", Some(3))];
        assert!(violations(&told, &[undone])[0].contains("lost: a"));
        told.remove(2);
        assert!(violations(&told, std::slice::from_ref(&absent))[0].contains("lost: the list at 8"));
        told.push(Told::Nothing("a".to_owned()));
        assert_eq!(violations(&told, &[absent]), Vec::<String>::new());
    }
}
