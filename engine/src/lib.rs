//! twinlog: keeps two MySQL or MariaDB masters, both of which take writes, in agreement.
//!
//! One way leads through this crate, and [`replicator`] shows it: a [`source`] streams a master's
//! binlog, [`decode`] turns bytes into events and typed rows, [`assemble`] makes whole transactions
//! of them, [`origin`] keeps what this cluster's engines wrote from going round, [`group`] gathers
//! transactions, [`apply`] writes them to the target and [`position`] remembers how far it came.
//! [`conflict`] says which writes were concurrent. See `docs/architecture.md` for the map.

mod agreement;
mod ahead;
mod answer;
pub mod apply;
pub mod assemble;
mod backoff;
pub mod barrier;
pub mod clock;
pub mod config;
pub mod conflict;
pub mod connection;
pub mod decode;
pub mod error;
pub mod failpoint;
pub mod group;
pub mod gtid;
pub mod init;
mod lineage;
mod link;
pub mod log_reader;
pub mod monitor;
pub mod origin;
pub mod own_schema;
mod pipeline;
pub mod position;
pub mod preflight;
pub mod replicator;
pub mod row;
mod row_event;
pub mod schema;
pub mod source;
pub mod spill;
pub mod stages;
pub mod status;
mod tailer;
pub mod transaction;
pub mod xa;

pub use error::{Disposition, Error, Result};
