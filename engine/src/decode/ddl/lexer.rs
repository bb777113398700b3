//! Splits a logged statement into tokens: just enough of both servers' lexical rules to name a
//! statement and what it touches. Works on bytes of any character set and never fails.
//!
//! A hand-written lexer and not a general SQL parser's: a logged statement may hold executable
//! comments, bytes that are not UTF-8 and grammar that no general parser knows, and here an unknown
//! statement has to come out as unknown, not as an error.

use std::ops::Range;

use crate::decode::event::Flavor;

/// The lexical part of `sql_mode`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Quoting {
    /// `"` quotes identifiers (`ANSI_QUOTES`).
    pub(super) ansi_quotes: bool,
    /// A backslash in a string is a character like any other (`NO_BACKSLASH_ESCAPES`).
    pub(super) no_backslash_escapes: bool,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword, an unquoted identifier or a number.
    Word(Vec<u8>),
    /// A quoted identifier, unquoted.
    Quoted(Vec<u8>),
    /// A string, unquoted and with its simplest escapes resolved.
    Text(Vec<u8>),
    /// Any other single byte.
    Symbol(u8),
}

/// A token and where its bytes are.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Range<usize>,
    /// How many parentheses are open around it.
    pub(super) depth: u32,
}

impl Token {
    /// Whether it is this unquoted word; `word` in upper case.
    pub(super) fn is(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(bytes) if bytes.eq_ignore_ascii_case(word.as_bytes()))
    }

    pub(super) fn is_symbol(&self, symbol: u8) -> bool {
        self.kind == Kind::Symbol(symbol)
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Splits `sql` up to its end or the first `;` outside of quotes.
pub(super) fn tokens(sql: &[u8], flavor: Flavor, quoting: Quoting) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut depth = 0_u32;
    let mut executable = false;
    while let Some(&byte) = sql.get(at) {
        let rest = &sql[at..];
        let start = at;
        let kind = match byte {
            _ if byte.is_ascii_whitespace() || byte == 0 || byte == 0x0b => {
                at += 1;
                continue;
            }
            b'#' => {
                at += line(rest);
                continue;
            }
            b'-' if rest.starts_with(b"--") && rest.get(2).is_none_or(|next| *next <= b' ') => {
                at += line(rest);
                continue;
            }
            b'*' if executable && rest.starts_with(b"*/") => {
                executable = false;
                at += 2;
                continue;
            }
            b'/' if rest.starts_with(b"/*") => {
                // A version-dependent comment that the origin did not execute is logged with the
                // `!` blanked, so what still has it is part of the statement, whatever its version.
                let opening = if rest.starts_with(b"/*!") {
                    3
                } else if flavor == Flavor::MariaDb
                    && (rest.starts_with(b"/*M!") || rest.starts_with(b"/*m!"))
                {
                    4
                } else {
                    0
                };
                if opening > 0 && !executable {
                    executable = true;
                    let digits = rest[opening..].iter().take(6);
                    at += opening + digits.take_while(|digit| digit.is_ascii_digit()).count();
                } else {
                    at += find(&rest[2..], b"*/").map_or(rest.len(), |end| end + 4);
                }
                continue;
            }
            b'`' => {
                let (text, length) = quoted(rest, b'`', false);
                at += length;
                Kind::Quoted(text)
            }
            b'"' if quoting.ansi_quotes => {
                let (text, length) = quoted(rest, b'"', false);
                at += length;
                Kind::Quoted(text)
            }
            b'\'' | b'"' => {
                let (text, length) = quoted(rest, byte, !quoting.no_backslash_escapes);
                at += length;
                Kind::Text(text)
            }
            b';' => break,
            _ if is_word_byte(byte) => {
                let length = rest.iter().take_while(|byte| is_word_byte(**byte)).count();
                at += length;
                Kind::Word(rest[..length].to_vec())
            }
            _ => {
                at += 1;
                Kind::Symbol(byte)
            }
        };
        if kind == Kind::Symbol(b')') {
            depth = depth.saturating_sub(1);
        }
        tokens.push(Token {
            span: start..at,
            depth,
            kind,
        });
        if byte == b'(' {
            depth = depth.saturating_add(1);
        }
    }
    tokens
}

/// Length of the rest of the line, its end included.
fn line(bytes: &[u8]) -> usize {
    find(bytes, b"\n").map_or(bytes.len(), |end| end + 1)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Reads from an opening quote to the closing one (or the end); gives the text and its length in
/// the statement.
fn quoted(bytes: &[u8], quote: u8, escapes: bool) -> (Vec<u8>, usize) {
    let mut text = Vec::new();
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte == quote {
            if bytes.get(at) != Some(&quote) {
                return (text, at);
            }
            at += 1;
        } else if byte == b'\\' && escapes {
            let Some(&escaped) = bytes.get(at) else {
                break;
            };
            at += 1;
            text.push(match escaped {
                b'0' => 0,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'b' => 8,
                b'Z' => 26,
                other => other,
            });
            continue;
        }
        text.push(byte);
    }
    (text, bytes.len())
}
