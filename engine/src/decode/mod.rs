//! Bytes of the binlog to events and typed rows, for both servers.
//!
//! [`Decoder`] reads one server's log event by event and remembers the table maps that rows refer
//! to. It does not know of positions, transactions or connections. Nothing that a server sends
//! makes it panic or set aside memory by a length that was not checked; what it does not understand
//! is an error, never skipped, unless the log itself marks it as ignorable.

#[cfg(test)]
pub(crate) mod captured;
pub mod ddl;
pub mod event;
mod gtid;
pub mod json;
mod json_sql;
mod reader;
mod rows;
mod statement;
mod table_map;
mod unpack;
pub(crate) mod value;

use std::collections::HashMap;
use std::sync::Arc;

use event::{Event, EventHeader, Flavor};
use reader::{Reader, Result, malformed, utf8};
use table_map::Codec;

pub use reader::DecodeError;

use crate::row::SourceTable;

/// Says whether rows of a table (database, table) are wanted.
pub type TableFilter = Box<dyn Fn(&str, &str) -> bool + Send>;

/// A table that rows may refer to.
struct Mapped {
    /// The event's body: the servers repeat the same map for each statement.
    body: Box<[u8]>,
    table: Arc<SourceTable>,
    codecs: Arc<[Codec]>,
    wanted: bool,
    /// Whether its rows say that an engine wrote the transaction.
    is_marker: bool,
}

/// Turns one server's binlog events into [`Event`]s, in the log's order.
pub struct Decoder {
    flavor: Flavor,
    tables: HashMap<u64, Mapped>,
    filter: Option<TableFilter>,
    marker: Option<TableFilter>,
    brackets_only: bool,
    /// A marker row stands in front, in the same transaction.
    is_marked: bool,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("flavor", &self.flavor)
            .field("tables", &self.tables.len())
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// Above this many remembered tables they are forgotten at the next transaction's start. Maps
    /// are repeated in each transaction; remembering them longer only saves reading them again.
    const TABLES_KEPT: usize = 1024;

    /// A decoder for a log of a server of this kind.
    #[must_use]
    pub fn new(flavor: Flavor) -> Self {
        Self {
            flavor,
            tables: HashMap::new(),
            filter: None,
            marker: None,
            brackets_only: false,
            is_marked: false,
        }
    }

    /// Leaves the rows of some tables undecoded: their table map has no columns and their rows
    /// events have no changes. Column types that cannot be replicated do no harm there.
    pub fn set_table_filter(&mut self, wanted: TableFilter) {
        self.tables.clear();
        self.filter = Some(wanted);
    }

    /// Leaves undecoded the rows that stand behind a row of such a table in the same transaction, but
    /// for those of such tables.
    pub fn set_marker(&mut self, is_marker: TableFilter) {
        self.tables.clear();
        self.marker = Some(is_marker);
    }

    /// Leaves undecoded all but what says where files, transactions and their phases begin and end: a
    /// log can be looked through whose rows could not be read.
    pub fn only_brackets(&mut self) {
        self.brackets_only = true;
    }

    /// Decodes one event. `body` is what follows the header, without the checksum.
    ///
    /// # Errors
    /// Bytes that make no sense, and things that cannot be replicated (statement-based logging,
    /// incomplete row images, unknown column types or events). The decoder may be used on.
    pub fn decode(&mut self, header: &EventHeader, body: &[u8]) -> Result<Event> {
        self.decode_at(header, body, false)
    }

