//! Who owns whom, for every object of the cluster, purely.
//!
//! The graph is told what the informers see and answers whom to look at again. Owners that are referred to but not (yet)
//! seen are *virtual*: somebody must ask the server whether they exist. All links go by uid, so that an object made
//! again under an old name inherits nothing.

use std::collections::{BTreeSet, HashMap};

use apimachinery::meta::ObjectMeta;

use crate::framework::Key;
use crate::views::meta::is_deleting;

/// Keeps an owner until its blocking dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Keeps an owner until its dependents have forgotten it.
pub const ORPHAN: &str = "orphan";

/// Identity of an object.
pub type Uid = String;

/// A reference to an owner, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its identity.
    pub uid: Uid,
    /// Group and version as written.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether the owner's foreground deletion waits for this object.
    pub blocks: bool,
}

/// One object.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Which resource (`group/version/plural` is found by the caller's number); None for virtual nodes.
    pub resource: Option<usize>,
    /// Where it is.
    pub key: Key,
    /// Its group and version, and kind, as far as known from references.
    pub described_as: (String, String),
    /// Its owners.
    pub owners: Vec<Owner>,
    /// What refers to it.
    pub dependents: BTreeSet<Uid>,
    /// Deletion was asked for.
    pub deleting: bool,
    /// It waits for its dependents.
    pub foreground: bool,
    /// It waits for its dependents to forget it.
    pub orphaning: bool,
}

impl Node {
    /// Only known from references.
    pub fn is_virtual(&self) -> bool {
        self.resource.is_none()
    }

    /// Whether it waits for its dependents to go.
    pub fn waits(&self) -> bool {
        self.deleting && self.foreground
    }

    /// Whether its deletion began since the graph saw it.
    pub fn is_behind(&self, latest: &ObjectMeta) -> bool {
        is_deleting(latest) && !self.deleting
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|reference| reference.uid == owner && reference.blocks)
    }
}

/// Whom to look at again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// Candidates for deletion (or owners whose deletion may go on).
    pub delete: Vec<Uid>,
    /// Owners whose dependents are to forget them.
    pub orphan: Vec<Uid>,
    /// Dependents and the owner each names that exists, but in another namespace.
    pub misplaced: Vec<(Uid, Uid)>,
}

impl Wake {
    /// Whom `other` names, too.
    pub fn extend(&mut self, other: Self) {
        self.delete.extend(other.delete);
        self.orphan.extend(other.orphan);
        self.misplaced.extend(other.misplaced);
    }
}

/// All objects.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    /// The kinds of the resources, by their number.
    pub kinds: Vec<String>,
}

impl Graph {
    /// The object with this identity.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// How many objects there are, virtual ones included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Identities of the dependents that keep `owner` from going.
    pub fn blocking_dependents(&self, owner: &Node, uid: &str) -> Vec<(Uid, bool)> {
        owner
            .dependents
            .iter()
            .filter_map(|dependent| Some((dependent, self.nodes.get(dependent)?)))
            .filter(|(_, node)| node.blocks(uid))
            .map(|(dependent, node)| (dependent.clone(), node.waits()))
            .collect()
    }

    /// An object was seen: new, or changed.
    pub fn upsert(&mut self, resource: usize, meta: &ObjectMeta) -> Wake {
        let mut wake = Wake::default();
        let owners = owners_of(meta);
        let (deleting, foreground, orphaning) = (is_deleting(meta), has(meta, FOREGROUND), has(meta, ORPHAN));
        let node = self.nodes.entry(meta.uid.clone()).or_default();
        let before = std::mem::replace(&mut node.owners, owners.clone());
        let was = (node.waits(), node.deleting && node.orphaning, node.is_virtual());
        (node.resource, node.key) = (Some(resource), Key::of(meta));
        let (namespace, dependents) = (meta.namespace.as_str(), node.dependents.clone());
        (node.deleting, node.foreground, node.orphaning) = (deleting, foreground, orphaning);
        if node.waits() && !was.0 {
            wake.delete.extend(node.dependents.iter().cloned());
            wake.delete.push(meta.uid.clone());
        }
        if deleting && orphaning && !was.1 {
            wake.orphan.push(meta.uid.clone());
        }
        if was.2 {
            self.find_misplaced(namespace, &meta.uid, dependents, &mut wake);
        }
        self.relink(meta, &before, &owners, &mut wake);
        if before != owners && !owners.is_empty() && !was.2 {
            wake.delete.push(meta.uid.clone());
        }
        wake
    }

