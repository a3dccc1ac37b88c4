//! One run of the mutating plugins over an object, and what decides about the second.
//!
//! Follows upstream: when a webhook or policy changed the object, all mutating plugins run once more; of webhooks and policies
//! only those that allow it and whose object was changed after they saw it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// The state of one request.
#[derive(Default)]
pub struct Round {
    /// This is the second run.
    again: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: bool,
    webhooks: Invoked,
    policies: Invoked,
}

#[derive(Default)]
struct Invoked {
    /// Those that may be invoked again when the object changes.
    ready: BTreeSet<String>,
    /// Those that are to be.
    due: BTreeSet<String>,
    /// The object when the last of them had seen it.
    last: Option<Value>,
}

/// Of which of the two kinds.
#[derive(Clone, Copy)]
pub(super) enum Caller {
    Webhooks,
    Policies,
}

impl Round {
    fn with<T>(&self, caller: Caller, act: impl FnOnce(&mut Invoked, &mut bool) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { wanted, webhooks, policies } = &mut *state;
        match caller {
            Caller::Webhooks => act(webhooks, wanted),
            Caller::Policies => act(policies, wanted),
        }
    }

    /// The second run, if one is wanted.
    pub(in crate::admission) fn second(self) -> Option<Self> {
        let wanted = self.state.lock().unwrap_or_else(PoisonError::into_inner).wanted;
        (wanted && !self.again).then_some(Self { again: true, state: self.state })
    }

    /// 0 or 1, for audit annotations.
    pub(super) fn number(&self) -> u8 {
        u8::from(self.again)
    }

    /// They begin.
    pub(super) fn begin(&self, caller: Caller, object: Option<&Value>) {
        if self.again {
            self.with(caller, |invoked, _| {
                if invoked.last.as_ref() != object {
                    invoked.due.append(&mut invoked.ready);
                }
            });
        }
    }

    /// Whether this one is to be invoked.
    pub(super) fn invokes(&self, caller: Caller, key: &str) -> bool {
        !self.again || self.with(caller, |invoked, _| invoked.due.contains(key))
    }

    /// It was, and may have changed the object.
    pub(super) fn invoked(&self, caller: Caller, key: &str, changed: bool, again_if_needed: bool) {
        self.with(caller, |invoked, wanted| {
            if changed {
                invoked.due.append(&mut invoked.ready);
                *wanted = true;
            }
            if again_if_needed {
                invoked.ready.insert(key.to_owned());
            }
        });
    }

    /// All are done.
    pub(super) fn end(&self, caller: Caller, object: Option<&Value>) {
        self.with(caller, |invoked, wanted| {
            // Only a second run looks at it.
            if *wanted || !invoked.ready.is_empty() {
                invoked.last = object.cloned();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_run() {
        let round = Round::default();
        round.begin(Caller::Webhooks, None);
        round.invoked(Caller::Webhooks, "a", true, true);
        round.invoked(Caller::Webhooks, "b", false, true);
        round.invoked(Caller::Webhooks, "never", true, false);
        round.invoked(Caller::Webhooks, "last", false, true);
        round.end(Caller::Webhooks, Some(&Value::Bool(true)));
        let second = round.second().unwrap();
        second.begin(Caller::Webhooks, Some(&Value::Bool(true)));
        let invokes = |key| second.invokes(Caller::Webhooks, key);
        assert!(invokes("a") && invokes("b") && !invokes("never") && !invokes("last"));
        second.begin(Caller::Webhooks, Some(&Value::Bool(false)));
        assert!(second.invokes(Caller::Webhooks, "last"));
        second.invoked(Caller::Webhooks, "a", true, true);
        assert!(second.second().is_none());
        assert!(Round::default().second().is_none());
    }
}
