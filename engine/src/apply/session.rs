//! Session settings of the apply connection. (Being written on the ddl branch.)

use crate::decode::event::Flavor;
use crate::transaction::DdlStatement;

/// Settings for row applying.
#[must_use]
pub fn apply_session(flavor: Flavor, origin_server_id: u32) -> Vec<String> {
    let mut out = vec![
        "SET NAMES utf8mb4".to_owned(),
        "SET time_zone='+00:00', sql_mode='STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO'".to_owned(),
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
        "SET innodb_lock_wait_timeout=5".to_owned(),
    ];
    if flavor == Flavor::MariaDb {
        out.push(format!("SET SESSION server_id={origin_server_id}"));
    }
    out
}

/// Settings for one DDL statement.
#[must_use]
pub fn ddl_session(statement: &DdlStatement, _flavor: Flavor) -> Vec<String> {
    if statement.database.is_empty() {
        Vec::new()
    } else {
        vec![format!("USE `{}`", statement.database)]
    }
}
