//! kubelet: runs the pods bound to this node through a CRI runtime and reports how they and the node are.

mod cri;
