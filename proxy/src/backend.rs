//! The three ways to make rules, behind one face. Each knows what it wrote last and can write a difference.

use crate::config::Mode;
use crate::core::{Change, Desired, Family};
use crate::program::WriteError;
use crate::settings::Settings;
use crate::{iptables, ipvs, nftables};

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// Everything, whatever is there.
    All(&'a Desired),
    /// A difference to what was written last.
    Changes(&'a [Change]),
}

/// One family's rules in one of the modes.
#[derive(Debug)]
pub enum Backend {
    /// iptables-restore.
    Iptables(iptables::Executor),
    /// nft.
    Nftables(nftables::Executor),
    /// IPVS, with ipset and iptables.
    Ipvs(Box<ipvs::Executor>),
}

impl Backend {
    /// Knows nothing of the kernel's state yet.
    pub fn new(mode: &Mode, family: Family) -> Self {
        match mode {
            Mode::Iptables => Self::Iptables(iptables::Executor::new(family)),
            Mode::Nftables => Self::Nftables(nftables::Executor::new(family)),
            Mode::Ipvs(options) => Self::Ipvs(Box::new(ipvs::Executor::new(family, options.clone()))),
        }
    }

    /// Whether the machine can do it.
    ///
    /// # Errors
    /// What is missing.
    pub async fn is_supported(mode: &Mode, family: Family) -> Result<(), WriteError> {
        match mode {
            Mode::Nftables => nftables::Executor::is_supported(family).await,
            Mode::Ipvs(options) => {
                ipvs::Executor::is_supported(options).await?;
                iptables::Tables(family).is_supported().await
            }
            Mode::Iptables => iptables::Tables(family).is_supported().await,
        }
    }

    /// Whether the next write may be a difference.
    pub fn is_partial(&self) -> bool {
        match self {
            Self::Iptables(executor) => executor.is_partial(),
            Self::Nftables(executor) => executor.is_partial(),
            Self::Ipvs(executor) => executor.is_partial(),
        }
    }

    /// Makes the kernel follow.
    ///
    /// # Errors
    /// What programs or the kernel said; only everything may be written next.
    pub async fn apply(&mut self, settings: &Settings, work: Work<'_>) -> Result<(), WriteError> {
        match self {
            Self::Iptables(executor) => executor.apply(settings, work).await,
            Self::Nftables(executor) => executor.apply(settings, work).await,
            Self::Ipvs(executor) => executor.apply(settings, work).await,
        }
    }

    /// Whether what was written is still there; the next write must be of everything otherwise.
    pub async fn check(&mut self) -> bool {
        match self {
            Self::Iptables(executor) => executor.check().await,
            Self::Nftables(executor) => executor.check().await,
            Self::Ipvs(executor) => executor.check().await,
        }
    }

    /// Removes what modes other than this one left in the kernel; with none, what any left.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest was removed.
    pub async fn cleanup(mode: Option<&Mode>, family: Family) -> Result<(), WriteError> {
        let mut result = Ok(());
        if !matches!(mode, Some(Mode::Nftables)) {
            result = result.and(nftables::Executor::cleanup(family).await);
        }
        if matches!(mode, None | Some(Mode::Nftables)) {
            let tables = iptables::Tables(family);
            if tables.is_supported().await.is_ok() {
                result = result.and(tables.write(&iptables::Ruleset::default()).await);
            }
        }
        if !matches!(mode, Some(Mode::Ipvs(_))) {
            result = result.and(ipvs::Executor::cleanup(family).await);
        }
        result
    }
}
