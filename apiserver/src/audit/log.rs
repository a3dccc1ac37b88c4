//! The audit log's file: one line an event, renamed when it grows too large, old ones removed by number and age.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde_json::Value;

/// What the flags say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// `-` is standard output.
    pub path: String,
    /// JSON lines, or upstream's older text form.
    pub legacy: bool,
    /// Requests do not wait for the file.
    pub batch: bool,
    /// Requests fail when their first event cannot be written.
    pub strict: bool,
    /// Lines that may wait in batch mode.
    pub max_waiting: usize,
    /// Largest event, where there is a bound.
    pub max_event_bytes: Option<usize>,
    /// Days after which rotated files go; 0: never.
    pub max_age_days: u32,
    /// Rotated files that stay; 0: all.
    pub max_backups: u32,
    /// Size at which the file is rotated; 0: 100 MB.
    pub max_megabytes: u32,
}

struct Rotating {
    config: LogConfig,
    file: Box<dyn Write + Send>,
    bytes: u64,
}

impl Rotating {
    fn open(config: LogConfig) -> io::Result<Self> {
        if config.path == "-" {
            return Ok(Self { config, file: Box::new(io::stdout()), bytes: 0 });
        }
        let path = Path::new(&config.path);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file: File = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { config, file: Box::new(file), bytes })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let limit = u64::from(if self.config.max_megabytes == 0 { 100 } else { self.config.max_megabytes }) << 20;
        if self.config.path != "-" && self.bytes > 0 && self.bytes + line.len() as u64 > limit {
            let path = PathBuf::from(&self.config.path);
            std::fs::rename(&path, backup_path(&path, jiff::Timestamp::now()))?;
            *self = Self::open(self.config.clone())?;
            self.remove_old(&path)?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn remove_old(&self, path: &Path) -> io::Result<()> {
        let (start, end) = affixes(path);
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut old: Vec<PathBuf> = std::fs::read_dir(dir)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let between = name.strip_prefix(&start).and_then(|rest| rest.strip_suffix(&end));
                between.is_some_and(|between| between.starts_with(|c: char| c.is_ascii_digit()))
            })
            .collect();
        // The time is in the name: the newest come first.
        old.sort_unstable_by(|a, b| b.cmp(a));
        let age = Duration::from_secs(u64::from(self.config.max_age_days) * 24 * 3600);
        let too_old = |path: &Path| {
            let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
            !age.is_zero()
                && modified.is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|passed| passed > age))
        };
        for (at, path) in old.iter().enumerate() {
            let surplus = self.config.max_backups > 0 && at >= self.config.max_backups as usize;
            if surplus || too_old(path) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// `audit-` and `.log`.
fn affixes(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).unwrap_or_default().to_owned();
    let end = path.extension().map_or(String::new(), |extension| format!(".{}", text(Some(extension))));
    (format!("{}-", text(path.file_stem())), end)
}

fn backup_path(path: &Path, now: jiff::Timestamp) -> PathBuf {
    let (start, end) = affixes(path);
    path.with_file_name(format!("{start}{}{end}", now.strftime("%Y-%m-%dT%H-%M-%S%.6f")))
}

/// The log backend.
pub struct Log {
    legacy: bool,
    to: To,
}

enum To {
    File(Mutex<Rotating>),
    Thread { lines: Option<SyncSender<Vec<u8>>>, thread: Option<JoinHandle<()>> },
}

impl Log {
    /// Opens the file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(config: &LogConfig) -> io::Result<Self> {
        let mut file = Rotating::open(config.clone())?;
        if !config.batch {
            return Ok(Self { legacy: config.legacy, to: To::File(Mutex::new(file)) });
        }
        let (lines, waiting) = sync_channel::<Vec<u8>>(config.max_waiting.max(1));
        let thread = std::thread::Builder::new().name("audit-log".to_owned()).spawn(move || {
            for line in waiting {
                if let Err(err) = file.write(&line) {
                    tracing::error!(%err, "Cannot write the audit log");
                }
            }
        })?;
        Ok(Self { legacy: config.legacy, to: To::Thread { lines: Some(lines), thread: Some(thread) } })
    }

    /// Writes an event.
    ///
    /// # Errors
    /// The file cannot be written, or too many lines wait already.
    pub fn write(&self, event: &Value) -> io::Result<()> {
        let line = if self.legacy { legacy(event) } else { format!("{event}\n") };
        match &self.to {
            To::File(file) => file.lock().unwrap_or_else(PoisonError::into_inner).write(line.as_bytes()),
            To::Thread { lines, .. } => match lines {
                Some(lines) => lines.try_send(line.into_bytes()).map_err(io::Error::other),
                None => Ok(()),
            },
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let To::Thread { lines, thread } = &mut self.to {
            lines.take();
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn legacy(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let or = |value: &Value, or: &str| value.as_str().filter(|t| !t.is_empty()).unwrap_or(or).to_owned();
    let groups = |value: &Value| match value.as_array() {
        Some(groups) => groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        None => "\"<none>\"".to_owned(),
    };
    let (user, other) = (&event["user"], &event["impersonatedUser"]);
    let code = event["responseStatus"]["code"].as_u64().map_or("<deferred>".to_owned(), |code| code.to_string());
    let other_groups = match other["groups"].as_array() {
        Some(_) => groups(&other["groups"]),
        None => "\"<lookup>\"".to_owned(),
    };
    format!(
        "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={} as={:?} asgroups={other_groups} user-agent={:?} namespace={:?} uri={:?} response=\"{code}\"\n",
        text(&event["requestReceivedTimestamp"]),
        text(&event["auditID"]),
        text(&event["stage"]),
        text(&event["sourceIPs"][0]),
        text(&event["verb"]),
        or(&user["username"], "<none>"),
        groups(&user["groups"]),
        or(&other["username"], "<self>"),
        text(&event["userAgent"]),
        or(&event["objectRef"]["namespace"], "<none>"),
        text(&event["requestURI"]),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rotates_and_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let config = LogConfig {
            path: path.display().to_string(),
            max_age_days: 1,
            max_backups: 2,
            max_megabytes: 1,
            ..LogConfig::default()
        };
        std::fs::write(dir.path().join("audit-other.log"), "").unwrap();
        let mut file = Rotating::open(config).unwrap();
        let line = vec![b'x'; 700 << 10];
        for _ in 0..5 {
            file.write(&line).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), line.len() as u64);
        // The log, two old ones, and the file that only looks similar.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_batch_is_written_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let path_text = path.display().to_string();
        let config = LogConfig { path: path_text, legacy: true, batch: true, max_waiting: 8, ..LogConfig::default() };
        let log = Log::open(&config).unwrap();
        let event = json!({"auditID": "a", "stage": "ResponseComplete", "user": {"username": "u", "groups": ["g"]},
            "responseStatus": {"code": 200}});
        log.write(&event).unwrap();
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("AUDIT: id=\"a\" stage=\"ResponseComplete\"") && text.contains("groups=\"g\" as=\"<self>\"")
        );
        assert!(text.ends_with("response=\"200\"\n"));
    }
}
