//! The kube-apiserver daemon.
fn main() {}
