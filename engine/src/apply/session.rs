//! Session settings of the connection that writes to the target: for rows, and for one DDL
//! statement as its origin ran it.
//!
//! Both servers take numbers for `sql_mode`, collations and `lc_time_names`, and both nodes of a link
//! have one flavor, so what the log says as a number is set as that number.

use super::row_events;
use crate::config::RowEventPolicy;
use crate::connection::{Identity, NodeConnection};
use crate::decode::ddl::{self, DdlKind, Statement};
use crate::decode::event::{Flavor, LoggedQuery};
use crate::error::Result;

/// `sql_auto_is_null` in Q_FLAGS2.
const FLAG_AUTO_IS_NULL: u32 = 1 << 14;
/// `check_constraint_checks=0`; MariaDB.
const FLAG_NO_CHECK_CONSTRAINTS: u32 = 1 << 15;
/// `explicit_defaults_for_timestamp=1`; MariaDB (MySQL has a status variable of its own for it).
const FLAG_EXPLICIT_DEFAULTS: u32 = 1 << 24;
/// `foreign_key_checks=0`.
const FLAG_NO_FOREIGN_KEYS: u32 = 1 << 26;
/// `unique_checks=0`.
const FLAG_NO_UNIQUE_CHECKS: u32 = 1 << 27;
/// `sql_if_exists=1`; MariaDB.
const FLAG_IF_EXISTS: u32 = 1 << 28;

/// Statements that set up a connection for applying rows, in this order. They also put back all
/// that [`ddl_session`] sets. To be run outside of a transaction; autocommit is off afterwards.
///
/// The account needs `SESSION_VARIABLES_ADMIN` on MySQL; `BINLOG ADMIN` and `BINLOG REPLAY` on
/// MariaDB.
#[must_use]
pub fn apply_session(flavor: Flavor, origin_server_id: u32) -> Vec<String> {
    let mut settings: Vec<&str> = vec![
        // Strict: a value that does not fit is an error here, never a warning. Dates that the
        // origin's looser mode let in are taken as they are; so is 0 in an AUTO_INCREMENT column.
        "sql_mode = 'STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO'",
        // TIMESTAMP values are written in UTC.
        "time_zone = '+00:00'",
        "lc_time_names = 0",
        "timestamp = DEFAULT",
        "auto_increment_increment = DEFAULT",
        "auto_increment_offset = DEFAULT",
        "collation_server = DEFAULT",
        "foreign_key_checks = 1",
        "unique_checks = 1",
        // What an operator may have put into init_connect or the global defaults.
        "sql_auto_is_null = 0",
        "sql_safe_updates = 0",
        "sql_select_limit = DEFAULT",
        "sql_big_selects = 1",
        "completion_type = 0",
        // A client that holds a lock gets its time; then the transaction is repeated.
        "innodb_lock_wait_timeout = 5",
        // Metadata locks: long enough for a short DDL statement of a client.
        "lock_wait_timeout = 60",
        // An idle link is not to lose its connection: seven days.
        "wait_timeout = 604800",
        "net_read_timeout = 600",
        "net_write_timeout = 600",
        "sql_log_bin = 1",
    ];
    match flavor {
        Flavor::MySql => settings.extend([
            "default_collation_for_utf8mb4 = DEFAULT",
            "explicit_defaults_for_timestamp = DEFAULT",
            // The origin decided on keys when it ran the statement; the log has the invisible
            // primary key in full.
            "sql_require_primary_key = 0",
            "sql_generate_invisible_primary_key = 0",
            "innodb_strict_mode = 0",
            // The text of every statement would double the log.
            "binlog_rows_query_log_events = 0",
        ]),
        Flavor::MariaDb => settings.extend([
            "explicit_defaults_for_timestamp = DEFAULT",
            "sql_if_exists = 0",
            // Rows that a looser session of the origin let in.
            "check_constraint_checks = 0",
            "max_statement_time = 0",
            "idle_transaction_timeout = 0",
            "idle_write_transaction_timeout = 0",
            "innodb_strict_mode = 0",
            "binlog_format = 'ROW'",
            "binlog_annotate_row_events = 0",
            // The log would have the statement twice.
            "binlog_alter_two_phase = 0",
        ]),
    }
    let mut statements = vec![
        format!("SET SESSION {}", settings.join(", SESSION ")),
        // Behind default_collation_for_utf8mb4, which it depends on.
        "SET NAMES utf8mb4".to_owned(),
        // The servers look for the end of a string character by character where this is a multi-byte one,
        // which takes them longer than all else with large values. Names are read as UTF-8 all the same, and
        // the literals of rows that are not plain ASCII have an introducer.
        "SET character_set_client = binary".to_owned(),
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE".to_owned(),
        "SET autocommit = 0".to_owned(),
    ];
    if flavor == Flavor::MariaDb {
        // What is written is logged as the origin's.
        statements.push(format!("SET SESSION server_id = {origin_server_id}"));
    }
    statements
}

