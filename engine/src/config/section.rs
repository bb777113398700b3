//! One table of the file, read key by key: every problem names its line, and no key goes unread.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::units;

/// A problem in the file: `line 7: unknown key ..`.
pub(super) type Problem = String;

/// Says where in the text something is.
pub(super) fn at(text: &str, span: &Range<usize>, problem: impl std::fmt::Display) -> Problem {
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    format!("line {line}: {problem}")
}

/// A table of the file, such as `[engine]`.
pub(super) struct Section<'a> {
    text: &'a str,
    /// As written, such as `[engine]`; for messages.
    title: &'static str,
    span: Range<usize>,
    table: Option<&'a DeTable<'a>>,
}

impl<'a> Section<'a> {
    /// Takes a table whose keys are all among `known`. `elsewhere` lists the other sections' keys,
    /// to tell a misplaced key from a misspelt one.
    pub(super) fn open(
        text: &'a str,
        title: &'static str,
        value: Option<&'a Spanned<DeValue<'a>>>,
        known: &[&str],
        elsewhere: &[(&str, &[&str])],
    ) -> Result<Self, Problem> {
        let (span, table) = match value {
            None => (0..0, None),
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => (value.span(), Some(table)),
                other => {
                    let problem = format!("{title} is a {}, not a table", other.type_str());
                    return Err(at(text, &value.span(), problem));
                }
            },
        };
        for key in table.iter().flat_map(|table| table.keys()) {
            if !known.contains(&key.get_ref().as_ref()) {
                let problem = unknown_key(title, key.get_ref(), known, elsewhere);
                return Err(at(text, &key.span(), problem));
            }
        }
        Ok(Self {
            text,
            title,
            span,
            table,
        })
    }

    /// The value of a key, with its span.
    pub(super) fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    /// A problem with the value of this key, or, where it is missing, with the section.
    pub(super) fn problem(&self, key: &str, problem: impl std::fmt::Display) -> Problem {
        match self.value(key) {
            Some(value) => at(self.text, &value.span(), format!("{key}: {problem}")),
            None if self.table.is_some() => {
                at(self.text, &self.span, format!("{}: {problem}", self.title))
            }
            None => format!("{}: {problem}", self.title),
        }
    }

    fn missing(&self, key: &str, example: &str) -> Problem {
        self.problem(key, format!("{key} is missing; write {key} = {example}"))
    }

    fn wrong_type(&self, key: &str, value: &DeValue<'_>, wanted: &str) -> Problem {
        // The value itself stays out of the message: it may be a secret in the wrong place.
        self.problem(key, format!("a {} is not {wanted}", value.type_str()))
    }

    /// A string.
    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, Problem> {
        match self.value(key).map(Spanned::get_ref) {
            None => Ok(None),
            Some(DeValue::String(text)) => Ok(Some(text.as_ref())),
            Some(other) => Err(self.wrong_type(key, other, "a string")),
        }
    }

    /// A string that must be there.
    pub(super) fn required(&self, key: &str, example: &str) -> Result<&'a str, Problem> {
        self.string(key)?.ok_or_else(|| self.missing(key, example))
    }

    /// A list of strings; empty where it is missing.
    pub(super) fn strings(&self, key: &str) -> Result<Vec<&'a str>, Problem> {
        let array = match self.value(key).map(Spanned::get_ref) {
            None => return Ok(Vec::new()),
            Some(DeValue::Array(array)) => array,
            Some(other) => return Err(self.wrong_type(key, other, "a list of strings")),
        };
        array
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Ok(text.as_ref()),
                other => Err(self.wrong_type(key, other, "a string")),
            })
            .collect()
    }

    /// A whole number within a range.
    pub(super) fn number(
        &self,
        key: &str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize, Problem> {
        let number = match self.value(key).map(Spanned::get_ref) {
            None => return Ok(default),
            Some(DeValue::Integer(integer)) => {
                usize::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
            }
            Some(other) => return Err(self.wrong_type(key, other, "a whole number")),
        };
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                self.problem(key, format!("must lie between {low} and {high}"))
            })
    }

    /// A duration within a range.
    pub(super) fn duration(
        &self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, Problem> {
        let Some(text) = self.string(key)? else {
            return Ok(default);
        };
        let duration = units::duration(text).map_err(|problem| self.problem(key, problem))?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let low = units::show_duration(*range.start());
        let high = units::show_duration(*range.end());
        Err(self.problem(key, format!("must lie between {low} and {high}")))
    }

    /// A size in bytes within a range: a string with a unit, or a number.
    pub(super) fn size(
        &self,
        key: &str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize, Problem> {
        let bytes = match self.value(key).map(Spanned::get_ref) {
            None => return Ok(default),
            Some(DeValue::String(text)) => {
                units::size(text).map_err(|problem| self.problem(key, problem))?
            }
            Some(DeValue::Integer(integer)) => {
                units::size(&integer.as_str().replace('_', "")).unwrap_or(0)
            }
            Some(other) => {
                return Err(self.wrong_type(key, other, "a size such as \"64MiB\""));
            }
        };
        usize::try_from(bytes)
            .ok()
            .filter(|bytes| range.contains(bytes))
            .ok_or_else(|| {
                let low = units::show_size(*range.start() as u64);
                let high = units::show_size(*range.end() as u64);
                self.problem(key, format!("must lie between {low} and {high}"))
            })
    }
}

/// Names the nearest right key, or the section where the key belongs.
fn unknown_key(title: &str, key: &str, known: &[&str], elsewhere: &[(&str, &[&str])]) -> Problem {
    if let Some((section, _)) = elsewhere.iter().find(|(_, keys)| keys.contains(&key)) {
        return format!("unknown key '{key}' in {title}: it belongs in {section}");
    }
    let nearest = nearest(key, known.iter().copied());
    match nearest {
        Some(nearest) => format!("unknown key '{key}' in {title}: did you mean '{nearest}'?"),
        None => format!(
            "unknown key '{key}' in {title}: the keys there are {}",
            known.join(", ")
        ),
    }
}

/// The name that was most likely meant, if any comes near.
pub(super) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        // Below this the suggestion puzzles more than it helps.
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
