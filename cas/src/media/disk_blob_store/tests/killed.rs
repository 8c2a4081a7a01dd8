//! A process that uses a store and an action cache under load and is killed, again and again.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bitzel_proto::InstanceName;
use bitzel_proto::reapi::ActionResult;

use super::*;
use crate::action_cache::ActionCache;
use crate::media::disk_action_cache::DiskActionCache;

/// Where the child finds its store. Set only for the child.
const ROOT: &str = "BITZEL_TEST_KILLED_STORE";
/// How often to kill.
const KILLS: &str = "BITZEL_KILLS";
const OPENING: &str = "opening the store";
const BLOB: &str = "acknowledged blob ";
const RESULT: &str = "acknowledged result ";
/// Small enough that the child evicts and writes snapshots all the time.
const LIMIT: u64 = 16 << 20;
/// Bytes of the last blobs that must be there: the limit without what may have been under way.
const KEPT: u64 = 8 << 20;
const RESULTS: i32 = 100;
const WRITERS: u64 = 4;

const OPTIONS: Options = Options {
    limit: LIMIT,
    free_space_floor: 0,
    checkpoint_records: 60,
    is_intact: reading::is_intact,
};

async fn open_all(root: &Path) -> (DiskBlobStore, DiskActionCache) {
    let store = DiskBlobStore::open_with(&root.join("cas"), OPTIONS, false).await;
    let cache = DiskActionCache::open_with(&root.join("ac"), 1000, 60).await;
    (store.unwrap(), cache.unwrap())
}

/// Blob `seed`: mostly small, some in files of their own.
fn blob(seed: u64) -> Vec<u8> {
    let size = match seed % 20 {
        19 => (1 << 20) + 77,
        _ => 100 + usize::try_from(seed % 7).unwrap() * 3000,
    };
    noise(seed, size)
}

fn action(seed: u64) -> Digest {
    sha256(&(seed % u64::try_from(RESULTS).unwrap()).to_le_bytes())
}

/// Not a test by itself: the child of the one below, which kills it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_it_is_killed() {
    let Ok(root) = std::env::var(ROOT) else {
        return;
    };
    let (root, first) = root.rsplit_once('@').unwrap();
    say(OPENING);
    let (store, cache) = open_all(Path::new(root)).await;
    let first: u64 = first.parse().unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let (store, cache) = (store.clone(), cache.clone());
        tokio::spawn(async move {
            for seed in (first + writer..).step_by(usize::try_from(WRITERS).unwrap()) {
                match seed / WRITERS % 3 {
                    0 => write_stream(&store, seed).await,
                    1 => write_batch(&store, seed).await,
                    _ => put_result(&cache, seed).await,
                }
                if seed % 40 == 0 {
                    store.checkpoint().await.unwrap();
                }
            }
        })
    });
    futures::future::join_all(writers).await;
}

