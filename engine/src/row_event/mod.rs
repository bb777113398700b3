//! Rows as the events of a binlog: what [`crate::decode`] reads, written again, for the BINLOG statement.
//!
//! The layout is that of the servers' `log_event.cc` and `rpl_utility`: an event has 19 bytes of header, a
//! table map says what the bytes of the rows behind it stand for, and each image has a bit for every column that
//! is present and one for every present column that is NULL.

mod event;
mod json;
mod value;

pub(crate) use event::{EventColumn, Operation, RowsEvent, format_description};
pub(crate) use value::Limits;
