//! stub
#![allow(missing_docs)]
use super::policy::Winner;
pub enum ImageSql { None, Text(String), Expression(Vec<u8>) }
#[derive(Clone, Copy)]
pub enum JournalWinner { Local, Remote, Merged, None }
impl JournalWinner { pub fn as_str(self) -> &'static str { match self { Self::Local => "local", Self::Remote => "remote", Self::Merged => "merged", Self::None => "none" } } }
impl From<Winner> for JournalWinner { fn from(w: Winner) -> Self { match w { Winner::Local => Self::Local, Winner::Remote => Self::Remote } } }
pub struct Entry { pub origin: String, pub database: String, pub table: String, pub kind: String, pub policy: String, pub winner: JournalWinner, pub winner_node: String, pub columns: String, pub key_columns: String, pub local_position: Option<String>, pub local_effective: Option<u64>, pub origin_position: String, pub origin_gtid: String, pub origin_effective: u64, pub local_image: ImageSql, pub before_image: ImageSql, pub after_image: ImageSql, pub result_image: ImageSql, pub met: String, pub note: String }
pub fn insert(_schema: &str, _entries: &[Entry]) -> Vec<u8> { b"DO 1".to_vec() }
