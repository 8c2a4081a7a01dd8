//! Database of apk (Alpine): paragraphs of lines with a letter, a colon and a value.

use std::path::Path;

use super::{Package, read};
use crate::error::Error;

/// Paths of the database: that of apk 2, and that of apk 3 on a merged /usr.
const INSTALLED: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

pub(super) fn installed(root: &Path) -> Result<Vec<Package>, Error> {
    for path in INSTALLED {
        if let Some(text) = read(&root.join(path))? {
            return Ok(text.split("\n\n").filter_map(parse_paragraph).collect());
        }
    }
    Ok(vec![])
}

fn parse_paragraph(paragraph: &str) -> Option<Package> {
    let value = |prefix| {
        let value = paragraph.lines().find_map(|line| line.strip_prefix(prefix));
        value.map(str::to_owned)
    };
    Some(Package {
        manager: "apk",
        name: value("P:")?,
        version: value("V:")?,
        architecture: value("A:").unwrap_or_default(),
    })
}
