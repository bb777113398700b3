//! The binlog stream of one server.
//!
//! Contract: [`Source::next`] gives every event of the log exactly once, in the log's order,
//! beginning at the position that was asked for, each with the position behind it. Checksums are
//! verified. A broken connection is an error; whoever reads opens a new source at the last
//! transaction boundary, so nothing is read twice or skipped within one source. Dropping a source
//! ends its connection; a pending `next` may be dropped at any time without losing an event only if
//! the source is dropped with it.

mod checksum;
mod request;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mysql_async::BinlogStream;
use mysql_common::binlog::events::Event as DriverEvent;

use crate::config::{MEMORY_PER_EVENT, NodeConfig};
use crate::connection::Identity;
use crate::decode::Decoder;
use crate::decode::event::{Event, EventHeader};
use crate::error::{Error, Result};
use crate::position::{LogName, LogPos};

/// Types of events that move [`Source::pass`] otherwise than by their length, or not at all.
const ROTATE: u8 = 4;
const FORMAT_DESCRIPTION: u8 = 15;
const HEARTBEAT: u8 = 27;
const HEARTBEAT_V2: u8 = 41;

/// An event with its place in the log.
#[derive(Debug)]
pub struct Placed {
    /// Position in front of the event.
    pub start: LogPos,
    /// Position behind the event.
    pub end: LogPos,
    /// Its header.
    pub header: EventHeader,
    /// What it says.
    pub event: Event,
}

/// A running binlog stream.
pub struct Source {
    stream: BinlogStream,
    decoder: Decoder,
    node: Arc<str>,
    log_name: LogName,
    position: LogPos,
    /// When the present file was begun; 0 before its description was read.
    birth: u32,
    /// What the first file's must be, where that is known.
    expected_birth: u32,
    silence: Duration,
    /// Events that are larger are worth a warning.
    usual_bytes: usize,
    /// Headers of a compressed transaction's inner events, which the driver gives once more behind
    /// it: they are passed over, each compared first.
    repeats: std::collections::VecDeque<EventHeader>,
}

impl Source {
    /// Opens the stream of `node` at `start`, which must be a transaction boundary.
    ///
    /// # Errors
    /// [`Error::Connection`] and [`Error::Server`] as the server answers.
    pub async fn open(
        node: &NodeConfig,
        identity: &Identity,
        (start, birth): (LogPos, u32),
        heartbeat: Duration,
        decoder: Decoder,
    ) -> Result<Self> {
        let stream = request::open(node, identity, start, heartbeat).await?;
        Ok(Self {
            stream,
            decoder,
            node: node.name.as_str().into(),
            log_name: identity.log_name.clone(),
            position: start,
            birth: 0,
            expected_birth: birth,
            silence: node.silence,
            usual_bytes: usize::MAX,
            repeats: std::collections::VecDeque::new(),
        })
    }

    /// Has it say so when an event is larger than this, in bytes, and the largest so far.
    #[must_use]
    pub fn warning_above(mut self, bytes: usize) -> Self {
        self.usual_bytes = bytes;
        self
    }

    /// Position behind the last event.
    #[must_use]
    pub fn position(&self) -> LogPos {
        self.position
    }

    /// Name of the node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// When the present file was begun, seconds since 1970, as its description says; 0 before that
    /// was read. A file keeps it; a log that was reset has files of the same names that were begun
    /// later.
    #[must_use]
    pub fn birth(&self) -> u32 {
        self.birth
    }

    /// What the log's files are called.
    #[must_use]
    pub fn log_name(&self) -> &LogName {
        &self.log_name
    }

    /// The next event.
    ///
    /// # Errors
    /// [`Error::Connection`] when the server is gone or silent for too long, [`Error::LogLost`] when
    /// it no longer has the log, [`Error::Binlog`] when the bytes are wrong.
    pub async fn next(&mut self) -> Result<Placed> {
        let event = self.receive().await?;
        let header = request::header_of(&event);
        let bytes = event.data().len();
        if bytes > self.usual_bytes {
            self.usual_bytes = bytes;
            let mib = bytes.div_ceil(1 << 20);
            tracing::warn!(
                node = %self.node,
                position = self.log_name.show(self.position),
                "an event (a row with its images) has {mib} MiB: engines may take more than [engine] memory \
                 for it. Set that to {} MiB, for each engine in the process",
                mib * MEMORY_PER_EVENT
            );
        }
        let decoded = self.decoded(&header, &event)?;
        self.place(header, decoded)
    }

