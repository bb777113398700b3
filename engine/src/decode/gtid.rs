//! GTID events of both servers: the start of a transaction.

use super::event::Event;
use super::reader::{Reader, Result, malformed, utf8};
use crate::gtid::Gtid;

/// The highest bit of a 7-byte timestamp says that the original's follows.
const ORIGINAL_FOLLOWS: u64 = 1 << 55;

/// GTID_LOG_EVENT and ANONYMOUS_GTID_LOG_EVENT of MySQL.
pub(super) fn decode_mysql(body: &[u8], anonymous: bool) -> Result<Event> {
    let mut reader = Reader::new(body);
    let _flags = reader.u8()?;
    let uuid = reader.array::<16>()?;
    let number = reader.u64()?;
    let mut immediate_commit = None;
    let mut original_commit = None;
    // MySQL 5.7 and later add the logical clock, 8.0 the times. A 2 stands in front of the clock.
    if !reader.is_empty() && reader.u8()? == 2 {
        reader.bytes(16)?;
        if reader.left() >= 7 {
            let immediate = reader.uint(7)?;
            immediate_commit = Some(immediate & (ORIGINAL_FOLLOWS - 1));
            original_commit = if immediate & ORIGINAL_FOLLOWS == 0 {
                immediate_commit
            } else {
                Some(reader.uint(7)?)
            };
        }
    }
    Ok(Event::Gtid {
        gtid: (!anonymous).then(|| Gtid::MySql {
            uuid,
            tag: "".into(),
            number,
        }),
        immediate_commit,
        original_commit,
        standalone: false,
        xa: false,
        two_phase_alter: false,
    })
}

/// An integer of MySQL's serialization library: the trailing one bits of the first byte count the
/// bytes that follow it.
fn varint(reader: &mut Reader<'_>) -> Result<u64> {
    let first = reader.u8()?;
    let more = first.trailing_ones();
    let following = reader.uint(more as usize)?;
    if more >= 7 {
        // No bits of the value are left in the first byte.
        return Ok(following);
    }
    Ok(u64::from(first >> (more + 1)) | (following << (7 - more)))
}

/// A signed one: the sign in the lowest bit.
fn signed_varint(reader: &mut Reader<'_>) -> Result<i64> {
    let raw = varint(reader)?;
    Ok(((raw >> 1) as i64) ^ -((raw & 1) as i64))
}

/// GTID_TAGGED_LOG_EVENT of MySQL 8.3 and later: fields with numbers, in MySQL's serialization.
pub(super) fn decode_tagged(body: &[u8]) -> Result<Event> {
    const FIELD_FLAGS: u64 = 0;
    const FIELD_UUID: u64 = 1;
    const FIELD_NUMBER: u64 = 2;
    const FIELD_TAG: u64 = 3;
    const FIELD_LAST_COMMITTED: u64 = 4;
    const FIELD_SEQUENCE: u64 = 5;
    const FIELD_IMMEDIATE_COMMIT: u64 = 6;
    const FIELD_ORIGINAL_COMMIT: u64 = 7;

    let mut reader = Reader::new(body);
    let version = varint(&mut reader)?;
    if version != 1 {
        return malformed(format!(
            "a tagged GTID event has serialization version {version}; twinlog knows 1: this server \
             is newer than twinlog"
        ));
    }
    let _size = varint(&mut reader)?;
    let last_essential = varint(&mut reader)?;
    let mut uuid = [0; 16];
    let mut number = None;
    let mut tag: Box<str> = "".into();
    let mut immediate_commit = None;
    let mut original_commit = None;
    while !reader.is_empty() {
        match varint(&mut reader)? {
            FIELD_FLAGS => drop(varint(&mut reader)?),
            FIELD_UUID => {
                for byte in &mut uuid {
                    let value = varint(&mut reader)?;
                    *byte = match u8::try_from(value) {
                        Ok(byte) => byte,
                        Err(_) => return malformed("a UUID in a tagged GTID event is broken"),
                    };
                }
            }
            FIELD_NUMBER => match u64::try_from(signed_varint(&mut reader)?) {
                Ok(value) => number = Some(value),
                Err(_) => return malformed("a tagged GTID has a negative number"),
            },
            FIELD_TAG => {
                let length = varint(&mut reader)?;
                if length > 32 {
                    return malformed(format!("a GTID tag has {length} bytes; 32 are the most"));
                }
                tag = utf8(reader.bytes(length as usize)?)?.into();
            }
            FIELD_LAST_COMMITTED | FIELD_SEQUENCE => drop(varint(&mut reader)?),
            FIELD_IMMEDIATE_COMMIT => immediate_commit = Some(varint(&mut reader)?),
            FIELD_ORIGINAL_COMMIT => {
                original_commit = Some(varint(&mut reader)?);
            }
            // Length, versions, group ticket: nothing here acts on them.
            8..=11 => drop(varint(&mut reader)?),
            unknown if unknown <= last_essential => {
                return malformed(format!(
                    "a tagged GTID event has the essential field {unknown}, which is not known: \
                     this server is newer than twinlog"
                ));
            }
            // Fields come in order, so nothing that is known can follow an unknown one.
            _ => break,
        }
    }
    let Some(number) = number else {
        return malformed("a tagged GTID event has no number");
    };
    Ok(Event::Gtid {
        gtid: Some(Gtid::MySql { uuid, tag, number }),
        immediate_commit,
        original_commit: original_commit.or(immediate_commit),
        standalone: false,
        xa: false,
        two_phase_alter: false,
    })
}