/// Sets up a connection to `target` for applying what `origin` wrote. Gives why it cannot write row events, if they
/// are wanted and it cannot.
///
/// # Errors
/// The connection's; the server's where the account may not.
pub(super) async fn set_up(
    connection: &mut NodeConnection,
    [target, origin]: [&Identity; 2],
    policy: RowEventPolicy,
) -> Result<Option<&'static str>> {
    connection.learn_packet_limit().await?;
    let hindrance = match policy {
        RowEventPolicy::Never => None,
        _ => row_events::begin(connection, target.flavor).await?,
    };
    if let Some(hindrance) = hindrance {
        tracing::info!(origin = %origin.node, target = %target.node, "no row events: {hindrance}");
    }
    for statement in apply_session(target.flavor, origin.server_id) {
        connection
            .execute(&statement, "setting up the apply session")
            .await?;
    }
    Ok(hindrance)
}

/// Statements that give a connection, set up by [`apply_session`], the settings that `statement`
/// was run with at its origin, its default database included. Run [`apply_session`] behind it.
///
/// What the log does not say stays as [`apply_session`] set it. An open transaction is committed.
#[must_use]
pub fn ddl_session(statement: &LoggedQuery, flavor: Flavor) -> Vec<String> {
    let session = &statement.session;
    // Names below are in UTF-8.
    let mut statements = vec!["SET NAMES utf8mb4".to_owned()];
    if needs_database(statement, flavor) {
        let quoted = statement.database.replace('`', "``");
        statements.push(format!("USE `{quoted}`"));
    }
    let mut settings = Vec::new();
    let mut set = |name: &str, value: String| settings.push(format!("SESSION {name} = {value}"));
    // MariaDB's ALTER TABLE .. EXCHANGE PARTITION waits for itself with autocommit off.
    set("autocommit", "1".to_owned());
    if let Some(sql_mode) = session.sql_mode {
        set("sql_mode", sql_mode.to_string());
    }
    if let Some(flags) = session.flags2 {
        let on = |flag: u32| u8::from(flags & flag != 0).to_string();
        let off = |flag: u32| u8::from(flags & flag == 0).to_string();
        set("sql_auto_is_null", on(FLAG_AUTO_IS_NULL));
        set("foreign_key_checks", off(FLAG_NO_FOREIGN_KEYS));
        set("unique_checks", off(FLAG_NO_UNIQUE_CHECKS));
        if flavor == Flavor::MariaDb {
            set("check_constraint_checks", off(FLAG_NO_CHECK_CONSTRAINTS));
            set(
                "explicit_defaults_for_timestamp",
                on(FLAG_EXPLICIT_DEFAULTS),
            );
            set("sql_if_exists", on(FLAG_IF_EXISTS));
        }
    }
    if let Some(time_zone) = &session.time_zone {
        set("time_zone", text(time_zone));
    }
    if let Some(names) = session.lc_time_names {
        set("lc_time_names", names.to_string());
    }
    // Not in the log where both are 1.
    let (increment, offset) = session.auto_increment.unwrap_or((1, 1));
    set("auto_increment_increment", increment.to_string());
    set("auto_increment_offset", offset.to_string());
    if session.timestamp != 0 {
        let microseconds = session.microseconds.min(999_999);
        set(
            "timestamp",
            format!("{}.{microseconds:06}", session.timestamp),
        );
    }
    if flavor == Flavor::MySql {
        if let Some(explicit) = session.explicit_defaults_for_timestamp {
            set(
                "explicit_defaults_for_timestamp",
                u8::from(explicit).to_string(),
            );
        }
        if let Some(collation) = session.default_collation_for_utf8mb4 {
            set("default_collation_for_utf8mb4", collation.to_string());
        }
    }
    // Last: from here on the connection's bytes are in the origin's character set.
    if let Some([client, connection, server]) = session.charsets {
        set("character_set_client", client.to_string());
        set("collation_connection", connection.to_string());
        set("collation_server", server.to_string());
    }
    statements.push(format!("SET {}", settings.join(", ")));
    statements
}

