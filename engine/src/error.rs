//! The one error type of the engine and what is to be done about each error.
//!
//! A conflict is a value, never an error; see [`crate::conflict`]. What is here either passes by
//! itself ([`Disposition::Retry`]) or needs a person ([`Disposition::Halt`]).

use std::fmt;

use crate::conflict::journal::Entry;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a link does when it meets an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The cause passes by itself (a lost connection, a deadlock): go on from the last committed
    /// position after a pause.
    Retry,
    /// Going on would guess or lose something: the link stops and says what to do.
    Halt,
}

/// Everything that can go wrong, with what, where and what to do in its message.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The config file cannot be read, parsed or accepted.
    #[error("config: {0}")]
    Config(String),

    /// A server could not be reached, or a connection broke.
    #[error("node {node}: {message}")]
    Connection {
        /// Name of the node in the config file.
        node: String,
        /// What the driver reported, without secrets.
        message: String,
    },

    /// A server refused a statement for good (a missing privilege, an unknown table).
    #[error("node {node}: {context}: server error {code}: {message}")]
    Server {
        /// Name of the node.
        node: String,
        /// What the engine was doing.
        context: String,
        /// The server's error number.
        code: u16,
        /// The server's message.
        message: String,
    },

    /// A deadlock or lock timeout at the target: the transaction was rolled back and is repeated.
    #[error("node {node}: {message} (error {code})")]
    Contention {
        /// Name of the node.
        node: String,
        /// 1213 or 1205 and their kin.
        code: u16,
        /// The server's message.
        message: String,
    },

    /// Another engine of the cluster goes by other rules; nothing is applied until it does not.
    #[error("{0}")]
    Apart(String),

    /// Bytes of the binlog do not mean what they should.
    #[error("binlog of node {node} at {position}: {problem}")]
    Binlog {
        /// Name of the node whose log it is.
        node: String,
        /// `file:offset` of the event.
        position: String,
        /// What is wrong, and what to do.
        problem: String,
    },

    /// The log that is needed is no longer there, or is not the log that it was.
    #[error("binlog of node {node}: {problem}")]
    LogLost {
        /// Name of the node whose log it is.
        node: String,
        /// What happened, and the next step.
        problem: String,
    },

    /// Something in the log cannot be replicated (a type, a statement, a table without a key).
    #[error("cannot replicate {what} (from node {node}, {position}): {problem}")]
    Unsupported {
        /// Name of the origin.
        node: String,
        /// `file:offset`.
        position: String,
        /// Table, column or statement.
        what: String,
        /// Why not, and what to do.
        problem: String,
    },

    /// Both nodes wrote the same key without having seen each other's write, and it is not settled.
    #[error("concurrent write: {message}")]
    Conflict {
        /// What met what, and what to do.
        message: String,
        /// What the journal has to say of it; `None` where it says it already, or there is nothing.
        entry: Option<Box<Entry>>,
    },

    /// A row is missing or different without any concurrent write: the nodes had drifted apart.
    #[error("drift: {0}")]
    Drift(String),

    /// The schema of a table differs between origin and target.
    #[error("schema of {table} differs: {problem}")]
    Schema {
        /// `database.table`
        table: String,
        /// The difference, and what to do.
        problem: String,
    },

    /// Another engine owns this node, or took it over.
    #[error("fenced: {0}")]
    Fenced(String),

    /// The engine's own store (sled) cannot be used.
    #[error("store {path}: {problem}")]
    Store {
        /// Folder of the store.
        path: String,
        /// What is wrong, and what to do.
        problem: String,
    },

    /// The nodes cannot be joined, or a node lacks what the engine needs.
    #[error("{0}")]
    Preflight(String),

    /// A stage was asked to stop.
    #[error("stopped")]
    Stopped,

    /// A promise of our own code was broken. A bug: please report it with the message.
    #[error("internal: {0}")]
    Internal(String),
}

