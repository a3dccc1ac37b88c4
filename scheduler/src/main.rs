//! kube-scheduler.

use std::process::ExitCode;

use component_base::{daemon, flags, logging};
use scheduler::flags::{Flags, LEGACY};

fn main() -> ExitCode {
    let flags: Flags = flags::parse("kube-scheduler", LEGACY);
    logging::init(&flags.logging);
    daemon::main("kube-scheduler", |shutdown| async move {
        let (config, warnings) = flags.into_config()?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        scheduler::run::run(config, shutdown).await
    })
}
