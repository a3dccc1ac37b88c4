//! Values made of files, and made again when the files change.
//!
//! Contract: nothing polls. Whoever uses the value pays for a look at the files, at most every [`CHECK_EVERY`]. Files that
//! cannot be used when they change leave the previous value in place, with one line in the log per change. A change is a
//! new time, size or inode, so that it is seen too when a mounted Secret swaps its links.

use std::fmt::{Debug, Display};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

/// Files are looked at no more often than this.
pub const CHECK_EVERY: Duration = Duration::from_secs(5);

/// What tells one content of a file from another without reading it: modification time, bytes, inode.
type Stamp = Option<(SystemTime, u64, u64)>;

type Load<T> = Box<dyn Fn() -> Result<T, String> + Send + Sync>;

/// A value that follows its files.
pub struct Reloading<T> {
    what: String,
    paths: Vec<PathBuf>,
    load: Load<T>,
    current: RwLock<(Arc<T>, Vec<Stamp>)>,
    origin: Instant,
    last_check_ms: AtomicU64,
}

impl<T> Debug for Reloading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloading").field("what", &self.what).field("paths", &self.paths).finish_non_exhaustive()
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    };
    paths.iter().map(stamp).collect()
}

impl<T> Reloading<T> {
    /// Loads the value; `what` names it in the log. Without paths it stays as it is.
    ///
    /// # Errors
    /// What `load` says.
    pub fn new<E: Display>(
        what: impl Into<String>,
        paths: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Looked at before reading: a change in between is then seen at the next look.
        let stamps = stamps(&paths);
        let current = RwLock::new((Arc::new(load()?), stamps));
        let load = Box::new(move || load().map_err(|error| error.to_string()));
        Ok(Self { what: what.into(), paths, load, current, origin: Instant::now(), last_check_ms: AtomicU64::new(0) })
    }

    /// The value as the files have it now, give or take [`CHECK_EVERY`].
    pub fn get(&self) -> Arc<T> {
        if !self.paths.is_empty() && self.due() {
            self.reload_if_changed();
        }
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// One caller per [`CHECK_EVERY`] looks.
    fn due(&self) -> bool {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.last_check_ms.load(Ordering::Relaxed);
        now.saturating_sub(last) >= CHECK_EVERY.as_millis() as u64
            && self.last_check_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Looks at the files now; tells whether there is a new value.
    pub fn reload_if_changed(&self) -> bool {
        let seen = stamps(&self.paths);
        if self.current.read().unwrap_or_else(PoisonError::into_inner).1 == seen {
            return false;
        }
        let loaded = (self.load)();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Also after a failure: the same broken files are not read and complained of again.
        current.1 = seen;
        match loaded {
            Ok(value) => {
                current.0 = Arc::new(value);
                tracing::info!(what = self.what, files = ?self.paths, "reloaded");
                true
            }
            Err(error) => {
                tracing::error!(what = self.what, %error, "changed and cannot be used, keeping what was there before");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_its_file_and_survives_garbage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let read = path.clone();
        let load = move || std::fs::read_to_string(&read).unwrap_or_default().parse::<u32>();
        let number = Reloading::new("number", vec![path.clone()], load).unwrap();
        assert!(!number.reload_if_changed());
        std::fs::write(&path, "22").unwrap();
        assert!(number.reload_if_changed());
        assert_eq!(*number.get(), 22);
        std::fs::write(&path, "garbage").unwrap();
        assert!(!number.reload_if_changed());
        assert_eq!(*number.get(), 22);
        // Another file of the same size under the name, as a rename makes it.
        let other = dir.path().join("other");
        std::fs::write(&other, "3333333").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(number.reload_if_changed());
        assert_eq!(*number.get(), 3_333_333);
    }

    #[test]
    fn a_value_that_cannot_be_made_at_first_is_an_error() {
        assert!(Reloading::<()>::new("x", Vec::new(), || Err("no")).is_err());
    }
}
