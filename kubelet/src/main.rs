//! kubelet
fn main() {}
