//! Parts of a root file system that the Remote Execution API cannot carry.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of paths that are kept for each kind. Further ones are only counted.
const MAX_EXAMPLES: usize = 5;

/// Kind of a part that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Block and character devices. A sandbox has its own `/dev`.
    Device,
    /// Named pipes.
    NamedPipe,
    /// Unix sockets.
    Socket,
    /// Owners and groups other than root. In a sandbox all files belong to the user of the command.
    Owner,
    /// Setuid and setgid bits, which mean nothing without owners.
    SetId,
    /// Extended attributes: capabilities, access control lists, labels.
    ExtendedAttributes,
    /// Names and targets of symlinks that are not UTF-8. The entry is left out.
    NotUtf8,
    /// Other file systems that are mounted there. Their mount point is an empty directory.
    Mount,
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Device => "devices",
            Self::NamedPipe => "named pipes",
            Self::Socket => "sockets",
            Self::Owner => "owners other than root",
            Self::SetId => "setuid and setgid bits",
            Self::ExtendedAttributes => "extended attributes",
            Self::NotUtf8 => "names that are not UTF-8",
            Self::Mount => "other file systems mounted there",
        })
    }
}

/// Entries of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LostEntries {
    count: u64,
    examples: Vec<String>,
}

/// All that an import has lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Losses(BTreeMap<Loss, LostEntries>);

impl Losses {
    pub(crate) fn add(&mut self, loss: Loss, path: impl Into<String>) {
        let entries = self.0.entry(loss).or_default();
        entries.count += 1;
        if entries.examples.len() < MAX_EXAMPLES {
            entries.examples.push(path.into());
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (loss, lost) in other.0 {
            let entries = self.0.entry(loss).or_default();
            entries.count += lost.count;
            let free = MAX_EXAMPLES.saturating_sub(entries.examples.len());
            entries.examples.extend(lost.examples.into_iter().take(free));
        }
    }

    /// True if all of the root file system is in the tree.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of entries of a kind.
    pub fn count(&self, loss: Loss) -> u64 {
        self.0.get(&loss).map_or(0, |entries| entries.count)
    }

    /// A line for each kind.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(loss, entries)| {
            let more = if entries.count > entries.examples.len() as u64 {
                ", …"
            } else {
                ""
            };
            format!(
                "{loss}: {} ({}{more})",
                entries.count,
                entries.examples.join(", ")
            )
        })
    }
}
