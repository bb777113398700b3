//! Walks over the tokens of a logged statement: words, names and literals.

use super::lexer::{Kind, Token};
use super::{ObjectName, Xid};

/// Reads tokens from the left. A method that gives `None` did not find what it looks for; the
/// statement is then unknown.
pub(super) struct Reader<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) at: usize,
    pub(super) default_database: &'a str,
}

/// A name in the statement: database (where given) and object.
pub(super) struct Name {
    pub(super) object: ObjectName,
    pub(super) utf8: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    pub(super) fn rest(&self) -> &'a [Token] {
        self.tokens.get(self.at..).unwrap_or_default()
    }

    /// Passes over `words` if all of them are next.
    pub(super) fn skip(&mut self, words: &[&str]) -> bool {
        let rest = self.rest();
        let found =
            words.len() <= rest.len() && words.iter().zip(rest).all(|(word, token)| token.is(word));
        if found {
            self.at += words.len();
        }
        found
    }

    pub(super) fn skip_symbol(&mut self, symbol: u8) -> bool {
        let found = self.peek().is_some_and(|token| token.is_symbol(symbol));
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_if_exists(&mut self) {
        let _ = self.skip(&["IF", "EXISTS"]) || self.skip(&["IF", "NOT", "EXISTS"]);
    }

    pub(super) fn identifier(&mut self) -> Option<(String, bool)> {
        let bytes = match &self.peek()?.kind {
            Kind::Word(bytes) | Kind::Quoted(bytes) => bytes,
            _ => return None,
        };
        let text = std::str::from_utf8(bytes);
        let identifier = match text {
            Ok(text) => (text.to_owned(), true),
            Err(_) => (String::from_utf8_lossy(bytes).into_owned(), false),
        };
        self.at += 1;
        Some(identifier)
    }

    /// `name`, `.name` or `database.name`.
    pub(super) fn name(&mut self) -> Option<Name> {
        self.skip_symbol(b'.');
        let (first, first_utf8) = self.identifier()?;
        if self.skip_symbol(b'.') {
            let (second, second_utf8) = self.identifier()?;
            return Some(Name {
                object: ObjectName {
                    database: first,
                    name: second,
                },
                utf8: first_utf8 && second_utf8,
            });
        }
        Some(Name {
            object: ObjectName {
                database: self.default_database.to_owned(),
                name: first,
            },
            utf8: first_utf8,
        })
    }

    /// Names with commas between them.
    pub(super) fn names(&mut self) -> Option<Vec<Name>> {
        let mut names = vec![self.name()?];
        while self.skip_symbol(b',') {
            names.push(self.name()?);
        }
        Some(names)
    }

    pub(super) fn xid(&mut self) -> Option<Xid> {
        let gtrid = self.literal()?;
        let mut bqual = Vec::new();
        let mut format = 1;
        if self.skip_symbol(b',') {
            bqual = self.literal()?;
            if self.skip_symbol(b',') {
                let (number, _) = self.identifier()?;
                format = match number.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16).ok()?,
                    None => number.parse().ok()?,
                };
            }
        }
        Some(Xid {
            gtrid,
            bqual,
            format,
        })
    }

    /// `'text'`, `X'hex'` or `0xhex`.
    pub(super) fn literal(&mut self) -> Option<Vec<u8>> {
        if self.skip(&["X"]) {
            let Kind::Text(digits) = &self.peek()?.kind else {
                return None;
            };
            let bytes = unhex(digits);
            self.at += 1;
            return bytes;
        }
        let bytes = match &self.peek()?.kind {
            Kind::Text(text) => Some(text.clone()),
            Kind::Word(word) => unhex(word.strip_prefix(b"0x")?),
            _ => None,
        };
        self.at += 1;
        bytes
    }
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let pairs = digits.chunks_exact(2);
    pairs
        .map(|pair| {
            let digits = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(digits, 16).ok()
        })
        .collect()
}
