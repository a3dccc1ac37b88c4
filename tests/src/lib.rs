//! Black-box tests: the real binaries of `target/release` (or of `HARDWAY_BIN`), real etcd, containerd, kubectl, packets.
//!
//! Contract: knows no daemon's insides. Everything a test starts ends with it; waiting is for conditions, with a bound
//! generous enough for a busy two-core machine.

mod control_plane;
pub mod guarantees;
mod netns;
mod process;
mod raw;
pub mod session;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use control_plane::{ControlPlane, Options, Peer};
pub use netns::Netns;
pub use process::{Process, free_port, output, run};
pub use raw::{Lines, Raw};

/// How long a condition may take to come true on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Directory of the binaries under test.
pub fn bin_dir() -> PathBuf {
    std::env::var_os("HARDWAY_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/release"), PathBuf::from)
}

/// A binary under test.
///
/// # Panics
/// When it was not built.
pub fn bin(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.exists(), "{} is not there: run `make build` first", path.display());
    path
}

/// Asks until the answer is Ok.
///
/// # Panics
/// With the last refusal, when [`PATIENCE`] is over.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    const PAUSE: Duration = Duration::from_millis(100);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(value) => return value,
            Err(why) => assert!(Instant::now() < deadline, "{what} did not happen: {why}"),
        }
        std::thread::sleep(PAUSE);
    }
}
