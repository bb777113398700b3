//! What the servers compress inside events: rows, statements and columns of MariaDB, whole
//! transactions of MySQL.

use std::io::Read;

use flate2::read::{DeflateDecoder, ZlibDecoder};

use super::event::EventHeader;
use super::reader::{DecodeError, Reader, Result, malformed};

/// No server makes an event larger than max_allowed_packet can be.
const MAX_EVENT: u64 = 1 << 30;

/// Reads to the end what should give `length` bytes, trusting the figure only as a bound.
fn read_exactly(source: impl Read, length: u64, what: &str) -> Result<Vec<u8>> {
    /// What is set aside before any byte has come.
    const FIRST: u64 = 1 << 20;
    if length > MAX_EVENT {
        return malformed(format!("{what} claims to unpack to {length} bytes"));
    }
    let mut unpacked = Vec::with_capacity(length.min(FIRST) as usize);
    source
        .take(length + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| DecodeError(format!("{what} cannot be unpacked: {error}")))?;
    if unpacked.len() as u64 != length {
        return malformed(format!(
            "{what} should unpack to {length} bytes but gives {}",
            unpacked.len()
        ));
    }
    Ok(unpacked)
}

/// The packed part of MariaDB's compressed events: one byte (a set high bit, the method, the size
/// of the length), the length with its high byte first, zlib data.
pub(super) fn event_part(packed: &[u8]) -> Result<Vec<u8>> {
    let mut reader = Reader::new(packed);
    let first = reader.u8()?;
    let length_bytes = usize::from(first & 7);
    if first & 0x80 == 0 || first & 0x70 != 0 || !(1..=4).contains(&length_bytes) {
        return malformed(format!("a compressed event begins with {first:#04x}"));
    }
    let length = reader.uint_be(length_bytes)?;
    read_exactly(
        ZlibDecoder::new(reader.rest()),
        length,
        "a compressed event",
    )
}

/// A value of a column declared COMPRESSED in MariaDB: empty, or one byte (the method, whether zlib's
/// own header is left out, the size of the length), the length, the data.
pub(super) fn column(packed: &[u8]) -> Result<Vec<u8>> {
    const WHAT: &str = "a compressed column";
    let mut reader = Reader::new(packed);
    if reader.is_empty() {
        return Ok(Vec::new());
    }
    let first = reader.u8()?;
    let method = first >> 4;
    let length_bytes = usize::from(first & 7);
    match method {
        0 if first == 0 => Ok(reader.rest().to_vec()),
        8 if (1..=4).contains(&length_bytes) => {
            let length = reader.uint_be(length_bytes)?;
            if first & 8 != 0 {
                read_exactly(DeflateDecoder::new(reader.rest()), length, WHAT)
            } else {
                read_exactly(ZlibDecoder::new(reader.rest()), length, WHAT)
            }
        }
        _ => malformed(format!("{WHAT} begins with {first:#04x}")),
    }
}

/// Calls `each` with every event inside a TRANSACTION_PAYLOAD, one at a time: a large transaction
/// is never held unpacked as a whole. Returns the sum of their sizes through the check against the
/// size that the event states.
pub(super) fn transaction(
    body: &[u8],
    mut each: impl FnMut(EventHeader, &[u8]) -> Result<()>,
) -> Result<()> {
    const END: u64 = 0;
    const SIZE: u64 = 1;
    const METHOD: u64 = 2;
    const UNPACKED_SIZE: u64 = 3;
    const METHOD_ZSTD: u64 = 0;
    const METHOD_NONE: u64 = 255;

    let mut reader = Reader::new(body);
    let mut size = None;
    let mut method = None;
    let mut unpacked_size = None;
    loop {
        let field = reader.lenenc()?;
        if field == END {
            break;
        }
        let length = reader.length()?;
        let mut value = Reader::new(reader.bytes(length)?);
        match field {
            SIZE => size = Some(value.lenenc()?),
            METHOD => method = Some(value.lenenc()?),
            UNPACKED_SIZE => unpacked_size = Some(value.lenenc()?),
            other => {
                return malformed(format!(
                    "a compressed transaction has a field {other}, which is not known"
                ));
            }
        }
    }
    let packed = reader.rest();
    if size.is_some_and(|size| size != packed.len() as u64) {
        return malformed("a compressed transaction is not as long as it says");
    }
    match method {
        Some(METHOD_ZSTD) => {
            let decoder = zstd::stream::read::Decoder::with_buffer(packed)
                .map_err(|error| DecodeError(format!("zstd: {error}")))?;
            inner_events(decoder, unpacked_size, &mut each)
        }
        Some(METHOD_NONE) => inner_events(packed, unpacked_size, &mut each),
        other => malformed(format!(
            "a transaction is compressed by method {other:?}; twinlog knows zstd (0)"
        )),
    }
}

/// Bytes of an event's header.
const HEADER: u64 = 19;

fn inner_events(
    mut source: impl Read,
    unpacked_size: Option<u64>,
    each: &mut impl FnMut(EventHeader, &[u8]) -> Result<()>,
) -> Result<()> {
    let failed = |error: std::io::Error| {
        DecodeError(format!(
            "a compressed transaction cannot be unpacked: {error}"
        ))
    };
    let mut total = 0;
    let mut body = Vec::new();
    loop {
        let mut header = Vec::with_capacity(HEADER as usize);
        source
            .by_ref()
            .take(HEADER)
            .read_to_end(&mut header)
            .map_err(failed)?;
        if header.is_empty() {
            break;
        }
        let mut reader = Reader::new(&header);
        let timestamp = reader.u32()?;
        let event_type = reader.u8()?;
        let server_id = reader.u32()?;
        let length = u64::from(reader.u32()?);
        let header = EventHeader {
            timestamp,
            event_type,
            server_id,
            end_log_pos: reader.u32()?,
            flags: reader.u16()?,
        };
        let Some(body_length) = length.checked_sub(HEADER).filter(|l| *l <= MAX_EVENT) else {
            return malformed(format!(
                "an event of {length} bytes in a compressed transaction"
            ));
        };
        body.clear();
        source
            .by_ref()
            .take(body_length)
            .read_to_end(&mut body)
            .map_err(failed)?;
        if body.len() as u64 != body_length {
            return malformed("a compressed transaction ends within an event");
        }
        total += length;
        if unpacked_size.is_some_and(|size| total > size) {
            return malformed("a compressed transaction unpacks to more than it says");
        }
        each(header, &body)?;
    }
    if unpacked_size.is_some_and(|size| total != size) {
        return malformed("a compressed transaction unpacks to less than it says");
    }
    Ok(())
}
