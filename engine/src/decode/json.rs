//! MySQL's binary JSON.

/// A JSON document as the binlog carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct Json {
    bytes: Box<[u8]>,
}

impl Json {
    /// Memory that the document takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.bytes.len()
    }
}
