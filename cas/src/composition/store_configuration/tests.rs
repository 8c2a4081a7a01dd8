use super::*;
use crate::blob_store::{one_chunk, read_whole};
use crate::composition::store_factory::StoreFactory;
use crate::testing::sha256;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    blobs: StoreConfiguration,
    actions: StoreConfiguration,
}

fn problems(text: &str) -> Vec<(String, Option<usize>, String)> {
    let file: File = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
    let mut problems = Problems::default();
    problems.check("blobs", &file.blobs, StorePurpose::Blobs);
    problems.check("actions", &file.actions, StorePurpose::Results);
    let line = |place: std::ops::Range<usize>| text[..place.start].matches('\n').count() + 1;
    problems
        .into_vec()
        .into_iter()
        .map(|problem| {
            (
                problem.key,
                problem.span.map(line),
                problem.hint.unwrap_or_default(),
            )
        })
        .collect()
}

#[test]
fn f15_credentials_in_an_address_are_refused_and_not_repeated() {
    let text = r#"[blobs.s3]
bucket = "b"
endpoint = "https://me:secret@minio.example"
[actions.grpc]
endpoint = "grpcs://me:secret@cache.example"
"#;
    let file: File = toml::from_str(text).unwrap();
    let mut problems = Problems::default();
    problems.check("blobs", &file.blobs, StorePurpose::Blobs);
    problems.check("actions", &file.actions, StorePurpose::Results);
    let problems = problems.into_vec();
    assert_eq!(problems.len(), 2);
    for problem in problems {
        assert!(problem.message.contains("credentials"), "{}", problem.message);
        assert!(!problem.message.contains("secret"), "{}", problem.message);
        assert_eq!(problem.span, None, "an excerpt would show the password");
    }
}

#[test]
fn every_problem_is_named_with_its_key_and_line() {
    let text = r#"[blobs.tiered.fast.disk]
directory = "same"
size = "1GiB"
[blobs.tiered.slow.grpc]
endpoint = "cache:9092"
[blobs.tiered.write_back]
directory = "queue"
max_size = "900MiB"
[actions.existence_caching]
max_age = "5m"
max_entries = 10
[actions.existence_caching.inner.disk]
directory = "same"
"#;
    let found = problems(text);
    let keys: Vec<_> = found.iter().map(|(key, line, _)| (key.as_str(), *line)).collect();
    assert_eq!(
        keys,
        [
            ("blobs.tiered.slow.grpc.endpoint", Some(5)),
            ("blobs.tiered.write_back.max_size", Some(8)),
            ("actions.existence_caching.inner.disk.directory", Some(13)),
            ("actions.existence_caching", None),
        ],
        "{found:#?}"
    );
    assert!(found[0].2.starts_with("write grpc://"), "{found:#?}");
}

#[test]
fn an_unknown_kind_or_key_is_named_with_the_known_ones() {
    for (text, expected) in [
        (
            "[blobs.dsk]\ndirectory = 'a'\n[actions.memory]\n",
            "unknown variant `dsk`, expected one of `memory`, `disk`",
        ),
        (
            "[blobs.disk]\ndirectory = 'a'\nsise = '1GiB'\n[actions.memory]\n",
            "unknown field `sise`, expected one of `directory`, `size`",
        ),
        (
            "[blobs.disk]\nsize = '1GiB'\n[actions.memory]\n",
            "missing field `directory`",
        ),
        (
            "[blobs.disk]\ndirectory = 'a'\nsize = 'much'\n[actions.memory]\n",
            "line 3",
        ),
    ] {
        let error = toml::from_str::<File>(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn the_described_stores_are_opened() {
    let text = r#"
[blobs.metered]
name = "all"
[blobs.metered.inner.tiered.fast.disk]
directory = "fast"
size = "100MiB"
free_space = "1MiB"
[blobs.metered.inner.tiered.slow.mirrored]
degrade = true
[blobs.metered.inner.tiered.slow.mirrored.one.memory]
[[blobs.metered.inner.tiered.slow.mirrored.other.sharded.shards]]
name = "a"
store.deadline = { call = "10s", inner.memory = {} }
[[blobs.metered.inner.tiered.slow.mirrored.other.sharded.shards]]
name = "b"
weight = 2
store.verifying.inner.memory = {}
[actions.tiered]
fast.memory = {}
slow.disk = { directory = "results", max_results = 10 }
"#;
    assert_eq!(problems(text), []);
    let file: File = toml::from_str(text).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut factory = StoreFactory::new(directory.path());
    let store = factory.blobs(&file.blobs).await.unwrap();
    let cache = factory.results(&file.actions).await.unwrap();
    let blob = bytes::Bytes::from_static(b"blob");
    store.write(sha256(&blob), one_chunk(blob.clone())).await.unwrap();
    assert_eq!(read_whole(&*store, sha256(&blob)).await.unwrap(), blob);
    assert_eq!(
        factory.disk_stores()[0].usage().blobs,
        1,
        "the fast store is filled too"
    );
    let instance = bitzel_proto::InstanceName::default();
    cache
        .put(
            &instance,
            sha256(b"action"),
            bitzel_proto::reapi::ActionResult::default(),
        )
        .await
        .unwrap();
    assert_eq!(factory.disk_caches()[0].usage().blobs, 1);
    drop((store, cache));
    factory.close().await.unwrap();
}

#[test]
fn the_disk_that_is_asked_first_is_found() {
    let first = |text: &str| {
        let file: File = toml::from_str(text).unwrap();
        let disk = file.blobs.first_disk()?;
        Some((
            disk.directory.get_ref().display().to_string(),
            disk.free_space.as_u64(),
        ))
    };
    let below = "[blobs.metered]\nname = 'm'\n[blobs.metered.inner.tiered]\nslow.disk.directory = 'slow'\n\
                 fast.disk = { directory = 'fast', free_space = '2KiB' }\n[actions.memory]\n";
    assert_eq!(first(below), Some(("fast".to_owned(), 2048)));
    let slow = "[blobs.tiered]\nfast.memory = {}\nslow.disk.directory = 'slow'\n[actions.memory]\n";
    assert_eq!(first(slow), Some(("slow".to_owned(), DEFAULT_FREE_SPACE)));
    assert_eq!(first("[blobs.memory]\n[actions.memory]\n"), None);
}
