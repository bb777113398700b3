//! What `twinlog bench` is made of: two masters to measure on, a load, contenders, figures, a report.
//!
//! Every contender gets the same servers with the same rows and settings, in turns within one run,
//! because the speed of a machine changes from minute to minute: only ratios within a run count.

pub mod arena;
pub mod drain;
pub mod engine;
pub mod joined;
pub mod lag;
pub mod load;
pub mod machine;
pub mod marker_bytes;
pub mod master;
pub mod native;
pub mod own;
pub mod page;
pub mod progress;
pub mod spread;
pub mod stages;
pub mod write;

use std::sync::Arc;

use serde::Serialize;

use crate::sandbox::ServerKind;
use arena::{ArenaOptions, Settings};
use load::LoadOptions;
use machine::Machine;
use own::OwnServers;

/// Where a benchmark measures.
#[derive(Debug, Clone)]
pub enum Place {
    /// On two throwaway servers.
    Throwaway(ArenaOptions),
    /// On two that are there anyway.
    Own(Arc<OwnServers>),
}

/// What a benchmark ran on, and how.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// When it began, UTC.
    pub date: String,
    /// twinlog's version.
    pub twinlog_version: String,
    /// Whether twinlog was built with optimisations.
    pub optimised: bool,
    /// Which servers.
    pub server: ServerKind,
    /// Their version.
    pub server_version: String,
    /// The machine.
    pub machine: Machine,
    /// What was written.
    pub load: LoadOptions,
    /// Settings of servers and engines.
    pub settings: Settings,
}

impl Setting {
    /// Now, on this machine.
    #[must_use]
    pub fn now(
        server: ServerKind,
        server_version: &str,
        load: &LoadOptions,
        settings: Settings,
    ) -> Self {
        Self {
            date: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            twinlog_version: env!("CARGO_PKG_VERSION").to_owned(),
            optimised: !cfg!(debug_assertions),
            server,
            server_version: server_version.to_owned(),
            machine: Machine::this(),
            load: load.clone(),
            settings,
        }
    }
    /// Now, at servers that are there anyway.
    #[must_use]
    pub fn of_own(own: &OwnServers, load: &LoadOptions) -> Self {
        let kind = own.masters()[0].kind;
        Self::now(kind, &own.version(), load, own.settings())
    }

    /// Whether the servers were there anyway.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.settings.is_own()
    }
}
