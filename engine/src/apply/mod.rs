//! Writes what an origin did to the target: SQL statements, the apply transaction, DDL.

pub mod applier;
mod careful;
mod definition;
pub mod execute;
mod foreign_key;
mod huge;
pub(crate) mod image;
pub mod literal;
mod locking;
pub mod mapping;
pub mod session;
mod settle;
pub mod statement;
