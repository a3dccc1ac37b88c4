//! Claims of several Services on the same keys, and who wins.
//!
//! Two Services may name the same external address and port, or have the same endpoint; the kernel has room for one entry.
//! Every claim is kept, the smallest value wins (whatever the order in which they came), and a change tells only the keys
//! whose winner is another than before.

use std::collections::BTreeMap;

/// Claims by key.
#[derive(Clone, Debug)]
pub struct Ledger<K, V>(BTreeMap<K, Vec<V>>);

impl<K, V> Default for Ledger<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// Keys with the value before and the value after, which differ.
pub type Differences<K, V> = BTreeMap<K, (Option<V>, Option<V>)>;

impl<K: Ord + Clone, V: Ord + Clone> Ledger<K, V> {
    /// Withdraws and makes claims; costs what it is given, whatever the ledger holds.
    pub fn change(&mut self, old: Vec<(K, V)>, new: Vec<(K, V)>) -> Differences<K, V> {
        let mut touched: Differences<K, V> = BTreeMap::new();
        for (key, value) in new {
            touched.entry(key.clone()).or_insert_with_key(|key| (self.get(key).cloned(), None));
            self.0.entry(key).or_default().push(value);
        }
        for (key, value) in old {
            touched.entry(key.clone()).or_insert_with_key(|key| (self.get(key).cloned(), None));
            if let Some(claims) = self.0.get_mut(&key) {
                if let Some(at) = claims.iter().position(|claim| *claim == value) {
                    claims.swap_remove(at);
                }
                if claims.is_empty() {
                    self.0.remove(&key);
                }
            }
        }
        for (key, (_, now)) in &mut touched {
            *now = self.get(key).cloned();
        }
        touched.retain(|_, (before, now)| before != now);
        touched
    }

    /// The value that wins.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)?.iter().min()
    }

    /// All keys and the values that win.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().filter_map(|(key, claims)| Some((key, claims.iter().min()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_claim_takes_over_when_the_first_goes() {
        let mut ledger = Ledger::default();
        let claim = |value: &'static str| vec![("key", value)];
        assert_eq!(ledger.change(vec![], claim("a"))["key"], (None, Some("a")));
        assert!(ledger.change(vec![], claim("b")).is_empty());
        assert!(ledger.change(claim("a"), claim("a")).is_empty());
        assert_eq!(ledger.change(claim("a"), vec![])["key"], (Some("a"), Some("b")));
        assert_eq!(ledger.change(claim("b"), vec![])["key"], (Some("b"), None));
        assert_eq!(ledger.iter().count(), 0);
    }
}
