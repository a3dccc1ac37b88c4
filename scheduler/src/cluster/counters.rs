//! Templates in use, and for each rule that somebody asked about the number of matching pods per node.
//!
//! A rule is matched once per template, not once per pod. Templates live as long as something holds them; counters as
//! long as they have users.

use std::collections::HashMap;
use std::sync::Arc;

use super::nodes::NodeId;
use crate::model::template::{NamespaceLabels, PodMatch, Template};

/// Index of a counter.
pub type CounterId = usize;

/// A template's entry: slot and serial number (slots are reused, serials are not).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TemplateId {
    slot: u32,
    serial: u64,
}

/// Which pods to count: those that every part means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// All must match.
    pub all_of: Vec<PodMatch>,
    /// Leaves out pods whose deletion began.
    pub live_only: bool,
}

impl Rule {
    fn means(&self, t: &Template, namespaces: &NamespaceLabels) -> bool {
        self.all_of.iter().all(|m| m.matches(&t.namespace, &t.labels, namespaces))
    }
}

#[derive(Debug)]
struct Counter {
    rule: Arc<Rule>,
    per_node: Vec<u32>,
    users: u32,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    template: Arc<Template>,
    counters: Vec<CounterId>,
}

/// Sweeping starts at this many templates.
const MIN_SWEEP_TEMPLATES: usize = 256;

/// The table.
#[derive(Debug, Default)]
pub struct Counters {
    slots: usize,
    by_template: HashMap<Arc<Template>, u32>,
    entries: Vec<Option<Entry>>,
    free_entries: Vec<u32>,
    serial: u64,
    sweep_at: usize,
    by_rule: HashMap<Arc<Rule>, CounterId>,
    counters: Vec<Option<Counter>>,
}

impl Counters {
    /// The entry of a template, made when there is none.
    pub fn intern(&mut self, template: &Arc<Template>, namespaces: &NamespaceLabels) -> TemplateId {
        if let Some(slot) = self.by_template.get(template) {
            let serial = self.entries[*slot as usize].as_ref().map_or(0, |e| e.serial);
            return TemplateId { slot: *slot, serial };
        }
        self.sweep();
        self.serial += 1;
        let means = |(id, c): (usize, &Option<Counter>)| {
            c.as_ref().is_some_and(|c| c.rule.means(template, namespaces)).then_some(id)
        };
        let counters = self.counters.iter().enumerate().filter_map(means).collect();
        let entry = Some(Entry { serial: self.serial, template: template.clone(), counters });
        let slot = if let Some(slot) = self.free_entries.pop() {
            self.entries[slot as usize] = entry;
            slot
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        };
        self.by_template.insert(template.clone(), slot);
        TemplateId { slot, serial: self.serial }
    }

    /// The template of an entry. The entry must have come from a pod or class that still holds the template.
    pub fn template(&self, id: TemplateId) -> &Arc<Template> {
        static NONE: std::sync::LazyLock<Arc<Template>> = std::sync::LazyLock::new(Arc::default);
        self.entry(id).map_or(&NONE, |e| &e.template)
    }

    fn entry(&self, id: TemplateId) -> Option<&Entry> {
        self.entries[id.slot as usize].as_ref().filter(|e| e.serial == id.serial)
    }

    /// Drops templates that nothing else holds, when there are twice as many as after the last time.
    fn sweep(&mut self) {
        if self.by_template.len() < self.sweep_at.max(MIN_SWEEP_TEMPLATES) {
            return;
        }
        for (slot, entry) in self.entries.iter_mut().enumerate() {
            // The map's key and the entry hold one each.
            if entry.as_ref().is_some_and(|e| Arc::strong_count(&e.template) <= 2)
                && let Some(e) = entry.take()
            {
                self.by_template.remove(&e.template);
                self.free_entries.push(u32::try_from(slot).unwrap_or(u32::MAX));
            }
        }
        self.sweep_at = self.by_template.len() * 2;
    }

    /// Makes room for this many nodes.
    pub(super) fn resize(&mut self, slots: usize) {
        if slots > self.slots {
            self.slots = slots;
            for c in self.counters.iter_mut().flatten() {
                c.per_node.resize(slots, 0);
            }
        }
    }

    /// Counts a pod of a template in or out.
    pub(super) fn count(&mut self, template: TemplateId, node: NodeId, terminating: bool, by: i32) {
        let Some(entry) = self.entries[template.slot as usize].as_ref() else { return };
        for id in &entry.counters {
            if let Some(c) = &mut self.counters[*id] {
                c.add(node, terminating, by);
            }
        }
    }

    /// Starts counting by a rule, or joins who does.
    pub(super) fn register(
        &mut self,
        rule: Rule,
        namespaces: &NamespaceLabels,
        placed: impl Iterator<Item = (TemplateId, NodeId, bool)>,
    ) -> CounterId {
        if let Some(id) = self.by_rule.get(&rule) {
            if let Some(c) = &mut self.counters[*id] {
                c.users += 1;
            }
            return *id;
        }
        let rule = Arc::new(rule);
        let id = self.counters.iter().position(Option::is_none).unwrap_or_else(|| {
            self.counters.push(None);
            self.counters.len() - 1
        });
        let mut counter = Counter { rule: rule.clone(), per_node: vec![0; self.slots], users: 1 };
        for e in self.entries.iter_mut().flatten().filter(|e| rule.means(&e.template, namespaces)) {
            e.counters.push(id);
        }
        for (template, node, terminating) in placed {
            if self.entries[template.slot as usize].as_ref().is_some_and(|e| e.counters.contains(&id)) {
                counter.add(node, terminating, 1);
            }
        }
        self.by_rule.insert(rule, id);
        self.counters[id] = Some(counter);
        id
    }

    /// Ends one use of a counter.
    pub fn release(&mut self, id: CounterId) {
        let Some(c) = &mut self.counters[id] else { return };
        c.users -= 1;
        if c.users == 0 {
            self.by_rule.remove(&c.rule);
            self.counters[id] = None;
            for e in self.entries.iter_mut().flatten() {
                e.counters.retain(|c| *c != id);
            }
        }
    }

    /// Matching pods on a node.
    pub fn on_node(&self, id: CounterId, node: NodeId) -> i64 {
        self.counters[id].as_ref().and_then(|c| c.per_node.get(node)).map_or(0, |n| i64::from(*n))
    }

    /// Matches all rules anew, with all counts zero: the caller counts all pods again. False when no rule depends on
    /// namespaces' labels, and nothing was done.
    pub(super) fn rematch(&mut self, namespaces: &NamespaceLabels) -> bool {
        let by_namespace = |r: &Rule| r.all_of.iter().any(|m| m.namespace_selector.is_some());
        if !self.counters.iter().flatten().any(|c| by_namespace(&c.rule)) {
            return false;
        }
        for e in self.entries.iter_mut().flatten() {
            e.counters.clear();
        }
        for (id, c) in self.counters.iter_mut().enumerate() {
            let Some(c) = c else { continue };
            c.per_node.fill(0);
            for e in self.entries.iter_mut().flatten().filter(|e| c.rule.means(&e.template, namespaces)) {
                e.counters.push(id);
            }
        }
        true
    }
}

impl Counter {
    fn add(&mut self, node: NodeId, terminating: bool, by: i32) {
        if !(self.rule.live_only && terminating)
            && let Some(n) = self.per_node.get_mut(node)
        {
            *n = n.saturating_add_signed(by);
        }
    }
}
