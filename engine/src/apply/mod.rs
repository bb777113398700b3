//! Writes what an origin did to the target: SQL statements, the apply transaction, DDL.

pub mod applier;
mod careful;
pub mod column_set;
mod definition;
mod emptying;
pub mod encode;
pub mod execute;
mod explain;
mod foreign_key;
mod guard;
mod huge;
pub(crate) mod image;
pub(crate) mod lane;
pub(crate) mod lanes;
pub mod literal;
mod locking;
pub mod mapping;
pub mod prepare;
pub mod row_events;
pub mod session;
mod settle;
pub mod statement;
mod stored_key;
