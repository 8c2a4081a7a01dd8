//! Names of tasks.

use bitzel_proto::reapi::RequestMetadata;
use bitzel_proto::{DigestFunction, InstanceName};

/// Identity of a task over its builds: the instance, the target and the mnemonic of `RequestMetadata`. For `BitBake` these are
/// the recipe and the task, which have the same names in every build, whatever the digests of their Actions are. It is a
/// hash: names are the client's and may be of any length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskName(pub u128);

impl TaskName {
    /// Name of the task of a request. `None` if the client names none.
    pub fn new(instance: &InstanceName, metadata: Option<&RequestMetadata>) -> Option<Self> {
        let metadata = metadata?;
        let parts = [instance.as_str(), &metadata.target_id, &metadata.action_mnemonic];
        if parts[1..].iter().all(|part| part.is_empty()) {
            return None;
        }
        let mut text = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
        for part in parts {
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let digest = DigestFunction::Sha256.digest(&text);
        let (half, _) = digest.hash().split_first_chunk::<16>()?;
        Some(Self(u128::from_be_bytes(*half)))
    }
}
