//! The tables of a file, each read on its own, so that what is wrong in one does not hide what is wrong in another.

use std::ops::Range;
use std::path::Path;

use bitzel_cas::composition::store_configuration::Problem;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// What the parts below TOML call what they want, and how to write it.
const EXPECTED: [(&str, &str); 8] = [
    ("parsable string", "a size, for example \"200GiB\""),
    ("a duration", "a duration, for example \"30s\" or \"12h\""),
    ("a boolean", "true or false"),
    ("a string", "a string in quotes, for example \"text\""),
    ("usize", "a whole number, for example 8"),
    ("u32", "a whole number, for example 8"),
    ("u64", "a whole number, for example 8"),
    ("a nonzero usize", "a whole number from 1, for example 8"),
];
const NO_ADDRESS: &str = "invalid socket address syntax";

/// The tables of a file that were not read yet, and what was wrong with those that were.
#[derive(Debug)]
pub(crate) struct Tables<'text> {
    text: &'text str,
    unread: DeTable<'text>,
    problems: Vec<Problem>,
}

impl<'text> Tables<'text> {
    /// Takes a text apart. What is no TOML is all that can be said about a text then.
    pub(crate) fn parse(path: &Path, text: &'text str) -> Result<Self, Vec<String>> {
        let (tables, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self {
                text,
                unread: tables.into_inner(),
                problems: vec![],
            });
        }
        let problems = errors.into_iter().map(|error| {
            let what = format!("this is no TOML: {}", error.message());
            (error.span(), what)
        });
        Err(problems
            .map(|(place, what)| format!("{}: {what}", at(path, text, place)))
            .collect())
    }

    /// Reads a table; `None` when it is not there, or not as it has to be.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.unread.remove(name)?;
        match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(table) => Some(table),
            Err(error) => {
                let place = error.span().unwrap_or_else(|| value.span());
                self.problems.push(Problem {
                    key: key_at(name, &value, &place).unwrap_or_else(|| name.to_owned()),
                    place: Some(place),
                    what: in_plain_words(error.message()),
                });
                None
            }
        }
    }

    /// Whether a table that was not read yet is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.unread.contains_key(name)
    }

    /// What was wrong, with those in `further`, a line for each. `known` are the names of all tables.
    pub(crate) fn finish(mut self, path: &Path, known: &[&str], further: Vec<Problem>) -> Vec<String> {
        for (name, _) in &self.unread {
            self.problems.push(Problem {
                key: name.get_ref().to_string(),
                place: Some(name.span()),
                what: format!("there is no such table; there are {}", known.join(", ")),
            });
        }
        self.problems.extend(further);
        self.problems
            .sort_by_key(|problem| problem.place.as_ref().map(|place| place.start));
        let lines = self
            .problems
            .into_iter()
            .map(|Problem { key, place, what }| format!("{}: {key}: {what}", at(path, self.text, place)));
        lines.collect()
    }
}

/// `file:line`, as far as that is known.
fn at(path: &Path, text: &str, place: Option<Range<usize>>) -> String {
    let before = place.and_then(|place| text.get(..place.start));
    let line = before.map(|before| format!(":{}", before.matches('\n').count() + 1));
    format!("{}{}", path.display(), line.unwrap_or_default())
}

/// The whole key of what is at a place in the text.
fn key_at(key: &str, value: &Spanned<DeValue<'_>>, place: &Range<usize>) -> Option<String> {
    let is_here = |span: Range<usize>| span.contains(&place.start);
    let below = |name: &str, value| key_at(&format!("{key}.{name}"), value, place);
    let mut found = None;
    match value.get_ref() {
        DeValue::Table(table) => {
            for (name, value) in table {
                let named = is_here(name.span()).then(|| format!("{key}.{}", name.get_ref()));
                found = found.or_else(|| below(name.get_ref(), value)).or(named);
            }
        }
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                found = found.or_else(|| key_at(&format!("{key}[{index}]"), value, place));
            }
        }
        _ => {}
    }
    found.or_else(|| is_here(value.span()).then(|| key.to_owned()))
}

fn in_plain_words(message: &str) -> String {
    if message == NO_ADDRESS {
        return "expected an address with a port, for example \"0.0.0.0:8980\"".to_owned();
    }
    for (theirs, ours) in EXPECTED {
        if let Some(start) = message
            .strip_suffix(theirs)
            .filter(|start| start.ends_with("expected "))
        {
            return format!("{start}{ours}");
        }
    }
    message.to_owned()
}
