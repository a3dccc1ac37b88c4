//! What `up` and `down` tell a person: one line a step, with the time it took, and in the end why a step failed.

use std::io::Write as _;
use std::time::Instant;

/// A running display on standard error; standard output stays for results.
pub struct Progress {
    begun: Instant,
    terminal: bool,
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        use std::io::IsTerminal as _;
        Self { begun: Instant::now(), terminal: std::io::stderr().is_terminal() }
    }

    /// A step that is done.
    pub fn done(&self, step: &str, outcome: &str) {
        self.clear();
        eprintln!("[{:6.2} s] {step:<24} {outcome}", self.begun.elapsed().as_secs_f64());
    }

    /// What is being waited for, on a terminal only and overwritten by the next line.
    pub fn waiting(&self, step: &str, what: &str) {
        if self.terminal {
            self.clear();
            eprint!("[{:6.2} s] {step:<24} waiting: {what}", self.begun.elapsed().as_secs_f64());
            // a display that cannot be flushed is not worth failing for
            let _ = std::io::stderr().flush();
        }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
    }
}
