//! The process of a pod sandbox: holds the pod's namespaces, reaps orphans, ends at SIGTERM or SIGINT.

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

fn main() {
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGCHLD, SIGINT, SIGTERM]) else {
        std::process::exit(1);
    };
    for signal in signals.forever() {
        if signal != SIGCHLD {
            return;
        }
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
    }
}