    /// Looks again at those that took an owner, seen only now, for one of their own namespace.
    fn find_misplaced(&self, namespace: &str, owner: &str, dependents: BTreeSet<Uid>, wake: &mut Wake) {
        for uid in dependents.into_iter().filter(|_| !namespace.is_empty()) {
            if self.nodes.get(&uid).is_some_and(|dependent| dependent.key.namespace != namespace) {
                wake.misplaced.push((uid.clone(), owner.to_owned()));
                wake.delete.push(uid);
            }
        }
    }

    /// Moves the links to owners from `before` to `after`; owners that are freed by this are looked at.
    fn relink(&mut self, meta: &ObjectMeta, before: &[Owner], after: &[Owner], wake: &mut Wake) {
        for gone in before.iter().filter(|old| after.iter().all(|new| new.uid != old.uid)) {
            if let Some(owner) = self.nodes.get_mut(&gone.uid) {
                owner.dependents.remove(&meta.uid);
                if gone.blocks && owner.waits() {
                    wake.delete.push(gone.uid.clone());
                }
                if owner.is_virtual() && owner.dependents.is_empty() {
                    self.nodes.remove(&gone.uid);
                }
            }
        }
        for owner in after {
            let unblocked = before.iter().any(|old| old.uid == owner.uid && old.blocks && !owner.blocks);
            let node = self.nodes.entry(owner.uid.clone()).or_insert_with(|| {
                wake.delete.push(owner.uid.clone());
                Node {
                    key: Key::new(&meta.namespace, &owner.name),
                    described_as: (owner.api_version.clone(), owner.kind.clone()),
                    ..Node::default()
                }
            });
            let new = node.dependents.insert(meta.uid.clone());
            let elsewhere = !node.key.namespace.is_empty() && node.key.namespace != meta.namespace;
            if new && !node.is_virtual() && elsewhere {
                wake.misplaced.push((meta.uid.clone(), owner.uid.clone()));
            }
            // The reference may be wrong: the server is asked before anything follows from that.
            let kind = node.resource.and_then(|number| self.kinds.get(number));
            let other_kind = kind.is_some_and(|kind| *kind != owner.kind);
            if new && (elsewhere || other_kind || node.key.name != owner.name) {
                wake.delete.push(meta.uid.clone());
            }
            if unblocked && node.waits() {
                wake.delete.push(owner.uid.clone());
            }
            // Came after its owner had begun to wait for its dependents.
            if node.waits() && before.iter().all(|old| old.uid != owner.uid) {
                wake.delete.push(meta.uid.clone());
            }
        }
    }

    /// An object is gone (or was never there): its dependents lost an owner, its owners a dependent.
    pub fn remove(&mut self, uid: &str) -> Wake {
        let mut wake = Wake::default();
        let Some(node) = self.nodes.remove(uid) else { return wake };
        for owner in &node.owners {
            if let Some(owner_node) = self.nodes.get_mut(&owner.uid) {
                owner_node.dependents.remove(uid);
                if owner_node.waits() {
                    wake.delete.push(owner.uid.clone());
                }
                if owner_node.is_virtual() && owner_node.dependents.is_empty() {
                    self.nodes.remove(&owner.uid);
                }
            }
        }
        wake.delete.extend(node.dependents);
        wake
    }
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().any(|name| name == finalizer)
}

/// The owners in an object's metadata.
pub fn owners_of(meta: &ObjectMeta) -> Vec<Owner> {
    meta.owner_references
        .iter()
        .map(|owner| Owner {
            uid: owner.uid.clone(),
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            blocks: owner.block_owner_deletion == Some(true),
        })
        .collect()
}
