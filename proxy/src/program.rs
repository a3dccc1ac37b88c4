//! Running the packet filter's programs, and the words for what goes wrong with them.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Why rules are not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The program is missing.
    #[error("cannot run {program}: {source} (is its package installed?)")]
    Run {
        /// Which.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// The program refuses.
    #[error("{program} refuses: {words}{hint}")]
    Refused {
        /// Which.
        program: String,
        /// What it said.
        words: String,
        /// What is probably missing.
        hint: String,
    },
    /// The kernel refuses.
    #[error("the kernel refuses to {what}: {source}")]
    Kernel {
        /// What it was asked for.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs a program with `input`; returns what it prints.
///
/// # Errors
/// When it cannot be run, or with its own words when it fails.
pub async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, WriteError> {
    let failed = |source| WriteError::Run { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // a program that ended early says why by itself
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(WriteError::Refused { program: program.to_owned(), words, hint: String::new() })
}