impl Error {
    /// A conflict that is not settled and of which the journal has nothing to say.
    #[must_use]
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict {
            message: message.into(),
            entry: None,
        }
    }

    /// Says whether the link tries again or stops. Exhaustive on purpose: a new kind of error has
    /// to be decided here.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Error::Connection { .. } | Error::Contention { .. } | Error::Apart(_) => {
                Disposition::Retry
            }
            Error::Config(_)
            | Error::Server { .. }
            | Error::Binlog { .. }
            | Error::LogLost { .. }
            | Error::Unsupported { .. }
            | Error::Conflict { .. }
            | Error::Drift(_)
            | Error::Schema { .. }
            | Error::Fenced(_)
            | Error::Store { .. }
            | Error::Preflight(_)
            | Error::Stopped
            | Error::Internal(_) => Disposition::Halt,
        }
    }

    /// Classifies an error of the driver: lost connections and contention pass by themselves, an
    /// error that the server names does not.
    #[must_use]
    pub fn from_driver(node: &str, context: impl fmt::Display, error: mysql_async::Error) -> Self {
        if is_packet_too_large(&error) {
            return Error::Server {
                node: node.to_owned(),
                context: context.to_string(),
                code: ER_NET_PACKET_TOO_LARGE,
                message:
                    "a row is larger than the server's max_allowed_packet takes (some binary \
                          values need twice their size in a statement): SET GLOBAL max_allowed_packet = \
                          1073741824 there and in its my.cnf, then start the engine again"
                        .to_owned(),
            };
        }
        match error {
            mysql_async::Error::Server(server) => match server.code {
                // Lock wait timeout, deadlock, MariaDB's "record has changed since last read".
                1205 | 1213 | 1020 => Error::Contention {
                    node: node.to_owned(),
                    code: server.code,
                    message: server.message,
                },
                // Too many connections, server shutdown, killed connection, host blocked for now,
                // MySQL's "server is in offline mode".
                1040 | 1053 | 1077 | 1079 | 1317 | 1152 | 1158..=1161 | 1203 | 1927 | 3032 => {
                    Error::Connection {
                        node: node.to_owned(),
                        message: format!("{context}: {} (error {})", server.message, server.code),
                    }
                }
                // A node that is taken out of writing for a while (a backup, a switch-over).
                1290 | 1836 if server.message.contains("read-only") => Error::Connection {
                    node: node.to_owned(),
                    message: format!(
                        "{context}: the server is read-only; SET GLOBAL read_only = 0, or grant the \
                         engine's account READ_ONLY ADMIN (MariaDB) or CONNECTION_ADMIN (MySQL) to \
                         let it apply all the same (error {})",
                        server.code
                    ),
                },
                code => Error::Server {
                    node: node.to_owned(),
                    context: context.to_string(),
                    code,
                    message: if ACCESS_DENIED.contains(&code) {
                        format!(
                            "{}; run `twinlog check`: it names the missing GRANT",
                            server.message
                        )
                    } else {
                        server.message
                    },
                },
            },
            other => Error::Connection {
                node: node.to_owned(),
                message: format!("{context}: {}", plainly(&other)),
            },
        }
    }
}

/// The server's error number of a packet larger than it takes.
pub const ER_NET_PACKET_TOO_LARGE: u16 = 1153;

/// Refused for want of a privilege: on a database, at the login, on a table, a column, a global one,
/// on a routine, by the account's authentication plugin.
const ACCESS_DENIED: [u16; 7] = [1044, 1045, 1142, 1143, 1227, 1370, 1698];

/// What it comes down to. The driver wraps the system's error in two of its own, each of which
/// says the same again ("Input/output error: Input/output error: Connection refused").
#[must_use]
pub fn plainly(error: &mysql_async::Error) -> String {
    if !matches!(error, mysql_async::Error::Io(_)) {
        return error.to_string();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Whether what was to be sent is larger than the server takes.
#[must_use]
pub fn is_packet_too_large(error: &mysql_async::Error) -> bool {
    match error {
        mysql_async::Error::Server(server) => server.code == ER_NET_PACKET_TOO_LARGE,
        mysql_async::Error::Driver(mysql_async::DriverError::PacketTooLarge) => true,
        // The driver's own bound is checked where it writes, and comes as its codec's text.
        mysql_async::Error::Io(_) => {
            let text = plainly(error).to_lowercase();
            text.contains("packet too large") || text.contains("max_allowed_packet")
        }
        _ => false,
    }
}
