//! From `main` to exit code: the runtime, the signals, and one clear line when it fails.
//!
//! Guarantees: SIGTERM and SIGINT cancel the token once, a second signal ends the process at once; a panic anywhere ends
//! the process (a daemon never limps); a failed start prints one line with the whole cause and exits 1.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How the runtime is built.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads that run tasks. Two are enough for every daemon but the API server.
    pub worker_threads: usize,
    /// Upper bound of threads for blocking work; they go away when idle.
    pub max_blocking_threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { worker_threads: 2, max_blocking_threads: 16 }
    }
}

/// What only the start needed is given back so long after it (daemons are ready in less than a second), and once more when
/// the first rounds of what is done now and then are over: the bookmarks of watches come right after the first minute.
const STARTED: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(70)];

/// Runs a daemon with the default [`Options`].
pub fn main<F, Fut>(name: &str, run: F) -> ExitCode
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    main_with(name, Options::default(), run)
}

/// Runs a daemon: `run` gets the token that signals cancel, and returns when its work has ended.
pub fn main_with<F, Fut>(name: &str, options: Options, run: F) -> ExitCode
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    bound_allocator_arenas();
    raise_file_limit();
    abort_on_panic(name);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.worker_threads.max(1))
        .max_blocking_threads(options.max_blocking_threads.max(1))
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(name, &anyhow::Error::new(error).context("cannot start threads")),
    };
    let outcome = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(signals(shutdown.clone()));
        tokio::spawn(async {
            for wait in STARTED {
                tokio::time::sleep(wait).await;
                give_back_startup_memory();
            }
        });
        run(shutdown).await
    });
    // Tasks that outlive their daemon's run have nothing left to do; blocking ones get a moment.
    runtime.shutdown_timeout(Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(name, &error),
    }
}

fn failed(name: &str, error: &anyhow::Error) -> ExitCode {
    let words = one_line(error);
    tracing::error!(daemon = name, "{words}");
    // Where no logger is installed the line would be lost.
    if !tracing::event_enabled!(tracing::Level::ERROR) {
        eprintln!("{name}: {words}");
    }
    ExitCode::FAILURE
}

/// The error and its causes; causes that an outer text already quotes are left out.
fn one_line(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if words.is_empty() {
            words = cause;
        } else if !words.contains(&cause) {
            words.push_str(": ");
            words.push_str(&cause);
        }
    }
    words
}

async fn signals(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("cannot listen for signals; stop the daemon with SIGKILL");
        return;
    };
    for received in 0.. {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        if received > 0 {
            tracing::warn!(signal = name, "second signal, exiting at once");
            std::process::exit(1);
        }
        tracing::info!(signal = name, "shutting down");
        shutdown.cancel();
    }
}

fn abort_on_panic(name: &str) {
    let name = name.to_owned();
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("{name}: internal error, please report: {panic}\n{}", std::backtrace::Backtrace::capture());
        std::process::abort();
    }));
}

/// Takes all file descriptors that the hard limit allows: every connection and every watch needs one.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Keeps glibc from making an arena per thread (each may hold tens of MB of freed memory) and from growing its
/// thresholds, so that freed memory goes back to the system.
fn bound_allocator_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only stores integers in the allocator's parameters, takes the allocator's own lock, and is called
    // here before any other thread exists. An unknown parameter makes it return 0 and changes nothing.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 * 1024);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
    }
}

/// Most of the code and constants that were read serve the start only. Their pages are unmapped; what is needed on comes back from the
/// page cache.
fn give_back_startup_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (start, end) in code(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default()) {
        // SAFETY: the range is a mapping of this process of a file, and neither writable nor relocated: its pages are as in the file,
        // from where the next access gets them again. malloc_trim takes the allocator's own lock.
        #[allow(unsafe_code)]
        unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_DONTNEED);
            libc::malloc_trim(0);
        }
    }
}

/// The address ranges of files' code and constants in the text of `/proc/self/maps`. What relocations wrote in the beginning and is
/// read-only since then does not stand at a file's start.
fn code(maps: &str) -> Vec<(usize, usize)> {
    let range = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (range, access, offset, file) = (words.next()?, words.next()?, words.next()?, words.nth(2)?);
        let untouched = access == "r-xp" || (access == "r--p" && offset.bytes().all(|digit| digit == b'0'));
        let (start, end) = range.split_once('-')?;
        let ends = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        (untouched && file.starts_with('/')).then_some(ends)
    };
    maps.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_given_back_and_comes_again() {
        let maps = "1000-2000 r--p 00000000 08:01 5 /bin/x\n2000-4000 r-xp 00001000 08:01 5 /bin/x\n\
                    4000-5000 rwxp 00003000 08:01 5 /bin/x\n5000-6000 r--p 00004000 08:01 5 /bin/x\n6000-7000 r-xp 00000000 00:00 0 [vdso]\n7000-8000 r-xp 00000000 00:00 0\n";
        assert_eq!(code(maps), [(0x1000, 0x2000), (0x2000, 0x4000)]);
        assert!(!code(&std::fs::read_to_string("/proc/self/maps").unwrap()).is_empty());
        give_back_startup_memory();
    }

    #[test]
    fn causes_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read x: {source}")]
        struct Quotes {
            source: std::io::Error,
        }
        let error =
            anyhow::Error::new(Quotes { source: std::io::Error::other("no such file") }).context("cannot start");
        assert_eq!(one_line(&error), "cannot start: cannot read x: no such file");
    }
}