    /// Reads on by one event and gives nothing of it: what a benchmark compares [`Self::next`] with. Only
    /// events that say where the log goes on are decoded. Not for compressed transactions.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(crate) async fn pass(&mut self) -> Result<()> {
        let event = self.receive().await?;
        let header = request::header_of(&event);
        if matches!(header.event_type, ROTATE | FORMAT_DESCRIPTION) {
            let decoded = self.decoded(&header, &event)?;
            self.place(header, decoded)?;
        } else if !matches!(header.event_type, HEARTBEAT | HEARTBEAT_V2) {
            self.position = self.position.advanced_to(header.end_log_pos);
        }
        Ok(())
    }

    fn decoded(&mut self, header: &EventHeader, event: &DriverEvent) -> Result<Event> {
        self.decoder
            .decode(header, event.data())
            .map_err(|error| self.malformed(&error.to_string()))
    }

    /// The next event as the driver gives it, its checksum verified.
    async fn receive(&mut self) -> Result<DriverEvent> {
        loop {
            // The driver's parser can panic on malformed input; that must stop the link with a
            // message and nothing more.
            let mut polled = AssertUnwindSafe(self.stream.next()).catch_unwind();
            // Of a backlog many events are there already: no timer, and no clock read, for those.
            let polled = match (&mut polled).now_or_never() {
                Some(polled) => Ok(polled),
                None => tokio::time::timeout(self.silence, polled).await,
            };
            let event = match polled {
                Err(_) => {
                    return Err(Error::Connection {
                        node: self.node.to_string(),
                        message: format!(
                            "binlog stream silent for {}, not even a heartbeat",
                            humantime::format_duration(self.silence)
                        ),
                    });
                }
                Ok(Err(_)) => return Err(self.malformed("the event's header or body is malformed")),
                Ok(Ok(None)) => {
                    return Err(Error::Connection {
                        node: self.node.to_string(),
                        message: "the server ended the binlog stream".to_owned(),
                    });
                }
                Ok(Ok(Some(Err(error)))) => return Err(self.stream_error(error)),
                Ok(Ok(Some(Ok(event)))) => event,
            };
            let header = request::header_of(&event);
            if let Some(expected) = self.repeats.pop_front() {
                if header != expected {
                    return Err(self.malformed(
                        "a compressed transaction did not unpack to the same events twice",
                    ));
                }
                continue;
            }
            checksum::verify(&event).map_err(|problem| self.malformed(&problem))?;
            return Ok(event);
        }
    }

    fn place(&mut self, header: EventHeader, event: Event) -> Result<Placed> {
        let start = self.position;
        match &event {
            Event::Rotate { file, offset } => {
                let (name, number) = LogName::split(file)
                    .ok_or_else(|| self.malformed(&format!("rotation to {file:?}")))?;
                if !name.same_log(&self.log_name) {
                    return Err(Error::LogLost {
                        node: self.node.to_string(),
                        problem: format!(
                            "the log goes on in {file}, which is not called as before; if log_bin \
                             was renamed, wait until both nodes agree, then set the new position \
                             with `twinlog positions set`"
                        ),
                    });
                }
                let position = LogPos::new(number, *offset);
                if position < self.position {
                    return Err(Error::LogLost {
                        node: self.node.to_string(),
                        problem: format!(
                            "the log goes back to {file} though {} was read; it was reset or \
                             restored: compare the nodes, then use `twinlog positions set`",
                            self.log_name.show(self.position)
                        ),
                    });
                }
                if number != self.position.file {
                    self.birth = 0;
                    self.expected_birth = 0;
                }
                self.log_name = name;
                self.position = position;
            }
            Event::FormatDescription { .. } => {
                self.birth = header.timestamp;
                if self.expected_birth != 0 && self.expected_birth != self.birth {
                    return Err(Error::LogLost {
                        node: self.node.to_string(),
                        problem: format!(
                            "{} is not the file that was read before (it was begun at {}, the other \
                             at {}, in seconds since 1970): the log was reset, or restored from a \
                             backup. Compare the nodes, make them alike, then stop both engines \
                             and run `twinlog init --force`",
                            self.log_name.file(self.position.file),
                            self.birth,
                            self.expected_birth
                        ),
                    });
                }
                self.position = self.position.advanced_to(header.end_log_pos);
            }
            Event::Payload(inner) => {
                self.repeats = inner.iter().map(|(header, _)| *header).collect();
                self.position = self.position.advanced_to(header.end_log_pos);
            }
            // A heartbeat names the last position sent, which may lie behind events that the
            // server's own filter left out; nothing of ours is skipped by not following it.
            Event::Heartbeat => {}
            _ => self.position = self.position.advanced_to(header.end_log_pos),
        }
        Ok(Placed {
            start,
            end: self.position,
            header,
            event,
        })
    }

    fn malformed(&self, problem: &str) -> Error {
        Error::Binlog {
            node: self.node.to_string(),
            position: self.log_name.show(self.position),
            problem: problem.to_owned(),
        }
    }

    fn stream_error(&self, error: mysql_async::Error) -> Error {
        match error {
            // ER_MASTER_FATAL_ERROR_READING_BINLOG: purged, out of range, or damaged at the source.
            mysql_async::Error::Server(server)
                if server.code == 1236 && is_behind_the_end(&server.message) =>
            {
                Error::LogLost {
                    node: self.node.to_string(),
                    problem: format!(
                        "{} ends in front of {}, up to where it was read: the server lost committed \
                         transactions in a crash (sync_binlog other than 1), was reset, or was restored \
                         from a backup ({}). Compare the nodes (`twinlog verify`), make them alike, then \
                         stop both engines and run `twinlog init --force`",
                        self.log_name.file(self.position.file),
                        self.log_name.show(self.position),
                        server.message.trim_end_matches('.')
                    ),
                }
            }
            mysql_async::Error::Server(server) if server.code == 1236 => Error::LogLost {
                node: self.node.to_string(),
                problem: format!(
                    "the server cannot send its log from {}: {}. If the file was purged, restore \
                     agreement between the nodes (copy one to the other), then stop both engines \
                     and go on from the present: `twinlog init --force` for both links, or `twinlog \
                     positions set .. end` for one",
                    self.log_name.show(self.position),
                    server.message.trim_end_matches('.')
                ),
            },
            mysql_async::Error::Io(mysql_async::IoError::Io(io))
                if !is_cut_off(&io)
                    && (io.kind() == std::io::ErrorKind::Other
                        || io.kind() == std::io::ErrorKind::InvalidData
                        || io.kind() == std::io::ErrorKind::InvalidInput) =>
            {
                self.malformed(&io.to_string())
            }
            other => Error::from_driver(&self.node, "reading the binlog", other),
        }
    }
}

/// Whether the connection ended in the midst of a packet, as when the server is killed while it sends:
/// nothing is wrong with the log. The driver's framing has no kind of its own for that.
fn is_cut_off(error: &std::io::Error) -> bool {
    error.to_string() == "bytes remaining on stream"
}

/// Whether the server says that its file is shorter than the position that was asked for: MariaDB and
/// MySQL in their words.
fn is_behind_the_end(message: &str) -> bool {
    message.contains("impossible position") || message.contains("position > file size")
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("node", &self.node)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

    use super::*;

    #[tokio::test]
    async fn a_packet_cut_off_is_no_broken_log() {
        // Five bytes are announced.
        let mut packets = FramedRead::new(&b"\0\0\0\x05ab"[..], LengthDelimitedCodec::new());
        let error = packets.next().await.unwrap().unwrap_err();
        assert!(is_cut_off(&error), "{error}");
        assert!(!is_cut_off(&std::io::Error::other(
            "bytes remaining on stream while reading X"
        )));
    }
}
