//! The kubelet's process: flags, logs, `run`, exit code.

use std::process::ExitCode;

use component_base::{daemon, flags, logging};
use kubelet::config::Config;
use kubelet::flags::{Flags, LEGACY};

fn main() -> ExitCode {
    let flags: Flags = flags::parse("kubelet", LEGACY);
    logging::init(&flags.logging);
    daemon::main("kubelet", |shutdown| async move {
        let config = Config::new(&flags)?;
        kubelet::run::run(config, shutdown).await?;
        Ok(())
    })
}