async fn write_stream(store: &DiskBlobStore, seed: u64) {
    let blob = blob(seed);
    let digest = sha256(&blob);
    let chunks: Vec<_> = blob
        .chunks(60_000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    let chunks = futures::stream::iter(chunks).boxed();
    store.write(digest, chunks).await.unwrap();
    say(&format!("{BLOB}{seed}"));
    assert_eq!(read_whole(store, digest).await.unwrap(), blob);
}

async fn write_batch(store: &DiskBlobStore, seed: u64) {
    let seeds: Vec<u64> = (0..5).map(|number| (seed << 8) + number).collect();
    let blobs = seeds.iter().map(|seed| {
        let blob = blob(*seed);
        (sha256(&blob), blob.into())
    });
    for (seed, written) in seeds.iter().zip(store.write_batch(blobs.collect()).await) {
        written.unwrap();
        say(&format!("{BLOB}{seed}"));
    }
}

async fn put_result(cache: &DiskActionCache, seed: u64) {
    let result = ActionResult {
        stdout_raw: seed.to_string().into(),
        ..ActionResult::default()
    };
    let instance = InstanceName::default();
    cache.put(&instance, action(seed), result).await.unwrap();
    say(&format!("{RESULT}{seed}"));
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// The test harness may write something of its own before it on the same line. The last line may be cut off, which
/// its missing end tells.
fn number(line: &str, kind: &str) -> Option<u64> {
    line.strip_suffix('\n')?.split_once(kind)?.1.parse().ok()
}

fn start_child(root: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "disk_blob_store::tests::killed::child_that_writes_until_it_is_killed",
        ])
        .env(ROOT, format!("{}@{first}", root.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a child was told is safe.
#[derive(Default)]
struct Acknowledged {
    blobs: Vec<u64>,
    results: HashMap<Digest, u64>,
}

impl Acknowledged {
    fn hear(&mut self, line: &str) {
        self.blobs.extend(number(line, BLOB));
        if let Some(seed) = number(line, RESULT) {
            self.results.insert(action(seed), seed);
        }
    }

    fn len(&self) -> usize {
        self.blobs.len() + self.results.len()
    }
}

/// Lets a child run to some point of its life, another one in every round, and kills it.
fn run_and_kill(root: &Path, round: u64, acknowledged: &mut Acknowledged) {
    let before = acknowledged.len();
    let mut child = start_child(root, round * 1_000_000);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let random = u64::from_le_bytes(noise(round, 8).try_into().unwrap());
    // Every fourth is killed while it opens the store.
    let enough = match random % 4 {
        0 => 0,
        _ => usize::try_from(random >> 8).unwrap() % 150,
    };
    let mut is_opening = false;
    while !is_opening || acknowledged.len() < before + enough {
        line.clear();
        assert_ne!(
            lines.read_line(&mut line).unwrap(),
            0,
            "the child ended by itself"
        );
        is_opening |= line.contains(OPENING);
        acknowledged.hear(&line);
    }
    // Not to wait for something, but to meet any moment.
    std::thread::sleep(Duration::from_micros((random >> 32) % 4000));
    child.kill().unwrap();
    child.wait().unwrap();
    // What was acknowledged while the signal was on its way.
    line.clear();
    while lines.read_line(&mut line).unwrap() > 0 {
        acknowledged.hear(&line);
        line.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_blob_survives_kill_9_and_nothing_half_written_is_served() {
    let kills: u64 = std::env::var(KILLS).map_or(40, |kills| kills.parse().unwrap());
    let root = TempDir::new().unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 0..kills {
        run_and_kill(root.path(), round, &mut acknowledged);
        let (store, cache) = open_all(root.path()).await;
        check_blobs(&store, &acknowledged.blobs, round).await;
        check_results(&cache, &acknowledged.results, round).await;
        let cas = root.path().join("cas");
        let usage = store.usage();
        assert_eq!(
            usage.bytes,
            bytes_in(&cas),
            "index and disk agree in round {round}"
        );
        assert!(usage.bytes <= LIMIT);
        assert_eq!(files_in(cas.join("temporary")), Vec::<PathBuf>::new());
        let verification = store.verify(|_, _| ()).await.unwrap();
        assert_eq!((verification.corrupt, verification.blobs), (0, usage.blobs));
        assert_eq!(store.usage().corrupt_blobs + cache.usage().corrupt_blobs, 0);
    }
    let (blobs, results) = (acknowledged.blobs.len(), acknowledged.results.len());
    println!("{kills} kills: {blobs} blobs and {results} results were acknowledged and there");
}

/// The limit takes the oldest, never the last ones.
async fn check_blobs(store: &DiskBlobStore, seeds: &[u64], round: u64) {
    let mut bytes = 0;
    for seed in seeds.iter().rev() {
        let blob = blob(*seed);
        bytes += (blob.len() as u64).next_multiple_of(4096);
        if bytes > KEPT {
            break;
        }
        let read = read_whole(store, sha256(&blob)).await;
        assert_eq!(read.unwrap(), blob, "blob {seed} of round {round}");
    }
}

/// A result that was put later, and not acknowledged, may be there instead.
async fn check_results(cache: &DiskActionCache, results: &HashMap<Digest, u64>, round: u64) {
    for (action, seed) in results {
        let result = cache.get(&InstanceName::default(), *action).await.unwrap();
        let stdout = result.expect("a result that was acknowledged").stdout_raw;
        let found: u64 = String::from_utf8(stdout).unwrap().parse().unwrap();
        assert!(found >= *seed, "result {seed} of round {round} is {found}");
        assert_eq!(self::action(found), *action);
    }
}
