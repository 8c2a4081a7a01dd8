//! Release of a distribution, from os-release(5).

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::Error;

/// Paths of the file, in the order in which os-release(5) has them read.
const PATHS: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// Fields that name the release. Others hold links and names for people, which a site may change.
const FIELDS: [&str; 7] = [
    "ID",
    "VERSION_ID",
    "VERSION_CODENAME",
    "BUILD_ID",
    "VARIANT_ID",
    "IMAGE_ID",
    "IMAGE_VERSION",
];

/// Longest part of a field in a name for people.
const MAX_NAME_PART: usize = 32;

/// Fields of os-release that name the release.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct OsRelease(BTreeMap<String, String>);

impl OsRelease {
    /// Reads the file of a root. A root without it has no fields.
    pub(super) fn read(root: &Path) -> Result<Self, Error> {
        for path in PATHS.map(|path| root.join(path)) {
            match fs::read(&path) {
                Ok(bytes) => return Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io_at("read", &path)(error)),
            }
        }
        Ok(Self::default())
    }

    /// Parses lines of the form `NAME=value`. The value may have quotes and backslashes, as in a shell.
    pub(super) fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| {
            let (name, value) = line.trim().split_once('=')?;
            FIELDS
                .contains(&name)
                .then(|| (name.to_owned(), without_quotes(value)))
        });
        Self(fields.filter(|(_, value)| !value.is_empty()).collect())
    }

    /// A line for each field.
    pub(super) fn lines(&self) -> Vec<String> {
        let fields = self.0.iter();
        fields
            .map(|(name, value)| format!("os {name} {value:?}"))
            .collect()
    }

    /// Name for people: `debian-12`, or `linux` without a file.
    pub(super) fn name(&self) -> String {
        let part = |name| {
            let value = self.0.get(name)?;
            let is_plain = |character: &char| character.is_ascii_alphanumeric() || ".".contains(*character);
            let plain: String = value.chars().filter(is_plain).take(MAX_NAME_PART).collect();
            (!plain.is_empty()).then_some(plain)
        };
        let id = part("ID").unwrap_or_else(|| "linux".to_owned());
        match part("VERSION_ID") {
            Some(version) => format!("{id}-{version}"),
            None => id,
        }
    }
}

fn without_quotes(value: &str) -> String {
    let mut plain = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' | '\'' => {}
            '\\' => plain.extend(characters.next()),
            other => plain.push(other),
        }
    }
    plain
}
