//! Bytes of the binlog to events and typed rows, for both servers.

pub mod ddl;
pub mod event;
pub mod json;
