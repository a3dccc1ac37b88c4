//! Waits for changes in one directory.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, WatchFlags};
use tokio::io::unix::AsyncFd;

/// A watch on a directory; dropping it ends it.
pub struct WatchDir(AsyncFd<OwnedFd>);

impl WatchDir {
    /// Watches for the given changes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(path: &Path, flags: WatchFlags) -> std::io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, path, flags)?;
        // The successor of this call is unsafe; an owned descriptor keeps its promise.
        #[allow(deprecated)]
        AsyncFd::new(fd).map(Self)
    }

    /// Returns when something happened since the last call.
    pub async fn changed(&self) {
        let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
        let mut buffer = [0; 4096];
        // What happened does not matter: the directory is read again.
        while rustix::io::read(self.0.get_ref(), &mut buffer).is_ok_and(|n| n > 0) {}
        ready.clear_ready();
    }
}
