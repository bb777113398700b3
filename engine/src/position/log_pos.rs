//! A place in one server's binlog.

use std::fmt;
use std::sync::Arc;

/// A place in one server's binlog: the file's number and the byte offset in it.
///
/// Orders as the log does. Positions of two servers must never be compared; the type does not know
/// whose it is, the fields and arguments that carry it say so.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct LogPos {
    /// The number behind the last dot of the file name.
    pub file: u32,
    /// Bytes from the start of the file.
    pub offset: u64,
}

impl LogPos {
    /// Makes a position.
    #[must_use]
    pub const fn new(file: u32, offset: u64) -> Self {
        Self { file, offset }
    }

    /// The offset of an event's end, from the 32-bit field in its header.
    ///
    /// The field wraps in files above 4 GiB (one huge transaction can make such a file), so the
    /// carry is taken from the position before. Zero means that the event is not in the file
    /// (an artificial one) and leaves the position where it was.
    #[must_use]
    pub fn advanced_to(self, end_log_pos: u32) -> Self {
        if end_log_pos == 0 {
            return self;
        }
        const WRAP: u64 = 1 << 32;
        let mut offset = (self.offset & !(WRAP - 1)) | u64::from(end_log_pos);
        // A real wrap falls back by nearly 4 GiB; a repeated event (as after a reconnect) by less.
        if offset + WRAP / 2 < self.offset {
            offset += WRAP;
        }
        Self {
            file: self.file,
            offset,
        }
    }
}

/// The part of a server's binlog file names in front of the number, such as `mysql-bin`, and how
/// many digits the number is written with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogName {
    base: Arc<str>,
    digits: usize,
}

impl LogName {
    /// Splits `mysql-bin.000012` into its name and the number 12. `None` where there is no number.
    #[must_use]
    pub fn split(file: &str) -> Option<(Self, u32)> {
        let (base, number) = file.rsplit_once('.')?;
        if base.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let name = Self {
            base: base.into(),
            digits: number.len(),
        };
        Some((name, number.parse().ok()?))
    }

    /// The file name with this number, such as `mysql-bin.000012`.
    #[must_use]
    pub fn file(&self, number: u32) -> String {
        format!(
            "{}.{:0digits$}",
            self.base,
            number,
            digits = self.digits.min(20)
        )
    }

    /// `file:offset`, as people write positions.
    #[must_use]
    pub fn show(&self, pos: LogPos) -> String {
        format!("{}:{}", self.file(pos.file), pos.offset)
    }

    /// Whether both are the same log's names; the digits grow from 6 to 7 after 999999 files.
    #[must_use]
    pub fn same_log(&self, other: &Self) -> bool {
        self.base == other.base
    }
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}:{}", self.file, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_and_join() {
        let (name, number) = LogName::split("my.sql-bin.000012").unwrap();
        assert_eq!(number, 12);
        assert_eq!(name.file(13), "my.sql-bin.000013");
        assert_eq!(name.show(LogPos::new(1_000_000, 4)), "my.sql-bin.1000000:4");
        assert!(LogName::split("binlog").is_none());
        assert!(LogName::split("binlog.00x").is_none());
    }

    #[test]
    fn offsets_carry_over_four_gibibytes() {
        let near = LogPos::new(3, u64::from(u32::MAX) - 10);
        assert_eq!(near.advanced_to(20).offset, (1 << 32) + 20);
        assert_eq!(near.advanced_to(0), near);
        assert_eq!(LogPos::new(3, 100).advanced_to(90).offset, 90);
        let beyond = LogPos::new(3, (1 << 32) + 500);
        assert_eq!(beyond.advanced_to(700).offset, (1 << 32) + 700);
    }
}
