//! A byte reader that checks every bound: the only way in which the decoder touches an event.

use std::fmt;

/// Bytes of the log that do not mean what they should, or mean something that cannot be
/// replicated. The message says what, where in the event's table, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError(pub String);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DecodeError {}

/// Shorthand for results of this module.
pub(crate) type Result<T, E = DecodeError> = std::result::Result<T, E>;

/// Makes an error.
pub(crate) fn malformed<T>(message: impl Into<String>) -> Result<T> {
    Err(DecodeError(message.into()))
}

/// The bytes that are left of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

#[cold]
fn short(wanted: usize, left: usize) -> DecodeError {
    DecodeError(format!(
        "the event ends too early: {wanted} bytes wanted, {left} left"
    ))
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    #[inline]
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(count) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(short(count, self.rest.len())),
        }
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.rest.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(*taken)
            }
            None => Err(short(N, self.rest.len())),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Little-endian, `count` <= 8 bytes.
    #[inline]
    pub(crate) fn uint(&mut self, count: usize) -> Result<u64> {
        let taken = self.bytes(count)?;
        Ok(taken
            .iter()
            .rev()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    /// Big-endian, `count` <= 8 bytes.
    #[inline]
    pub(crate) fn uint_be(&mut self, count: usize) -> Result<u64> {
        let taken = self.bytes(count)?;
        Ok(taken
            .iter()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    /// The protocol's length-encoded integer.
    pub(crate) fn lenenc(&mut self) -> Result<u64> {
        match self.u8()? {
            small @ 0..=250 => Ok(u64::from(small)),
            252 => self.uint(2),
            253 => self.uint(3),
            254 => self.uint(8),
            other => malformed(format!("{other} is not the start of a length")),
        }
    }

    /// A length-encoded integer that counts bytes of this event: never more than are left.
    pub(crate) fn length(&mut self) -> Result<usize> {
        let length = self.lenenc()?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.left())
            .ok_or_else(|| DecodeError(format!("a length of {length} is beyond the event's end")))
    }

    /// Up to the next NUL, which is taken too.
    pub(crate) fn until_nul(&mut self) -> Result<&'a [u8]> {
        let end = self
            .rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(|| DecodeError("a name has no end".to_owned()))?;
        let name = self.bytes(end)?;
        self.u8()?;
        Ok(name)
    }
}

/// Reads a name that the servers store as UTF-8.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes)
        .map_err(|_| DecodeError(format!("a name is not UTF-8: {}", bytes.escape_ascii())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bounded_by_the_event() {
        assert_eq!(Reader::new(&[252, 1, 1]).lenenc().unwrap(), 257);
        assert!(Reader::new(&[252, 1, 1]).length().is_err());
        assert!(
            Reader::new(&[254, 255, 255, 255, 255, 255, 255, 255, 255])
                .length()
                .is_err()
        );
        assert!(Reader::new(&[251]).lenenc().is_err());
        assert!(Reader::new(&[1, 2]).bytes(3).is_err());
    }
}
