//! Journal of the write-back queue on disk.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use bitzel_proto::{Digest, DigestFunction};

use crate::directory_lock::DirectoryLock;
use crate::error::Error;

/// Lines after which the file is rewritten if most of them are history.
const COMPACT_AFTER_LINES: usize = 100_000;

/// A file of lines `+ function hash size` (waits) and `- function hash size` (no longer waits).
///
/// When [`Journal::append`] returns, a line is in the page cache: it survives the death of the process, but not with
/// certainty a power loss, exactly as the blob in the fast store that it names. A line that was cut off by the death of
/// the process is the last one and was never acknowledged; it is ignored.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    waiting: HashSet<Digest>,
    /// Held while the journal is open, so that no two processes work on one queue.
    _lock: DirectoryLock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Waits(Digest),
    Done(Digest),
}

impl Entry {
    fn line(self) -> String {
        let (sign, digest) = match self {
            Self::Waits(digest) => ('+', digest),
            Self::Done(digest) => ('-', digest),
        };
        let function = digest.function().name();
        format!(
            "{sign} {function} {} {}\n",
            digest.hash_hex(),
            digest.size_bytes()
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (sign, function) = (words.next()?, words.next()?);
        let (hash, size) = (words.next()?, words.next()?.parse().ok()?);
        let digest = Digest::from_parts(DigestFunction::from_name(function)?, hash, size).ok()?;
        match (sign, words.next()) {
            ("+", None) => Some(Self::Waits(digest)),
            ("-", None) => Some(Self::Done(digest)),
            _ => None,
        }
    }
}

impl Journal {
    /// Opens the journal in `directory`, which is created if it does not exist. Blocks.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let io = |what: &str| Error::io(format!("cannot {what} {}", directory.display()));
        std::fs::create_dir_all(directory).map_err(io("create the write-back queue"))?;
        let lock = DirectoryLock::acquire(directory)
            .map_err(io("lock the write-back queue (does another process use it?)"))?;
        let path = directory.join("queue");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io("read the write-back queue")(error)),
        };
        let waiting = replay(&text).map_err(|line| {
            Error::InvalidArgument(format!(
                "line {line} of {} is no entry of a write-back queue; move the file away to start with an empty queue, \
                 which loses the blobs that wait in it",
                path.display()
            ))
        })?;
        let (file, lines) = rewrite(&path, &waiting).map_err(io("write the write-back queue"))?;
        Ok(Self {
            path,
            file,
            lines,
            waiting,
            _lock: lock,
        })
    }

    /// The blobs that wait.
    pub(super) fn waiting(&self) -> &HashSet<Digest> {
        &self.waiting
    }

    /// Appends entries. Blocks.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let io = |path: &Path| Error::io(format!("cannot write {}", path.display()));
        let text: String = entries.iter().map(|entry| entry.line()).collect();
        self.file.write_all(text.as_bytes()).map_err(io(&self.path))?;
        for entry in entries {
            match entry {
                Entry::Waits(digest) => self.waiting.insert(*digest),
                Entry::Done(digest) => self.waiting.remove(digest),
            };
        }
        self.lines += entries.len();
        if self.lines > COMPACT_AFTER_LINES && self.lines > 4 * self.waiting.len() {
            (self.file, self.lines) = rewrite(&self.path, &self.waiting).map_err(io(&self.path))?;
        }
        Ok(())
    }
}

/// Returns the blobs that wait after all lines, or the number of a malformed line.
fn replay(text: &[u8]) -> Result<HashSet<Digest>, usize> {
    let whole = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let mut waiting = HashSet::new();
    let lines = text[..whole].split(|byte| *byte == b'\n');
    for (number, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
        let entry = std::str::from_utf8(line).ok().and_then(Entry::parse);
        match entry.ok_or(number + 1)? {
            Entry::Waits(digest) => waiting.insert(digest),
            Entry::Done(digest) => waiting.remove(&digest),
        };
    }
    Ok(waiting)
}

/// Replaces the file at `path` by one without history and opens it for appending.
fn rewrite(path: &Path, waiting: &HashSet<Digest>) -> std::io::Result<(File, usize)> {
    let new = path.with_extension("new");
    let text: String = waiting
        .iter()
        .map(|digest| Entry::Waits(*digest).line())
        .collect();
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    // Otherwise a power loss could leave an empty file where there was a full one.
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    Ok((OpenOptions::new().append(true).open(path)?, waiting.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sha256;

    #[test]
    fn waiting_blobs_survive_and_written_ones_do_not_return() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (sha256(b"one"), DigestFunction::Blake3.digest(b"two"));
        let mut journal = Journal::open(directory.path()).unwrap();
        journal.append(&[Entry::Waits(one), Entry::Waits(two)]).unwrap();
        journal.append(&[Entry::Done(one)]).unwrap();
        assert!(Journal::open(directory.path()).is_err(), "it is locked");
        drop(journal);
        let journal = Journal::open(directory.path()).unwrap();
        assert_eq!(*journal.waiting(), HashSet::from([two]));
    }

    #[test]
    fn a_line_cut_off_anywhere_loses_no_other_line() {
        let (one, two) = (sha256(b"one"), sha256(b"two"));
        let first = Entry::Waits(one).line();
        let text = format!("{first}{}", Entry::Waits(two).line());
        for cut in first.len()..text.len() {
            assert_eq!(replay(&text.as_bytes()[..cut]), Ok(HashSet::from([one])), "{cut}");
        }
        assert_eq!(replay(text.as_bytes()), Ok(HashSet::from([one, two])));
    }

    #[test]
    fn a_malformed_file_is_refused_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("{}hello\n", Entry::Waits(sha256(b"one")).line());
        std::fs::write(directory.path().join("queue"), text).unwrap();
        let error = Journal::open(directory.path()).err().unwrap().to_string();
        assert!(error.starts_with("line 2 of "), "{error}");
    }

    #[test]
    fn history_is_compacted() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        let digests: Vec<Digest> = (0..1000_u32)
            .map(|number| sha256(&number.to_le_bytes()))
            .collect();
        for _ in 0..100 {
            let waits: Vec<Entry> = digests.iter().copied().map(Entry::Waits).collect();
            let done: Vec<Entry> = digests.iter().copied().map(Entry::Done).collect();
            journal.append(&waits).unwrap();
            journal.append(&done).unwrap();
        }
        assert!(journal.lines <= COMPACT_AFTER_LINES);
        drop(journal);
        assert_eq!(
            std::fs::metadata(directory.path().join("queue"))
                .map(|file| file.len() < 10 << 20)
                .ok(),
            Some(true)
        );
        assert!(Journal::open(directory.path()).unwrap().waiting().is_empty());
    }
}
