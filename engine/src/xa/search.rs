//! Looks through a log for an XA transaction's first phase: from a place backwards, file by file.
//!
//! Contract: what is found is the last that the log says of a name in front of the place, wherever the
//! reader began. Each range is read forward and ends where the one before it began, so that the
//! first range with the name in it has the answer. Only whole files can be asked for, and places that
//! were read as boundaries before.

use std::collections::{HashMap, HashSet};

use crate::assemble::{Assembler, Group};
use crate::config::{Config, NodeConfig};
use crate::connection::{Identity, NodeConnection};
use crate::decode::Decoder;
use crate::decode::ddl::{self, Statement, Xid};
use crate::decode::event::{Event, Flavor};
use crate::error::{Disposition, Error, Result};
use crate::log_reader;
use crate::position::{LogName, LogPos};
use crate::source::{Placed, Source};
use crate::spill::Room;
use crate::transaction::Assembled;

/// First event of a file.
const FILE_START: u64 = 4;
/// Names of one range that are remembered while the range in front of it is looked through.
const NAMES: usize = 100_000;

/// The last that a log says of a name in front of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is prepared; its first phase begins here.
    Prepared(LogPos),
    /// It was decided here.
    Decided {
        /// Where the second phase begins.
        at: LogPos,
        /// XA COMMIT, and not XA ROLLBACK.
        commit: bool,
    },
}

/// What is prepared besides: its name, and where its first phase begins.
pub(crate) type Others = Vec<(Xid, LogPos)>;

/// Looks through the log of one node.
#[derive(Debug)]
pub(crate) struct Search {
    node: NodeConfig,
    log_of: Identity,
    config: Config,
    room: Room,
}

impl Search {
    /// In the log of `log_of`; rows that do not fit into memory go to `room`.
    pub(crate) fn new(node: &NodeConfig, log_of: &Identity, config: &Config, room: Room) -> Self {
        Self {
            node: node.clone(),
            log_of: log_of.clone(),
            config: config.clone(),
            room,
        }
    }

    /// The last that the log says of `xid` in front of `before`, and what else was met on the way
    /// that is prepared there. `hint` is a boundary from which on it may stand: it saves reading the
    /// rest of its file, no more. With nothing found, where the log begins.
    ///
    /// # Errors
    /// The connection's, and those of the source.
    pub(crate) async fn last(
        &self,
        xid: &Xid,
        before: LogPos,
        hint: Option<LogPos>,
    ) -> Result<(Result<Found, LogPos>, Others)> {
        let first = self.first_file().await?;
        let mut others = Others::new();
        // Named in the ranges behind; `None`: too many.
        let mut behind = Some(HashSet::new());
        for (from, to) in ranges(first, before, hint) {
            if from.file != before.file {
                tracing::info!(
                    node = self.node.name,
                    %xid,
                    "looking for an XA transaction's rows in {}",
                    self.log_of.log_name.file(from.file)
                );
            }
            let scan = match self.scan(xid, from, to).await {
                Ok(scan) => scan,
                Err(error) if Some(from) == hint && error.disposition() == Disposition::Halt => {
                    tracing::debug!(%error, "not to be read from where it was expected");
                    // Nothing is known of this range then, and the rest of the file is not enough.
                    self.scan(xid, LogPos::new(from.file, FILE_START), to)
                        .await?
                }
                Err(error) => return Err(error),
            };
            if let Some(behind) = &behind {
                let prepared = scan.prepared.into_iter();
                let known = prepared.filter(|(other, _)| other != xid && !behind.contains(other));
                others.extend(known);
            }
            if let Some(found) = scan.found {
                return Ok((Ok(found), others));
            }
            behind = behind.zip(scan.named).map(|(mut behind, named)| {
                behind.extend(named);
                behind
            });
            if behind.as_ref().is_some_and(|behind| behind.len() > NAMES) {
                behind = None;
            }
        }
        Ok((Err(LogPos::new(first, FILE_START)), others))
    }

