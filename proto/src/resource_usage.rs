//! Resources that an Action used, in the metadata of its result.

use prost::Message as _;

use crate::google::protobuf::Any;
use crate::reapi::ExecutedActionMetadata;
use crate::worker::ResourceUsage;

const TYPE_URL: &str = "type.googleapis.com/bitzel.worker.v1.ResourceUsage";

/// Reads the use of an Action from the metadata of its result.
pub fn read(metadata: &ExecutedActionMetadata) -> Option<ResourceUsage> {
    let mut details = metadata.auxiliary_metadata.iter();
    let any = details.find(|any| any.type_url == TYPE_URL)?;
    ResourceUsage::decode(any.value.as_slice()).ok()
}

/// Records the use of an Action in the metadata of its result.
pub fn record(metadata: &mut ExecutedActionMetadata, usage: &ResourceUsage) {
    metadata.auxiliary_metadata.retain(|any| any.type_url != TYPE_URL);
    metadata.auxiliary_metadata.push(Any {
        type_url: TYPE_URL.to_owned(),
        value: usage.encode_to_vec(),
    });
}
