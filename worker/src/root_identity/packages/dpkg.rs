//! Database of dpkg: paragraphs of fields, as in deb822(5).

use std::path::Path;

use super::{Package, read};
use crate::error::Error;

/// Path of the database.
const STATUS: &str = "var/lib/dpkg/status";

/// States of packages whose files are not there. In all other states (also `half-configured` or `triggers-pending`)
/// they are.
const ABSENT: [&str; 2] = ["not-installed", "config-files"];

pub(super) fn installed(root: &Path) -> Result<Vec<Package>, Error> {
    Ok(read(&root.join(STATUS))?.map_or_else(Vec::new, |text| parse(&text)))
}

/// Parses the database. Fields about files, dependencies and configuration do not count.
fn parse(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(parse_paragraph).collect()
}

fn parse_paragraph(paragraph: &str) -> Option<Package> {
    let (mut name, mut version, mut architecture, mut state) = (None, None, None, None);
    for line in paragraph.lines() {
        // Continuation lines begin with a space.
        let Some((field, value)) = line.split_once(": ") else {
            continue;
        };
        match field {
            "Package" => name = Some(value.trim()),
            "Version" => version = Some(value.trim()),
            "Architecture" => architecture = Some(value.trim()),
            "Status" => state = value.split_whitespace().nth(2),
            _ => {}
        }
    }
    if ABSENT.contains(&state?) {
        return None;
    }
    Some(Package {
        manager: "dpkg",
        name: name?.to_owned(),
        version: version?.to_owned(),
        architecture: architecture.unwrap_or_default().to_owned(),
    })
}