    /// The rows of `xid`, whose first phase begins at `start`.
    ///
    /// # Errors
    /// The connection's, and those of the stages.
    pub(crate) async fn rows(&self, xid: &Xid, start: LogPos) -> Result<Assembled> {
        let decoder = log_reader::decoder(self.log_of.flavor, &self.config);
        let mut source = self.open(start, decoder).await?;
        let mut assembler = Assembler::new(
            self.log_of.node.clone(),
            self.log_of.flavor,
            &self.config.engine.schema,
            self.room.clone(),
        );
        loop {
            match assembler.take(source.next().await?)? {
                None => {}
                Some(Group::Prepared(prepared)) if prepared.xid == *xid => {
                    return Ok(prepared.whole);
                }
                Some(_) => {
                    return Err(Error::Binlog {
                        node: self.node.name.clone(),
                        position: self.log_of.log_name.show(start),
                        problem: format!(
                            "the XA PREPARE of {xid} was here, and is not: the log was changed"
                        ),
                    });
                }
            }
        }
    }

    async fn scan(&self, xid: &Xid, from: LogPos, to: LogPos) -> Result<Scan> {
        let mut scan = Scan::new(xid.clone(), self.log_of.flavor);
        let mut decoder = Decoder::new(self.log_of.flavor);
        decoder.only_brackets();
        let mut source = self.open(from, decoder).await?;
        while source.position() < to {
            let Placed { start, event, .. } = source.next().await?;
            scan.take(start, &event);
        }
        Ok(scan)
    }

    async fn open(&self, from: LogPos, decoder: Decoder) -> Result<Source> {
        let heartbeat = self.config.engine.heartbeat;
        Source::open(&self.node, &self.log_of, (from, 0), heartbeat, decoder).await
    }

    async fn first_file(&self) -> Result<u32> {
        let mut connection = NodeConnection::open(&self.node).await?;
        let logs: Vec<mysql_async::Row> = connection
            .all("SHOW BINARY LOGS", "asking for the files of the log")
            .await?;
        connection.close().await;
        let first: Option<String> = logs
            .first()
            .and_then(|row| row.get_opt(0))
            .and_then(|name| name.ok());
        first
            .and_then(|name| LogName::split(&name))
            .map(|(_, number)| number)
            .ok_or_else(|| Error::LogLost {
                node: self.node.name.clone(),
                problem: "the server lists no files of its log".to_owned(),
            })
    }
}

/// The log in front of a place, cut into ranges that can be asked for, the last one first.
fn ranges(first: u32, before: LogPos, hint: Option<LogPos>) -> Vec<(LogPos, LogPos)> {
    let mut ranges = Vec::new();
    for file in (first..=before.file).rev() {
        let begin = LogPos::new(file, FILE_START);
        let mut end = before.min(LogPos::new(file.saturating_add(1), 0));
        if let Some(hint) = hint.filter(|hint| begin < *hint && *hint < end) {
            ranges.push((hint, end));
            end = hint;
        }
        if begin < end {
            ranges.push((begin, end));
        }
    }
    ranges
}

/// What a range of a log says of XA transactions.
#[derive(Debug)]
struct Scan {
    xid: Xid,
    flavor: Flavor,
    /// The last of the one that is looked for.
    found: Option<Found>,
    /// Prepared and not decided within the range.
    prepared: HashMap<Xid, LogPos>,
    /// Named within the range; `None`: too many.
    named: Option<HashSet<Xid>>,
    /// The group that is being read.
    group: LogPos,
    open: Option<Xid>,
}

impl Scan {
    fn new(xid: Xid, flavor: Flavor) -> Self {
        Self {
            xid,
            flavor,
            found: None,
            prepared: HashMap::new(),
            named: Some(HashSet::new()),
            group: LogPos::default(),
            open: None,
        }
    }

    fn take(&mut self, start: LogPos, event: &Event) {
        match event {
            Event::Gtid { .. } => {
                self.group = start;
                self.open = None;
            }
            // The server died within what was open.
            Event::FormatDescription { .. } => self.open = None,
            Event::Query { query, .. } if query.sql.starts_with(b"XA ") => {
                match ddl::recognise_logged(query, self.flavor) {
                    Statement::XaStart(xid) | Statement::XaEnd(xid) => self.open = Some(xid),
                    Statement::XaCommit {
                        xid,
                        one_phase: false,
                    } => self.decided(xid, true),
                    Statement::XaRollback(xid) => self.decided(xid, false),
                    _ => {}
                }
            }
            Event::XaPrepare { one_phase: false } => {
                if let Some(xid) = self.open.take() {
                    if xid == self.xid {
                        self.found = Some(Found::Prepared(self.group));
                    }
                    self.prepared.insert(xid.clone(), self.group);
                    self.name(xid);
                }
            }
            Event::Payload(inner) => {
                for (_, event) in inner {
                    self.take(start, event);
                }
            }
            _ => {}
        }
    }