/// GTID_EVENT of MariaDB. The server is the one in the event's header.
pub(super) fn decode_mariadb(body: &[u8], server_id: u32) -> Result<Event> {
    const STANDALONE: u8 = 1;
    const GROUP_COMMIT_ID: u8 = 2;
    const PREPARED_XA: u8 = 64;
    const COMPLETED_XA: u8 = 128;
    // Of the second byte of flags.
    const START_ALTER: u8 = 2;
    const COMMIT_ALTER: u8 = 4;
    const ROLLBACK_ALTER: u8 = 8;

    let mut reader = Reader::new(body);
    let sequence = reader.u64()?;
    let domain = reader.u32()?;
    let flags = reader.u8()?;
    if flags & GROUP_COMMIT_ID != 0 {
        reader.u64()?;
    }
    if flags & (PREPARED_XA | COMPLETED_XA) != 0 {
        let _format = reader.u32()?;
        let length = usize::from(reader.u8()?) + usize::from(reader.u8()?);
        reader.bytes(length)?;
    }
    // Left out where it is 0, unless the event is filled up to its least length with zeros.
    let more = if reader.is_empty() { 0 } else { reader.u8()? };
    Ok(Event::Gtid {
        gtid: Some(Gtid::MariaDb {
            domain,
            server_id,
            sequence,
        }),
        immediate_commit: None,
        original_commit: None,
        standalone: flags & STANDALONE != 0,
        xa: flags & (PREPARED_XA | COMPLETED_XA) != 0,
        two_phase_alter: more & (START_ALTER | COMMIT_ALTER | ROLLBACK_ALTER) != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn tagged() {
        // Captured from MySQL 9.7.4 with gtid_next='automatic:twinlog'.
        let body = hex(
            "027a0000000218b103fa6d039903e50222c5032902a10204f103000000020408060e7477696e6c6f67\
             08100a140c7fcf3c66e8e3600610a9081283120b",
        );
        let Event::Gtid {
            gtid,
            immediate_commit,
            original_commit,
            ..
        } = decode_tagged(&body).unwrap()
        else {
            panic!("not a GTID");
        };
        assert_eq!(
            gtid.unwrap().to_string(),
            "0cec7ddb-e6b9-11f1-8aa8-02fc00000001:twinlog:2"
        );
        assert_eq!(immediate_commit, Some(0x06_60e3_e866_3ccf));
        assert_eq!(original_commit, immediate_commit);
    }

    #[test]
    fn untagged() {
        let body = hex(
            "010cec7ddbe6b911f18aa802fc000000010300000000000000020200000000000000030000000000000\
             0aa8453e7e36006fc3f0250620100",
        );
        let Event::Gtid {
            gtid,
            immediate_commit,
            ..
        } = decode_mysql(&body, false).unwrap()
        else {
            panic!("not a GTID");
        };
        assert_eq!(
            gtid.unwrap().to_string(),
            "0cec7ddb-e6b9-11f1-8aa8-02fc00000001:3"
        );
        assert_eq!(immediate_commit, Some(0x06_60e3_e753_84aa));
    }

    #[test]
    fn mariadb_flags() {
        let flags = |flags: u8, rest: &[u8]| {
            let mut body = vec![9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, flags];
            body.extend_from_slice(rest);
            match decode_mariadb(&body, 7).unwrap() {
                Event::Gtid {
                    two_phase_alter,
                    xa,
                    ..
                } => (two_phase_alter, xa),
                _ => panic!("not a GTID"),
            }
        };
        assert_eq!(flags(4, &[0; 6]), (false, false));
        // START ALTER, filled up; COMMIT ALTER behind a commit id, with its start's number.
        assert_eq!(flags(1, &[2, 0, 0, 0, 0, 0]), (true, false));
        let commit = [1, 0, 0, 0, 0, 0, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(flags(3, &commit), (true, false));
        // The XID's bytes are no flags.
        let xid = [1, 0, 0, 0, 2, 1, b'\x02', b'\x04', b'\x08'];
        assert_eq!(flags(64, &xid), (false, true));
        assert!(decode_mariadb(&[0; 13], 7).is_ok());
    }

    #[test]
    fn varints() {
        let read = |bytes: &[u8]| varint(&mut Reader::new(bytes)).unwrap();
        assert_eq!(read(&[0x83, 0x12, 0x0b]), 90704);
        assert_eq!(read(&[0xb1, 0x03]), 0xec);
        assert_eq!(read(&[0xff; 9]), u64::MAX);
        assert!(varint(&mut Reader::new(&[0xff, 1])).is_err());
        assert_eq!(signed_varint(&mut Reader::new(&[0x02])).unwrap(), -1);
    }
}
