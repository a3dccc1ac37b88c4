//! Which nodes changed, in order, so that a reader catches up by looking at those only. Bounded: who is too far behind
//! looks at all nodes.

use super::nodes::NodeId;

/// The log keeps at least this many changes.
const MIN_KEPT_CHANGES: usize = 1024;

/// The log.
#[derive(Debug, Default)]
pub struct ChangeLog {
    base: u64,
    touched: Vec<NodeId>,
}

impl ChangeLog {
    /// Notes a change. `slots` is the number of node slots there are: a log longer than a few rounds is not worth keeping.
    pub fn touch(&mut self, node: NodeId, slots: usize) {
        self.touched.push(node);
        let keep = (slots * 2).max(MIN_KEPT_CHANGES);
        if self.touched.len() > keep * 2 {
            let drop = self.touched.len() - keep;
            self.touched.drain(..drop);
            self.base += drop as u64;
        }
    }

    /// The position after the newest change.
    pub fn position(&self) -> u64 {
        self.base + self.touched.len() as u64
    }

    /// The changes since a position, or `None` when they are no longer kept.
    pub fn since(&self, position: u64) -> Option<&[NodeId]> {
        let skip = usize::try_from(position.checked_sub(self.base)?).ok()?;
        self.touched.get(skip..)
    }
}