    fn decided(&mut self, xid: Xid, commit: bool) {
        if xid == self.xid {
            let at = self.group;
            self.found = Some(Found::Decided { at, commit });
        }
        self.prepared.remove(&xid);
        self.name(xid);
    }

    fn name(&mut self, xid: Xid) {
        if let Some(named) = &mut self.named {
            named.insert(xid);
            if named.len() > NAMES {
                self.named = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::event::{LoggedQuery, SessionContext};

    #[test]
    fn a_log_is_cut_into_ranges_from_the_back() {
        let at = LogPos::new;
        assert_eq!(
            ranges(2, at(4, 500), None),
            [
                (at(4, 4), at(4, 500)),
                (at(3, 4), at(4, 0)),
                (at(2, 4), at(3, 0))
            ]
        );
        assert_eq!(
            ranges(3, at(4, 500), Some(at(3, 77))),
            [
                (at(4, 4), at(4, 500)),
                (at(3, 77), at(4, 0)),
                (at(3, 4), at(3, 77))
            ]
        );
        // Of another log, or of files that are gone.
        for hint in [at(1, 9), at(4, 500), at(5, 4)] {
            assert_eq!(ranges(4, at(4, 500), Some(hint)), [(at(4, 4), at(4, 500))]);
        }
        assert_eq!(ranges(4, at(4, 4), None), []);
    }

    fn xid(name: &str) -> Xid {
        Xid {
            gtrid: name.into(),
            bqual: Vec::new(),
            format: 1,
        }
    }

    fn scan(groups: &[&str]) -> Scan {
        let mut scan = Scan::new(xid("a"), Flavor::MariaDb);
        let query = |sql: String| Event::Query {
            query: Box::new(LoggedQuery {
                database: String::new(),
                sql: sql.into(),
                session: SessionContext::default(),
            }),
            error_code: 0,
        };
        for (place, group) in groups.iter().enumerate() {
            let start = LogPos::new(1, 100 * (place as u64 + 1));
            let gtid = Event::Gtid {
                gtid: None,
                immediate_commit: None,
                original_commit: None,
                standalone: false,
                xa: true,
                two_phase_alter: false,
            };
            scan.take(start, &gtid);
            let (verb, name) = group.split_once(' ').unwrap();
            if verb == "PREPARE" {
                scan.take(start, &query(format!("XA END '{name}'")));
                scan.take(start, &Event::XaPrepare { one_phase: false });
            } else {
                scan.take(start, &query(format!("XA {verb} '{name}'")));
            }
        }
        scan
    }

    #[test]
    fn the_last_that_the_log_says_counts() {
        let at = |place: u64| LogPos::new(1, 100 * place);
        let found = |groups: &[&str]| scan(groups).found;
        assert_eq!(found(&["PREPARE b", "COMMIT b"]), None);
        assert_eq!(found(&["PREPARE a"]), Some(Found::Prepared(at(1))));
        let commit = |place| Found::Decided {
            at: at(place),
            commit: true,
        };
        let rollback = |place| Found::Decided {
            at: at(place),
            commit: false,
        };
        assert_eq!(found(&["PREPARE a", "COMMIT a"]), Some(commit(2)));
        assert_eq!(found(&["COMMIT a", "ROLLBACK a"]), Some(rollback(2)));
        assert_eq!(
            found(&["PREPARE a", "COMMIT a", "PREPARE a", "COMMIT b"]),
            Some(Found::Prepared(at(3)))
        );
        // A server forgets in a crash what it wrote last; the name is free again.
        assert_eq!(
            found(&["PREPARE a", "PREPARE a"]),
            Some(Found::Prepared(at(2)))
        );
    }

    #[test]
    fn others_that_are_prepared_are_found_too() {
        let scan = scan(&[
            "COMMIT c",
            "PREPARE b",
            "PREPARE a",
            "PREPARE d",
            "ROLLBACK d",
        ]);
        assert_eq!(scan.prepared.get(&xid("b")), Some(&LogPos::new(1, 200)));
        assert!(scan.prepared.contains_key(&xid("a")));
        assert_eq!(scan.prepared.len(), 2);
        assert_eq!(scan.named.unwrap().len(), 4);
    }
}
