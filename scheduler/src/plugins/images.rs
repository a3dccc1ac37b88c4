//! ImageLocality: prefers nodes that already have the pod's images, weighed by how widespread each image is so that one
//! node does not draw every pod.

use super::MAX_NODE_SCORE;
use crate::model::template::Template;

const MIB: i64 = 1024 * 1024;
const MIN_THRESHOLD_BYTES: i64 = 23 * MIB;
const MAX_CONTAINER_THRESHOLD_BYTES: i64 = 1000 * MIB;

/// Score of a node, given for an image name its size there (if present) and the number of nodes that have it.
pub fn score(template: &Template, total_nodes: usize, state: impl Fn(&str) -> Option<(i64, u32)>) -> i64 {
    let scaled = |(size, nodes): (i64, u32)| {
        let spread = f64::from(nodes) / total_nodes as f64;
        (size as f64 * spread) as i64
    };
    let sum: i64 = template.images.iter().filter_map(|i| state(i)).map(scaled).sum();
    let containers = i64::try_from(template.containers).unwrap_or(1);
    let max = MAX_CONTAINER_THRESHOLD_BYTES * containers;
    MAX_NODE_SCORE * (sum.min(max).max(MIN_THRESHOLD_BYTES) - MIN_THRESHOLD_BYTES) / (max - MIN_THRESHOLD_BYTES).max(1)
}
