//! Sums over topology domains that follow changes of single nodes.

use crate::cluster::nodes::NodeId;
use crate::cluster::topology::{Domain, TopologyId};

/// The sum of what each node contributes to its domain.
#[derive(Debug, Default)]
pub struct Sum {
    /// The topology whose domains these are.
    pub topology: TopologyId,
    /// Sum over all domains.
    pub total: i64,
    at: Vec<Option<(Domain, i64)>>,
    totals: Vec<i64>,
    members: Vec<u32>,
}

impl Sum {
    /// Sums for a topology, with nothing contributed.
    pub fn new(topology: TopologyId) -> Self {
        Self { topology, ..Self::default() }
    }

    /// Replaces a node's contribution.
    pub fn set(&mut self, node: NodeId, part: Option<(Domain, i64)>) {
        if self.at.len() <= node {
            if part.is_none() {
                return;
            }
            self.at.resize(node + 1, None);
        }
        let old = std::mem::replace(&mut self.at[node], part);
        if old == part {
            return;
        }
        if let Some((domain, n)) = old {
            self.totals[domain as usize] -= n;
            self.members[domain as usize] -= 1;
            self.total -= n;
        }
        if let Some((domain, n)) = part {
            let d = domain as usize;
            if self.totals.len() <= d {
                self.totals.resize(d + 1, 0);
                self.members.resize(d + 1, 0);
            }
            self.totals[d] += n;
            self.members[d] += 1;
            self.total += n;
        }
    }

    /// The sum of a domain.
    pub fn of(&self, domain: Domain) -> i64 {
        self.totals.get(domain as usize).copied().unwrap_or(0)
    }

    /// The sums of domains to which any node contributes.
    pub fn domains(&self) -> impl Iterator<Item = i64> {
        self.totals.iter().zip(&self.members).filter(|(_, m)| **m > 0).map(|(t, _)| *t)
    }

    /// True when nothing is contributed.
    pub fn is_zero(&self) -> bool {
        self.totals.iter().all(|t| *t == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contributions_move_between_domains() {
        let mut s = Sum::new(0);
        s.set(0, Some((0, 2)));
        s.set(1, Some((0, 3)));
        s.set(1, Some((1, 4)));
        assert_eq!((s.of(0), s.of(1), s.total), (2, 4, 6));
        s.set(0, None);
        assert_eq!(s.domains().collect::<Vec<_>>(), [4]);
    }
}