    fn decode_at(&mut self, header: &EventHeader, body: &[u8], inner: bool) -> Result<Event> {
        const IGNORABLE: u16 = 0x80;
        // QUERY, ROTATE, FORMAT_DESCRIPTION, GTIDs, XA_PREPARE, TRANSACTION_PAYLOAD, compressed QUERY.
        let bracket = matches!(
            header.event_type,
            2 | 4 | 15 | 33 | 34 | 38 | 40 | 42 | 162 | 165
        );
        if self.brackets_only && !bracket {
            return Ok(Event::Ignorable);
        }
        if let Some(form) = rows::form(header.event_type) {
            return self.rows(form, body);
        }
        // Behind anything but what belongs to rows (TABLE_MAP, ROWS_QUERY, ANNOTATE_ROWS) another
        // transaction may begin.
        if !matches!(header.event_type, 19 | 29 | 160) {
            self.is_marked = false;
        }
        match (header.event_type, self.flavor) {
            (2, _) => statement::decode(self.flavor, header, body, |sql| Ok(sql.to_vec())),
            (165, Flavor::MariaDb) => {
                statement::decode(self.flavor, header, body, unpack::event_part)
            }
            // STOP, IGNORABLE, ROWS_QUERY, PREVIOUS_GTIDS, VIEW_CHANGE.
            (3 | 28 | 29 | 35 | 37, _) => Ok(Event::Ignorable),
            (4, _) => {
                let mut reader = Reader::new(without_early_checksum(header, body));
                Ok(Event::Rotate {
                    offset: reader.u64()?,
                    file: utf8(reader.rest())?.to_owned(),
                })
            }
            (5..=14 | 17 | 18, _) => malformed(format!(
                "event {} belongs to statement-based logging: set binlog_format=ROW at the \
                 source, in running sessions too",
                header.event_type
            )),
            (15, _) => self.format_description(body),
            (16, _) => Ok(Event::Xid),
            (19, _) => self.table_map(body),
            (26, _) => {
                let mut reader = Reader::new(body);
                let number = reader.u16()?;
                let length = usize::from(reader.u8()?);
                let message = String::from_utf8_lossy(reader.bytes(length)?).into_owned();
                Ok(Event::Incident(format!("incident {number}: {message}")))
            }
            (27 | 41, _) => Ok(Event::Heartbeat),
            (33 | 34, Flavor::MySql) => {
                self.forget_old_tables();
                gtid::decode_mysql(body, header.event_type == 34)
            }
            (42, Flavor::MySql) => {
                self.forget_old_tables();
                gtid::decode_tagged(body)
            }
            (162, Flavor::MariaDb) => {
                self.forget_old_tables();
                gtid::decode_mariadb(body, header.server_id)
            }
            (38, _) => Ok(Event::XaPrepare {
                one_phase: Reader::new(body).u8()? != 0,
            }),
            (40, Flavor::MySql) if !inner => self.payload(body),
            // ANNOTATE_ROWS, BINLOG_CHECKPOINT, GTID_LIST, START_ENCRYPTION: the server decrypts
            // what it sends.
            (160 | 161 | 163 | 164, Flavor::MariaDb) => Ok(Event::Ignorable),
            _ if header.flags & IGNORABLE != 0 => Ok(Event::Ignorable),
            (other, _) => malformed(format!(
                "event number {other} is not known: this server is newer than twinlog, or the log \
                 is damaged"
            )),
        }
    }

    fn forget_old_tables(&mut self) {
        if self.tables.len() > Self::TABLES_KEPT {
            self.tables.clear();
        }
    }

    fn format_description(&mut self, body: &[u8]) -> Result<Event> {
        let mut reader = Reader::new(body);
        let binlog_version = reader.u16()?;
        if binlog_version != 4 {
            return malformed(format!(
                "binlog format version {binlog_version}; 4 is known"
            ));
        }
        let version = reader.bytes(50)?;
        let end = version.iter().position(|byte| *byte == 0).unwrap_or(50);
        let server_version = utf8(&version[..end])?.to_owned();
        let _created = reader.u32()?;
        let header_length = reader.u8()?;
        let mariadb = server_version.contains("MariaDB");
        if mariadb != (self.flavor == Flavor::MariaDb) {
            return malformed(format!(
                "the log was written by {server_version}, which is not the kind of server it \
                 should be"
            ));
        }
        // Lengths of the fixed parts of QUERY, TABLE_MAP and the rows events in use.
        let lengths = reader.rest();
        let rows = match self.flavor {
            Flavor::MySql => (30, 10),
            Flavor::MariaDb => (23, 8),
        };
        let expected = [(2_usize, 13_u8), (19, 8), rows];
        if header_length != 19
            || expected
                .iter()
                .any(|(number, length)| lengths.get(number - 1) != Some(length))
        {
            return malformed(format!(
                "the log of {server_version} lays its events out in an unknown way"
            ));
        }
        self.tables.clear();
        Ok(Event::FormatDescription { server_version })
    }

