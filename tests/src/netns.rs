//! A machine's network of its own: a network namespace with one address and a default route.

use std::ffi::OsStr;
use std::process::Command;

use crate::process::{output, run};

/// A network namespace, removed when dropped.
pub struct Netns {
    name: String,
}

/// The address of every such namespace.
pub const ADDRESS: &str = "10.251.0.2";

impl Netns {
    /// Makes one (needs root).
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(name: &str) -> Self {
        // of an earlier run that was killed
        let _ = output(&mut ip(&["netns", "delete", name]));
        run(&mut ip(&["netns", "add", name]));
        let peer = "outside"; // interface names have at most 15 characters
        let inside = |arguments: &[&str]| run(&mut ip(&[&["-n", name], arguments].concat()));
        inside(&["link", "set", "lo", "up"]);
        // both ends stay inside: the namespace needs an address and a route, not the outside
        inside(&["link", "add", "eth0", "type", "veth", "peer", "name", peer]);
        inside(&["address", "add", &format!("{ADDRESS}/24"), "dev", "eth0"]);
        inside(&["link", "set", "eth0", "up"]);
        inside(&["link", "set", peer, "up"]);
        inside(&["route", "add", "default", "via", "10.251.0.1"]);
        Self { name: name.to_owned() }
    }

    /// A command to be run in it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }
}

fn ip(arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(arguments);
    command
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = output(&mut ip(&["netns", "delete", &self.name]));
    }
}