/// Whether the statement's meaning depends on the default database. Where it does not, the target
/// need not have that database: it may not be replicated, or it is the one that is made or dropped.
fn needs_database(statement: &LoggedQuery, flavor: Flavor) -> bool {
    if statement.database.is_empty() {
        return false;
    }
    match ddl::recognise_logged(statement, flavor) {
        Statement::Ddl(ddl) => match ddl.kind {
            DdlKind::CreateDatabase | DdlKind::DropDatabase => false,
            // Names in the query behind a view are resolved there.
            DdlKind::CreateView | DdlKind::AlterView => true,
            _ => ddl.databases.contains(&statement.database),
        },
        _ => true,
    }
}

/// A string literal whose meaning does not depend on `sql_mode`.
fn text(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-:/_ ".contains(&byte);
    if value.bytes().all(plain) {
        return format!("'{value}'");
    }
    let digits: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("_utf8mb4 x'{digits}'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::event::SessionContext;

    fn logged(database: &str, sql: &str, session: SessionContext) -> LoggedQuery {
        LoggedQuery {
            database: database.into(),
            sql: sql.into(),
            session,
        }
    }

    fn uses(database: &str, sql: &str) -> Option<String> {
        let statement = logged(database, sql, SessionContext::default());
        ddl_session(&statement, Flavor::MySql)
            .into_iter()
            .find(|statement| statement.starts_with("USE"))
    }

    #[test]
    fn the_default_database_is_used_where_it_matters() {
        let used = Some("USE `d``1`".to_owned());
        assert_eq!(uses("d`1", "create table t (a int)"), used);
        assert_eq!(uses("d`1", "create view shop.v as select * from t"), used);
        assert_eq!(uses("d`1", "alter database comment 'x'"), used);
        assert_eq!(uses("d`1", "create table shop.t (a int)"), None);
        assert_eq!(uses("d`1", "drop database `d``1`"), None);
        assert_eq!(uses("d`1", "create database `d``1`"), None);
        assert_eq!(uses("", "create table shop.t (a int)"), None);
    }

    #[test]
    fn settings_of_the_origin_are_set_by_number() {
        let session = SessionContext {
            sql_mode: Some(1 << 2),
            flags2: Some(FLAG_NO_FOREIGN_KEYS | FLAG_EXPLICIT_DEFAULTS),
            charsets: Some([28, 28, 8]),
            time_zone: Some("Europe/O'slo".into()),
            timestamp: 1_000_000_000,
            microseconds: 5,
            default_collation_for_utf8mb4: Some(45),
            ..SessionContext::default()
        };
        let statement = logged("", "create table shop.t (a int)", session);
        let set = ddl_session(&statement, Flavor::MariaDb).pop().unwrap();
        assert_eq!(
            set,
            "SET SESSION autocommit = 1, SESSION sql_mode = 4, SESSION sql_auto_is_null = 0, SESSION foreign_key_checks = \
             0, SESSION unique_checks = 1, SESSION check_constraint_checks = 1, SESSION \
             explicit_defaults_for_timestamp = 1, SESSION sql_if_exists = 0, SESSION time_zone = \
             _utf8mb4 x'4575726f70652f4f27736c6f', SESSION auto_increment_increment = 1, SESSION \
             auto_increment_offset = 1, SESSION timestamp = 1000000000.000005, SESSION \
             character_set_client = 28, SESSION collation_connection = 28, SESSION \
             collation_server = 8"
        );
        let set = ddl_session(&statement, Flavor::MySql).pop().unwrap();
        assert!(set.contains("default_collation_for_utf8mb4 = 45"), "{set}");
        assert!(!set.contains("sql_if_exists"), "{set}");
    }
}
