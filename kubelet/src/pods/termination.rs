//! A container's last words: the termination message file, or the end of its log.
//!
//! Bounds are upstream's: 4 KiB of the file, 2 KiB or 80 lines of the log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::beneath;
use crate::cri::labels;
use crate::cri::snapshot::{Container, PodActual, State};
use crate::server::logs;
use crate::status::generate::termination_message_host_path;

const MAX_MESSAGE_BYTES: u64 = 4096;
const MAX_LOG_BYTES: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// Fills the messages of exited containers from their files.
///
/// `logs` is the directory of all pods' logs.
pub fn enrich(actual: &mut PodActual, logs: &Path) {
    for container in actual.containers.iter_mut().filter(|c| c.state == State::Exited) {
        if let Some(message) = last_words(container, logs).filter(|m| !m.is_empty()) {
            container.message = message;
        }
    }
}

fn last_words(container: &Container, logs: &Path) -> Option<String> {
    let file = termination_message_host_path(container).and_then(|path| tail(File::open(path), MAX_MESSAGE_BYTES));
    let from_file = file.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).filter(|m| !m.is_empty());
    let policy = container.annotations.get(labels::TERMINATION_MESSAGE_POLICY).map(String::as_str);
    if from_file.is_some() || policy != Some("FallbackToLogsOnError") || container.exit_code == 0 {
        return from_file;
    }
    let bytes = tail(beneath::file(logs, Path::new(&container.log_path)), 4 * MAX_LOG_BYTES)?;
    Some(log_text(&bytes))
}

/// The last bytes of a file.
fn tail(file: io::Result<File>, max_bytes: u64) -> Option<Vec<u8>> {
    let mut file = file.ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max_bytes))).ok()?;
    let mut bytes = Vec::new();
    file.take(max_bytes).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The text of CRI log lines, cut to the bounds from the end.
fn log_text(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(&logs::render(log, &logs::Options::default())).into_owned();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let text = lines[lines.len().saturating_sub(MAX_LOG_LINES)..].concat();
    let from = text.len().saturating_sub(usize::try_from(MAX_LOG_BYTES).unwrap_or(usize::MAX));
    let from = (from..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn log_lines() {
        let log = b"2026-01-01T00:00:00Z stderr F boom one\n2026-01-01T00:00:00Z stdout P two\n";
        assert_eq!(super::log_text(log), "boom one\ntwo");
    }
}