    fn table_map(&mut self, body: &[u8]) -> Result<Event> {
        let id = table_map::table_id(body)?;
        if let Some(known) = self.tables.get(&id)
            && *known.body == *body
        {
            return Ok(Event::TableMap(Arc::clone(&known.table)));
        }
        // Should this map turn out unusable, rows must not be read by an older one.
        self.tables.remove(&id);
        let (database, name) = table_map::names(body)?;
        let wanted = self
            .filter
            .as_ref()
            .is_none_or(|filter| filter(database, name));
        let is_marker = self
            .marker
            .as_ref()
            .is_some_and(|is_marker| is_marker(database, name));
        let (table, codecs) = if wanted {
            table_map::decode(self.flavor, body)?
        } else {
            let table = SourceTable {
                database: database.into(),
                name: name.into(),
                columns: Box::default(),
                primary_key: None,
            };
            (table, Box::default())
        };
        let table = Arc::new(table);
        let mapped = Mapped {
            body: body.into(),
            table: Arc::clone(&table),
            codecs: codecs.into(),
            wanted,
            is_marker,
        };
        self.tables.insert(id, mapped);
        Ok(Event::TableMap(table))
    }

    fn rows(&mut self, form: rows::Form, body: &[u8]) -> Result<Event> {
        let id = table_map::table_id(body)?;
        let Some(mapped) = self.tables.get(&id) else {
            return malformed(format!(
                "rows of table number {id}, which no table map before them names"
            ));
        };
        let flags = rows::flags(body)?;
        let changes = if mapped.wanted && (mapped.is_marker || !self.is_marked) {
            rows::decode(self.flavor, form, body, &mapped.table, &mapped.codecs)?
        } else {
            Vec::new()
        };
        self.is_marked |= mapped.is_marker && !changes.is_empty();
        Ok(Event::Rows {
            table: Arc::clone(&mapped.table),
            flags,
            changes,
        })
    }

    fn payload(&mut self, body: &[u8]) -> Result<Event> {
        let mut events = Vec::new();
        unpack::transaction(body, |header, body| {
            events.push((header, self.decode_at(&header, body, true)?));
            Ok(())
        })?;
        Ok(Event::Payload(events))
    }
}

/// MariaDB begins a stream with a ROTATE event that has a checksum though the format description,
/// which says that events have one, only comes behind it: a reader cannot know. Takes the checksum
/// off an artificial ROTATE if it is there and right.
fn without_early_checksum<'a>(header: &EventHeader, body: &'a [u8]) -> &'a [u8] {
    const HEADER: usize = 19;
    let Some((event, checksum)) = body.split_last_chunk::<4>() else {
        return body;
    };
    let Ok(length) = u32::try_from(HEADER + body.len()) else {
        return body;
    };
    if header.end_log_pos != 0 {
        return body;
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header.timestamp.to_le_bytes());
    crc.update(&[header.event_type]);
    crc.update(&header.server_id.to_le_bytes());
    crc.update(&length.to_le_bytes());
    crc.update(&header.end_log_pos.to_le_bytes());
    crc.update(&header.flags.to_le_bytes());
    crc.update(event);
    if crc.finalize() == u32::from_le_bytes(*checksum) {
        event
    } else {
        body
    }
}
