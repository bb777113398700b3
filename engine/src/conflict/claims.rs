//! The last local claim of each key, in memory up to a limit and beyond that on disk.

use std::collections::{HashMap, VecDeque};

use super::claim::ClaimKind;
use super::key::KeyHash;
use super::window::LocalWrite;
use crate::error::Result;
use crate::position::LogPos;
use crate::position::overflow::Overflow;

/// Claims of keys, dropped from the front of the log.
#[derive(Debug)]
pub(super) struct Claims {
    /// Last claim of each key in memory.
    keys: HashMap<KeyHash, LocalWrite>,
    /// Every one of them in log order. A key claimed again has a later entry too; only that one
    /// removes it.
    order: VecDeque<(LogPos, KeyHash)>,
    /// Most entries of `order`.
    limit: usize,
    overflow: Option<Overflow>,
}

impl Claims {
    /// Without a limit.
    pub(super) fn unlimited() -> Self {
        Self::limited(usize::MAX, None)
    }

    /// At most `limit` claims in memory.
    pub(super) fn limited(limit: usize, overflow: Option<Overflow>) -> Self {
        Self {
            keys: HashMap::new(),
            order: VecDeque::new(),
            limit,
            overflow,
        }
    }

    pub(super) fn put(&mut self, key: KeyHash, write: LocalWrite) -> Result<()> {
        if let Some(overflow) = &mut self.overflow
            && self.order.len() >= self.limit
        {
            return overflow.put(place(write.position), key.to_bytes(), encode(write));
        }
        let before = self.keys.insert(key, write);
        if before.is_none_or(|before| before.position != write.position) {
            self.order.push_back((write.position, key));
        }
        Ok(())
    }

    pub(super) fn get(&self, key: KeyHash) -> Result<Option<LocalWrite>> {
        let here = self.keys.get(&key).copied();
        let there = match &self.overflow {
            Some(overflow) => overflow.get(key.to_bytes())?,
            None => None,
        };
        let there = there.and_then(|bytes| decode(&bytes));
        Ok(match (here, there) {
            (Some(here), Some(there)) if there.position >= here.position => Some(there),
            (None, there) => there,
            (here, _) => here,
        })
    }

    pub(super) fn drop_front(&mut self, upto: LogPos) {
        while let Some((position, key)) = self.order.front() {
            if *position > upto {
                break;
            }
            if self
                .keys
                .get(key)
                .is_some_and(|write| write.position == *position)
            {
                self.keys.remove(key);
            }
            self.order.pop_front();
        }
        if let Some(overflow) = &mut self.overflow {
            overflow.drop_front(place(upto));
        }
    }

    /// Number of claims, and how many of them are on disk.
    pub(super) fn len(&self) -> (usize, usize) {
        let there = self.overflow.as_ref().map_or(0, Overflow::len);
        (self.keys.len() + there, there)
    }
}

/// A position as bytes that sort alike.
pub(super) fn place(position: LogPos) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&u64::from(position.file).to_be_bytes());
    bytes[8..].copy_from_slice(&position.offset.to_be_bytes());
    bytes
}

fn encode(write: LocalWrite) -> [u8; 25] {
    let kind = match write.kind {
        ClaimKind::Image => 0,
        ClaimKind::Tombstone => 1,
        ClaimKind::Emptied => 2,
    };
    let mut bytes = [kind; 25];
    bytes[..16].copy_from_slice(&place(write.position));
    bytes[16..24].copy_from_slice(&write.effective.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<LocalWrite> {
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        Some(u64::from_be_bytes(bytes.get(range)?.try_into().ok()?))
    };
    Some(LocalWrite {
        position: LogPos::new(u32::try_from(number(0..8)?).ok()?, number(8..16)?),
        effective: number(16..24)?,
        kind: match bytes.get(24)? {
            0 => ClaimKind::Image,
            1 => ClaimKind::Tombstone,
            _ => ClaimKind::Emptied,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u8) -> KeyHash {
        KeyHash::whole_table("d", &number.to_string())
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8),
        Drop(u64),
    }

    proptest! {
        /// With nearly all of it on disk it answers as if all were in memory.
        #[test]
        fn what_is_on_disk_is_found(
            steps in prop::collection::vec(
                prop_oneof![4 => (0..12_u8).prop_map(Step::Put), 1 => (0..40_u64).prop_map(Step::Drop)],
                1..120,
            ),
            limit in 0..6_usize,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let overflow = Overflow::open(&folder.path().join("window")).unwrap();
            let mut limited = Claims::limited(limit, Some(overflow));
            let mut unlimited = Claims::unlimited();
            let mut acknowledged = 0;
            for (now, step) in steps.iter().enumerate() {
                match step {
                    Step::Put(number) => {
                        let write = LocalWrite {
                            position: LogPos::new(1 + now as u32 / 20, now as u64),
                            effective: now as u64,
                            kind: [ClaimKind::Image, ClaimKind::Tombstone, ClaimKind::Emptied][now % 3],
                        };
                        limited.put(key(*number), write).unwrap();
                        unlimited.put(key(*number), write).unwrap();
                    }
                    Step::Drop(far) => {
                        acknowledged = acknowledged.max(now as u64 * far / 40);
                        let upto = LogPos::new(1 + acknowledged as u32 / 20, acknowledged);
                        limited.drop_front(upto);
                        unlimited.drop_front(upto);
                    }
                }
                for number in 0..12 {
                    prop_assert_eq!(
                        limited.get(key(number)).unwrap(),
                        unlimited.get(key(number)).unwrap()
                    );
                }
            }
        }
    }
}
