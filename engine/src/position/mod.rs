//! Positions in a server's binlog, and where they are kept.
//!
//! A [`LogPos`] orders the events of one server's log totally. GTIDs order only partly and are kept
//! beside it ([`crate::gtid`]). The marker row at the target is the truth ([`marker`]); the engine's
//! own store ([`store`]) is a quicker, richer copy of it that is never believed over the marker.

mod log_pos;
pub mod marker;
pub mod operate;
pub mod overflow;
pub(crate) mod own_log;
pub mod reconcile;
pub mod store;

pub use log_pos::{LogName, LogPos};
