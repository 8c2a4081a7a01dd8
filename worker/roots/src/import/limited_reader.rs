//! Reader of an archive that ends with an error beyond its limits.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Limit of the headers of one entry in bytes, with long names and PAX extensions. The tar library reads these whole.
const MAX_HEADER_BYTES: u64 = 256 << 10;

/// Bytes that may be read until the contents of the next entry. `None` while contents are read.
#[derive(Clone, Default)]
pub(super) struct HeaderBudget(Rc<Cell<Option<u64>>>);

impl HeaderBudget {
    /// Starts to count: headers come next.
    pub(super) fn begin(&self) {
        self.0.set(Some(MAX_HEADER_BYTES));
    }

    /// Ends the count: contents come next.
    pub(super) fn end(&self) {
        self.0.set(None);
    }
}

/// Reader with a limit for all bytes, and one for the headers of each entry. A plain `take` would make the rest of an
/// archive vanish without a message.
pub(super) struct LimitedReader<R> {
    inner: R,
    left: u64,
    limit: u64,
    headers: HeaderBudget,
}

impl<R> LimitedReader<R> {
    pub(super) fn new(inner: R, limit: u64, headers: HeaderBudget) -> Self {
        Self {
            inner,
            left: limit,
            limit,
            headers,
        }
    }
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let read = count as u64;
        self.left = self
            .left
            .checked_sub(read)
            .ok_or_else(|| io::Error::other(format!("the archive has more than {} bytes", self.limit)))?;
        if let Some(left) = self.headers.0.get() {
            let left = left.checked_sub(read).ok_or_else(|| {
                io::Error::other(format!("its header has more than {MAX_HEADER_BYTES} bytes"))
            })?;
            self.headers.0.set(Some(left));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]

    use super::*;

    #[test]
    fn fails_beyond_its_limit() {
        let mut within = LimitedReader::new(&[7; 10][..], 10, HeaderBudget::default());
        assert_eq!(io::copy(&mut within, &mut io::sink()).unwrap(), 10);
        let mut beyond = LimitedReader::new(&[7; 11][..], 10, HeaderBudget::default());
        let error = io::copy(&mut beyond, &mut io::sink()).unwrap_err();
        assert_eq!(error.to_string(), "the archive has more than 10 bytes");
    }
}
