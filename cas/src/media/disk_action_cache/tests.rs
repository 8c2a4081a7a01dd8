use tempfile::TempDir;

use super::*;
use crate::testing::sha256;

fn result(exit_code: i32) -> ActionResult {
    ActionResult {
        exit_code,
        ..ActionResult::default()
    }
}

async fn open(root: &TempDir, max_results: u64) -> DiskActionCache {
    DiskActionCache::open(root.path(), max_results).await.unwrap()
}

#[tokio::test]
async fn results_outlive_the_process_and_are_replaced() {
    let root = TempDir::new().unwrap();
    let instance = InstanceName::default();
    let action = sha256(b"action");
    let cache = open(&root, 100).await;
    assert_eq!(cache.get(&instance, action).await.unwrap(), None);
    cache.put(&instance, action, result(1)).await.unwrap();
    cache.put(&instance, action, result(2)).await.unwrap();
    assert_eq!(cache.usage().blobs, 1);
    drop(cache);
    let cache = open(&root, 100).await;
    assert_eq!(cache.get(&instance, action).await.unwrap(), Some(result(2)));
    cache.close().await.unwrap();
    drop(cache);
    let cache = open(&root, 100).await;
    assert_eq!(cache.get(&instance, action).await.unwrap(), Some(result(2)));
}

#[tokio::test]
async fn instance_function_and_size_keep_results_apart() {
    let root = TempDir::new().unwrap();
    let cache = open(&root, 100).await;
    let action = sha256(b"action");
    let name = |name| InstanceName::new(name).unwrap();
    cache.put(&name("a"), action, result(1)).await.unwrap();
    let other_function = Digest::new(DigestFunction::Blake3, *action.hash(), action.size_bytes());
    let other_size = Digest::new(DigestFunction::Sha256, *action.hash(), 1);
    assert_eq!(cache.get(&name("b"), action).await.unwrap(), None);
    assert_eq!(cache.get(&name("a"), other_function).await.unwrap(), None);
    assert_eq!(cache.get(&name("a"), other_size).await.unwrap(), None);
    assert_eq!(cache.get(&name("a"), action).await.unwrap(), Some(result(1)));
}

#[tokio::test]
async fn the_least_recently_used_results_make_room() {
    let root = TempDir::new().unwrap();
    let cache = open(&root, 3).await;
    let instance = InstanceName::default();
    let actions: Vec<Digest> = (0..4_u8).map(|number| sha256(&[number])).collect();
    for action in &actions[..3] {
        cache.put(&instance, *action, result(0)).await.unwrap();
    }
    cache.get(&instance, actions[0]).await.unwrap();
    cache.put(&instance, actions[3], result(0)).await.unwrap();
    let mut hits = Vec::new();
    for action in &actions {
        hits.push(cache.get(&instance, *action).await.unwrap().is_some());
    }
    assert_eq!(hits, [true, false, true, true]);
}

#[tokio::test]
async fn large_results_are_kept_whole() {
    let root = TempDir::new().unwrap();
    let cache = open(&root, 1000).await;
    let instance = InstanceName::default();
    let action = sha256(b"action");
    for size in [0, 4000, 4096, 100_000, 2_000_000] {
        let large = ActionResult {
            stdout_raw: vec![b'x'; size],
            ..ActionResult::default()
        };
        cache.put(&instance, action, large.clone()).await.unwrap();
        assert_eq!(cache.get(&instance, action).await.unwrap(), Some(large));
    }
    assert_eq!(cache.usage().bytes, 2_002_944, "what was replaced is gone");
}

#[tokio::test]
async fn a_damaged_result_is_a_miss_and_can_be_put_again() {
    let root = TempDir::new().unwrap();
    let cache = open(&root, 100).await;
    let instance = InstanceName::default();
    let action = sha256(b"action");
    for damage in [
        &b""[..],
        b"bitzela2",
        b"bitzela2\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"bitzela2\x01\0\0\0\x02\0\0\0\0\0\0\0\xff\xff",
        b"something else",
    ] {
        cache.put(&instance, action, result(1)).await.unwrap();
        cache.directory.damage(key(&instance, action), |content| {
            content.fill(0);
            content[..damage.len()].copy_from_slice(damage);
        });
        assert_eq!(cache.get(&instance, action).await.unwrap(), None, "{damage:?}");
    }
    assert_eq!(cache.usage().corrupt_blobs, 5);
    cache.put(&instance, action, result(2)).await.unwrap();
    assert_eq!(cache.get(&instance, action).await.unwrap(), Some(result(2)));
}
