//! The daemon: parse, log, run, exit code.

use std::process::ExitCode;

use anyhow::Context;
use component_base::{daemon, flags, logging};
use controller_manager::config::{Config, NAME};
use controller_manager::flags::{Flags, LEGACY};
use controller_manager::run::{Serving, run};

fn main() -> ExitCode {
    let flags: Flags = flags::parse(NAME, LEGACY);
    logging::init(&flags.logging);
    daemon::main(NAME, |shutdown| async move {
        let config = Config::from_flags(&flags)?;
        let serving = Serving::bind(&flags.serving, &flags.delegated).await.context("secure port")?;
        run(config, serving, shutdown).await?;
        Ok(())
    })
}
