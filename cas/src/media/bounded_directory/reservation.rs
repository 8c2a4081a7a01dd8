//! Space reserved for an entry that is being written.

use std::sync::Arc;

use bitzel_proto::Digest;

use super::{BLOCK_BYTES, BoundedDirectory, State};
use crate::error::Error;

/// Reserved space, returned on drop unless the entry was published.
pub(crate) struct Reservation {
    directory: Arc<BoundedDirectory>,
    bytes: u64,
}

impl BoundedDirectory {
    /// Reserves `bytes` for `digest`, evicting other entries. [`Error::NoSpace`] if that does not suffice.
    pub(crate) fn reserve(self: &Arc<Self>, digest: Digest, bytes: u64) -> Result<Reservation, Error> {
        let bytes = round_up_to_blocks(bytes.max(1));
        self.make_space(digest, bytes)?;
        Ok(Reservation {
            directory: Arc::clone(self),
            bytes,
        })
    }
}

impl Reservation {
    /// Enlarges the reservation to `bytes` if it is smaller, evicting other entries.
    pub(crate) fn grow_to(&mut self, digest: Digest, bytes: u64) -> Result<(), Error> {
        let bytes = round_up_to_blocks(bytes);
        if bytes > self.bytes {
            self.directory.make_space(digest, bytes - self.bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Ends the reservation because the space is used now.
    pub(super) fn spend(&mut self, state: &mut State) {
        state.reserved_bytes -= std::mem::take(&mut self.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.directory.state.lock().reserved_bytes -= self.bytes;
        }
    }
}

fn round_up_to_blocks(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX)
}
