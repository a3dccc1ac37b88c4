//! kube-proxy: parse, log, run.

use std::process::ExitCode;

use component_base::{daemon, flags as base_flags, logging};
use proxy::flags::{Flags, LEGACY};

fn main() -> ExitCode {
    let flags: Flags = base_flags::parse("kube-proxy", LEGACY);
    logging::init(&flags.logging);
    daemon::main("kube-proxy", |shutdown| async move {
        let only_write = !flags.write_config_to.is_empty();
        let config = proxy::config::Config::from_flags(flags)?;
        if only_write {
            return Ok(());
        }
        proxy::run::run(config, shutdown).await?;
        Ok(())
    })
}
