//! The kube-apiserver's process: flags, logs, `run`, exit code.

use std::process::ExitCode;

use apiserver::config::Config;
use apiserver::flags::{Flags, LEGACY};
use component_base::{daemon, flags, logging};

/// Objects are trees of small pieces, made on one thread and often freed on another: a quarter of a write's CPU with glibc's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's settings, which it looks for under this name: an object is some hundred small pieces, and a thread that may keep
/// only two hundred of a size (the default) hands them back and fetches them again at every request.
// Sound: the name is jemalloc's own for a pointer to constant text that ends with a zero, which this is.
#[allow(unsafe_code)]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 53] = b"tcache_nslots_small_max:2000,lg_tcache_nslots_mul:3\0\0";

fn main() -> ExitCode {
    let flags: Flags = flags::parse("kube-apiserver", LEGACY);
    logging::init(&flags.logging);
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let options = daemon::Options { worker_threads: threads.max(2), ..daemon::Options::default() };
    daemon::main_with("kube-apiserver", options, |shutdown| async move {
        let config = Config::from_flags(&flags)?;
        apiserver::run::run(config, shutdown).await?;
        Ok(())
    })
}
