//! QUERY events: a statement and the session settings that it ran with.

use super::event::{Event, EventHeader, Flavor, LoggedQuery, SessionContext};
use super::reader::{DecodeError, Reader, Result, malformed, utf8};

/// Decodes the body of a QUERY event; `sql` turns its tail into the statement's text (MariaDB's
/// compressed form differs from the plain one only there).
pub(super) fn decode(
    flavor: Flavor,
    header: &EventHeader,
    body: &[u8],
    sql: impl FnOnce(&[u8]) -> Result<Vec<u8>>,
) -> Result<Event> {
    let mut reader = Reader::new(body);
    let _thread_id = reader.u32()?;
    let _execution_time = reader.u32()?;
    let database_length = usize::from(reader.u8()?);
    let error_code = reader.u16()?;
    let status_length = usize::from(reader.u16()?);
    let status = reader.bytes(status_length)?;
    let database = utf8(reader.bytes(database_length)?)?.to_owned();
    reader.u8()?;
    let sql = sql(reader.rest())?;
    let mut session = SessionContext {
        timestamp: header.timestamp,
        ..SessionContext::default()
    };
    // Transaction control means the same in any session, and what is not run here has its own
    // rules; whoever would run the statement has to look at this.
    session.unreadable = status_variables(flavor, status, &mut session)
        .err()
        .map(|error| error.0);
    let query = LoggedQuery {
        database,
        sql,
        session,
    };
    Ok(Event::Query {
        query: Box::new(query),
        error_code,
    })
}

fn status_variables(flavor: Flavor, status: &[u8], session: &mut SessionContext) -> Result<()> {
    let mut reader = Reader::new(status);
    while !reader.is_empty() {
        let code = reader.u8()?;
        match (code, flavor) {
            (0, _) => session.flags2 = Some(reader.u32()?),
            (1, _) => session.sql_mode = Some(reader.u64()?),
            // The catalog is always `std`; the old form ends in a NUL.
            (2, _) => {
                let length = usize::from(reader.u8()?);
                reader.bytes(length)?;
                reader.u8()?;
            }
            (3, _) => session.auto_increment = Some((reader.u16()?, reader.u16()?)),
            (4, _) => session.charsets = Some([reader.u16()?, reader.u16()?, reader.u16()?]),
            (5, _) => {
                let length = usize::from(reader.u8()?);
                session.time_zone = Some(utf8(reader.bytes(length)?)?.to_owned());
            }
            (6, _) => {
                let length = usize::from(reader.u8()?);
                reader.bytes(length)?;
            }
            (7, _) => session.lc_time_names = Some(reader.u16()?),
            (8, _) => session.collation_database = Some(reader.u16()?),
            // Tables of a multi-table update; bytes written by an old source.
            (9, _) => drop(reader.u64()?),
            (10, _) => drop(reader.u32()?),
            (11, _) => {
                for _user_then_host in 0..2 {
                    let length = usize::from(reader.u8()?);
                    reader.bytes(length)?;
                }
            }
            (12, _) => {
                // 254 says that there were too many databases to name.
                let databases = reader.u8()?;
                if databases != 254 {
                    for _ in 0..databases {
                        reader.until_nul()?;
                    }
                }
            }
            (13, _) => {
                session.microseconds = u32::try_from(reader.uint(3)?)
                    .map_err(|_| DecodeError("microseconds out of range".to_owned()))?;
            }
            (16, Flavor::MySql) => {
                session.explicit_defaults_for_timestamp = Some(reader.u8()? != 0);
            }
            (17, Flavor::MySql) => drop(reader.u64()?),
            (18, Flavor::MySql) => session.default_collation_for_utf8mb4 = Some(reader.u16()?),
            (19, Flavor::MySql) => session.sql_require_primary_key = Some(reader.u8()? != 0),
            // default_table_encryption.
            (20, Flavor::MySql) => drop(reader.u8()?),
            (128, Flavor::MariaDb) => {
                session.microseconds = u32::try_from(reader.uint(3)?)
                    .map_err(|_| DecodeError("microseconds out of range".to_owned()))?;
            }
            // The XID of a DDL statement.
            (129, Flavor::MariaDb) => drop(reader.u64()?),
            (130, Flavor::MariaDb) => {
                // Two-phase ALTER: its commit and rollback name the start's sequence number.
                const COMMIT_OR_ROLLBACK_ALTER: u8 = 4 | 8;
                if reader.u8()? & COMMIT_OR_ROLLBACK_ALTER != 0 {
                    reader.u64()?;
                }
            }
            // character_set_collations of MariaDB 11.
            (131, Flavor::MariaDb) => {
                let count = usize::from(reader.u8()?);
                reader.bytes(count * 4)?;
            }
            _ => {
                return malformed(format!(
                    "a statement carries session setting number {code}, which is not known and \
                     might change its meaning: this server is newer than twinlog"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> EventHeader {
        EventHeader {
            timestamp: 7,
            event_type: 2,
            server_id: 1,
            end_log_pos: 0,
            flags: 0,
        }
    }

    fn event(status: &[u8], sql: &[u8]) -> Vec<u8> {
        let mut body = vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, status.len() as u8, 0];
        body.extend_from_slice(status);
        body.extend_from_slice(b"db\0");
        body.extend_from_slice(sql);
        body
    }

    #[test]
    fn an_unknown_setting_is_noted() {
        let body = event(&[99, 1, 2], b"DROP TABLE t");
        let decoded = decode(Flavor::MySql, &header(), &body, |sql| Ok(sql.to_vec())).unwrap();
        let Event::Query { query, .. } = decoded else {
            panic!("not a statement");
        };
        let problem = query.session.unreadable.unwrap();
        assert!(problem.contains("number 99"), "{problem}");
    }

    #[test]
    fn settings_are_read() {
        let status = [
            1, 0x20, 0, 0, 0, 0, 0, 0, 0, 4, 33, 0, 45, 0, 8, 0, 5, 3, b'U', b'T', b'C',
        ];
        let body = event(&status, b"CREATE TABLE t (a INT)");
        let decoded = decode(Flavor::MariaDb, &header(), &body, |sql| Ok(sql.to_vec())).unwrap();
        let Event::Query { query, .. } = decoded else {
            panic!("not a statement");
        };
        let session = query.session;
        assert_eq!(query.database, "db");
        assert_eq!(session.sql_mode, Some(0x20));
        assert_eq!(session.charsets, Some([33, 45, 8]));
        assert_eq!(session.time_zone.as_deref(), Some("UTC"));
        assert_eq!(session.timestamp, 7);
    }
}
