//! Writes what an origin did to the target: SQL statements, the apply transaction, DDL.

pub mod applier;
mod definition;
pub mod execute;
mod foreign_key;
pub mod literal;
pub mod mapping;
pub mod session;
pub mod statement;
