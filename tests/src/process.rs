//! Child processes that end with the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A running daemon, killed when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command with its output appended to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log file can be written");
        let errors = file.try_clone().expect("a file can be shared");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        Self { child: child.unwrap_or_else(|e| panic!("cannot start {command:?}: {e}")) }
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        // ended already is fine
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for it to end by itself and returns its exit code; `None` when it was still running after `bound`.
    pub fn wait(&mut self, bound: Duration) -> Option<i32> {
        let deadline = Instant::now() + bound;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nothing uses now, outside the range from which the kernel takes ports for connections: one of those could come
/// before the daemon that the port is for.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    const FIRST: u32 = 11_000;
    const COUNT: u32 = 9_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Tests that run at the same time begin elsewhere.
    let begin = std::process::id() * 97;
    let mut ports = (0..COUNT).map(|_| FIRST + (begin + TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let free =
        ports.find_map(|port| u16::try_from(port).ok().filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()));
    free.expect("a free port")
}

/// Runs a command to its end: standard output, or everything it said when it failed.
///
/// # Errors
/// The command line, its exit status and its words.
pub fn output(command: &mut Command) -> Result<String, String> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if out.status.success() {
        Ok(text.into_owned())
    } else {
        Err(format!("{command:?}: {}: {text}{errors}", out.status))
    }
}

/// Runs a command that must succeed and returns its standard output.
///
/// # Panics
/// With everything it said, when it fails.
pub fn run(command: &mut Command) -> String {
    output(command).unwrap_or_else(|why| panic!("{why}"))
}
