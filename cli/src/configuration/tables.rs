//! Tables of a file. Each is read on its own, so that a mistake in one does not hide mistakes in another.

use std::ops::Range;
use std::path::Path;

use bitzel_cas::composition::store_configuration::Problem;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Segment, Track};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::mistake::{Mistake, SourceFile};
use super::schema::KeySchemas;
use crate::command_error::CommandError;

/// Prefix of the names that `toml` gives to the parts of a `Spanned`.
const SPANNED_PREFIX: &str = "$__";

/// Tables of a file that were not read yet, and the mistakes in those that were.
#[derive(Debug)]
pub(super) struct Tables<'text> {
    path: &'text Path,
    file: SourceFile,
    schemas: KeySchemas,
    /// The whole file, to find keys in.
    document: DeTable<'text>,
    unread: DeTable<'text>,
    problems: Vec<Problem>,
}

impl<'text> Tables<'text> {
    /// Parses a text. If it is not TOML, that is the only kind of mistake that can be reported.
    pub(super) fn parse(
        path: &'text Path,
        text: &'text str,
        schemas: KeySchemas,
    ) -> Result<Self, CommandError> {
        let (document, errors) = DeTable::parse_recoverable(text);
        let document = document.into_inner();
        let tables = Self {
            path,
            file: SourceFile::new(path, text),
            schemas,
            unread: document.clone(),
            document,
            problems: vec![],
        };
        if errors.is_empty() {
            return Ok(tables);
        }
        let problems = errors.into_iter().map(|error| Problem {
            key: String::new(),
            span: error.span(),
            message: format!("not valid TOML: {}", error.message()),
            hint: None,
        });
        Err(tables.error(problems.collect()))
    }

    /// Reads a table. `None` if it does not exist or has a mistake.
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.unread.remove(name)?;
        let mut track = Track::new();
        let deserializer = ValueDeserializer::from(value.clone());
        let deserializer = serde_path_to_error::Deserializer::new(deserializer, &mut track);
        match T::deserialize(deserializer) {
            Ok(table) => Some(table),
            Err(error) => {
                let key = key(name, &track.path());
                let hint = self.schemas.hint(&key);
                let message = if hint.is_some() {
                    found(error.message())
                } else {
                    error.message()
                };
                self.problems.push(Problem {
                    span: error.span().or_else(|| Some(value.span())),
                    message: message.to_owned(),
                    hint,
                    key,
                });
                None
            }
        }
    }

    /// True if the file has this table and it was not read yet.
    pub(super) fn has(&self, name: &str) -> bool {
        self.unread.contains_key(name)
    }

    /// Reports all mistakes: those found while reading, tables that were not read, and `further` ones.
    pub(super) fn finish(mut self, further: Vec<Problem>) -> Result<(), CommandError> {
        for (name, _) in &self.unread {
            self.problems.push(Problem {
                key: name.get_ref().to_string(),
                span: Some(name.span()),
                message: "unknown table".to_owned(),
                hint: Some(format!("known tables: {}", self.schemas.keys().join(", "))),
            });
        }
        self.problems.extend(further);
        for problem in &mut self.problems {
            if problem.span.is_none() {
                problem.span = span(&self.document, &problem.key);
            }
        }
        let mut problems = std::mem::take(&mut self.problems);
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        if problems.is_empty() {
            Ok(())
        } else {
            Err(self.error(problems))
        }
    }

    fn error(&self, problems: Vec<Problem>) -> CommandError {
        let mistakes = problems.into_iter().map(|problem| Mistake {
            problem,
            file: self.file.clone(),
        });
        CommandError::new(format!("{} cannot be used", self.path.display())).diagnostics(mistakes)
    }
}

/// Key of a value: the name of its table and the path below it, as in `access.rules[0].allow`.
fn key(table: &str, path: &serde_path_to_error::Path) -> String {
    let mut text = table.to_owned();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } if key.starts_with(SPANNED_PREFIX) => {}
            Segment::Map { key: name } | Segment::Enum { variant: name } => {
                text.push_str(&format!(".{name}"));
            }
            Segment::Unknown => {}
        }
    }
    text
}

/// The part of a message that says what was found. The hint says what is expected, in better words.
fn found(message: &str) -> &str {
    match message.split_once(", expected ") {
        Some((found, _)) if message.starts_with("invalid ") => found,
        _ => message,
    }
}

/// Bytes of the name that a key ends with, or of its last part that exists in the document.
fn span(document: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let mut table = Some(document);
    let mut span = None;
    for part in key.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((found, value)) = table.and_then(|table| table.get_key_value(name)) else {
            break;
        };
        span = Some(found.span());
        table = match (value.get_ref(), index) {
            (DeValue::Table(table), _) => Some(table),
            (DeValue::Array(values), Some(index)) => {
                let value = values.get(index);
                span = value.map(Spanned::span).or(span);
                value.and_then(|value| value.get_ref().as_table())
            }
            _ => None,
        };
    }
    span
}
