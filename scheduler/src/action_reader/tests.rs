#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::Arc;

use bitzel_cas::{MemoryBlobStore, PossessionKey, TenantNames};
use bitzel_proto::DigestFunction;
use bitzel_proto::platform_property::ROOT_IMAGE;
use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{Directory, FileNode};

use super::*;

struct ByInstance;

impl TenantNames for ByInstance {
    fn tenant(&self, instance: &InstanceName) -> String {
        instance.to_string()
    }
}

fn reader(blob_stores: InstanceBlobStores) -> ActionReader {
    ActionReader {
        input_leases: TenantInputLeases::new(blob_stores.clone()),
        blob_stores,
        platform_mappings: vec![],
        resource_config: ResourceConfig::default(),
        max_action_timeout: Duration::from_hours(1),
    }
}

async fn put(reader: &ActionReader, instance: &InstanceName, blob: Vec<u8>) -> Digest {
    let digest = DigestFunction::Sha256.digest(&blob);
    let store = reader.blob_stores.store(instance);
    let written = store.write_batch(vec![(digest, blob.into())]).await;
    assert!(written.iter().all(Result::is_ok));
    digest
}

fn tree(file: Digest) -> Vec<u8> {
    let directory = Directory {
        files: vec![FileNode {
            name: "file".to_owned(),
            digest: Some(file.into()),
            ..FileNode::default()
        }],
        ..Directory::default()
    };
    directory.encode_to_vec()
}

/// Checks an Action whose platform has these values of `root-image`. If it is not `in_action`, it is in the Command.
async fn check(
    reader: &ActionReader,
    instance: &InstanceName,
    roots: &[String],
    in_action: bool,
) -> Result<ActionSummary, ExecutionError> {
    let property = |root: &String| Property {
        name: ROOT_IMAGE.to_owned(),
        value: root.clone(),
    };
    let platform = Some(Platform {
        properties: roots.iter().map(property).collect(),
    });
    let mut command = Command::default();
    let mut action = Action::default();
    if in_action {
        action.platform = platform;
    } else {
        #[expect(deprecated, reason = "clients older than version 2.2 set it")]
        {
            command.platform = platform;
        }
    }
    action.command_digest = Some(put(reader, instance, command.encode_to_vec()).await.into());
    action.input_root_digest = Some(put(reader, instance, vec![]).await.into());
    let digest = put(reader, instance, action.encode_to_vec()).await;
    let key = ActionKey {
        instance: instance.clone(),
        digest,
    };
    reader.check(&key, &action).await
}

#[tokio::test]
async fn refuses_the_image_root_of_another_tenant() {
    let store = Arc::new(MemoryBlobStore::default());
    let key = PossessionKey::new(b"secret");
    let reader = reader(InstanceBlobStores::isolated(store, Arc::new(ByInstance), key));
    let [owner, stranger] = ["owner", "stranger"].map(|name| InstanceName::new(name).unwrap());
    let secret = put(&reader, &owner, b"secret".to_vec()).await;
    let root = put(&reader, &owner, tree(secret)).await;
    for in_action in [true, false] {
        check(&reader, &owner, &[root.to_string()], in_action)
            .await
            .unwrap();
        let refused = check(&reader, &stranger, &[root.to_string()], in_action).await;
        assert!(
            matches!(&refused, Err(ExecutionError::MissingBlobs(missing)) if missing == &[root]),
            "{refused:?}"
        );
    }
    // Also if the stranger has the Directory, but not the file.
    put(&reader, &stranger, tree(secret)).await;
    let refused = check(&reader, &stranger, &[root.to_string()], true).await;
    assert!(
        matches!(&refused, Err(ExecutionError::MissingBlobs(missing)) if missing == &[secret]),
        "{refused:?}"
    );
}

#[tokio::test]
async fn checks_the_image_root_that_the_worker_takes() {
    let reader = reader(InstanceBlobStores::shared(Arc::new(MemoryBlobStore::default())));
    let instance = InstanceName::default();
    let root = put(&reader, &instance, tree(DigestFunction::Sha256.digest(b"file"))).await;
    let absent = DigestFunction::Sha256.digest(b"absent");
    let [root, missing] = [root, absent].map(|digest| digest.to_string());
    check(&reader, &instance, &[root.clone(), missing.clone()], true)
        .await
        .unwrap();
    let refused = check(&reader, &instance, &[missing, root], true).await;
    assert!(
        matches!(&refused, Err(ExecutionError::MissingBlobs(missing)) if missing == &[absent]),
        "{refused:?}"
    );
    // The worker's to refuse, with a message.
    check(&reader, &instance, &["debian:12".to_owned()], true)
        .await
        .unwrap();
}
