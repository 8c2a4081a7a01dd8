//! Root file systems as Directory trees of the content-addressable store (decision 0047).
//!
//! * [`mod@import`] reads a directory, a tar archive or an OCI image layout, without a change of anything on this machine.
//! * [`root_tree`] is the tree in memory, with what the Remote Execution API can carry; [`losses`] is the rest.
//! * [`checkout`] is a root on a client's disk, in which the front end parses.
//! * [`registry`] has the names of this machine, [`root_file`] the choice that a team checks in.

pub mod checkout;
pub mod error;
pub mod import;
pub mod losses;
pub mod registry;
pub mod root_digest;
pub mod root_file;
pub mod root_tree;

pub use checkout::Checkout;
pub use error::Error;
pub use import::{ImportedRoot, import};
pub use losses::{Loss, Losses};
pub use registry::{KnownRoot, RootName, RootRecord, RootRegistry};
pub use root_digest::parse_root_digest;
pub use root_file::RootFile;
pub use root_tree::{EncodedRoot, RootTree};
