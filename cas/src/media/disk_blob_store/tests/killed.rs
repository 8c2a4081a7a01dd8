//! Process that uses a store and an action cache under load, and is killed again and again.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bitzel_proto::InstanceName;
use bitzel_proto::reapi::ActionResult;

use super::*;
use crate::action_cache::ActionCache;
use crate::media::disk_action_cache::DiskActionCache;

/// Variable with the directory of the child's store. Set only for the child.
const CHILD_STORE_VARIABLE: &str = "BITZEL_TEST_KILLED_STORE";
/// Variable with the number of kills.
const KILLS_VARIABLE: &str = "BITZEL_KILLS";
/// Lines that the child writes.
const OPENING: &str = "opening the store";
const BLOB: &str = "acknowledged blob ";
const RESULT: &str = "acknowledged result ";
/// Small enough that the child evicts and writes snapshots all the time.
const LIMIT_BYTES: u64 = 16 << 20;
/// Bytes of the last blobs that must be there: the limit without the writes that may have been unfinished.
const KEPT_BYTES: u64 = 8 << 20;
/// Number of Actions whose results are put, again and again.
const ACTIONS: u64 = 100;
const WRITERS: u64 = 4;

const OPTIONS: Options = Options {
    limit: LIMIT_BYTES,
    free_space_floor: 0,
    checkpoint_records: 60,
    checks: CHECKS,
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
    sha256(&(seed % ACTIONS).to_le_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child process of acknowledged_blobs_survive_kill_9, which starts it by name"]
async fn child_process_that_writes_until_it_is_killed() {
    let root =
        std::env::var(CHILD_STORE_VARIABLE).expect("only acknowledged_blobs_survive_kill_9 starts this");
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

/// Number in a line of the child. The test harness may write text of its own before it on the same line. A line that is
/// cut off has no end of line.
fn number(line: &str, kind: &str) -> Option<u64> {
    line.strip_suffix('\n')?.split_once(kind)?.1.parse().ok()
}

fn start_child(root: &Path, first: u64) -> Child {
    let (_crate, module) = module_path!().split_once("::").unwrap();
    let test = format!("{module}::child_process_that_writes_until_it_is_killed");
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", &test])
        .env(CHILD_STORE_VARIABLE, format!("{}@{first}", root.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Writes that the store acknowledged to the children.
#[derive(Default)]
struct Acknowledged {
    blobs: Vec<u64>,
    results: HashMap<Digest, u64>,
}

impl Acknowledged {
    fn add_line(&mut self, line: &str) {
        self.blobs.extend(number(line, BLOB));
        if let Some(seed) = number(line, RESULT) {
            self.results.insert(action(seed), seed);
        }
    }

    fn len(&self) -> usize {
        self.blobs.len() + self.results.len()
    }
}

/// Starts a child and kills it at a random point, another one in every round.
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
            "the child ended before it was killed"
        );
        is_opening |= line.contains(OPENING);
        acknowledged.add_line(&line);
    }
    // Not to wait for an event, but to kill at any time between two of them.
    std::thread::sleep(Duration::from_micros((random >> 32) % 4000));
    child.kill().unwrap();
    child.wait().unwrap();
    // Lines that were written before the signal arrived.
    line.clear();
    while lines.read_line(&mut line).unwrap() > 0 {
        acknowledged.add_line(&line);
        line.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_blobs_survive_kill_9() {
    let kills: u64 = std::env::var(KILLS_VARIABLE).map_or(40, |kills| kills.parse().unwrap());
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
        assert!(usage.bytes <= LIMIT_BYTES);
        assert_eq!(files_in(cas.join("temporary")), Vec::<PathBuf>::new());
        let verification = store.verify(|_, _| ()).await.unwrap();
        assert_eq!((verification.corrupt, verification.blobs), (0, usage.blobs));
        assert_eq!(store.usage().corrupt_blobs + cache.usage().corrupt_blobs, 0);
    }
    let (blobs, results) = (acknowledged.blobs.len(), acknowledged.results.len());
    println!("{kills} kills: {blobs} blobs and {results} results were acknowledged and there");
}

/// Checks that the last blobs are there: the limit evicts the oldest ones, never the last ones.
async fn check_blobs(store: &DiskBlobStore, seeds: &[u64], round: u64) {
    let mut bytes = 0;
    for seed in seeds.iter().rev() {
        let blob = blob(*seed);
        bytes += (blob.len() as u64).next_multiple_of(4096);
        if bytes > KEPT_BYTES {
            break;
        }
        let read = read_whole(store, sha256(&blob)).await;
        assert_eq!(read.unwrap(), blob, "blob {seed} of round {round}");
    }
}

/// Checks that every result is there, or a later one of the same Action that was not acknowledged.
async fn check_results(cache: &DiskActionCache, results: &HashMap<Digest, u64>, round: u64) {
    for (action, seed) in results {
        let result = cache.get(&InstanceName::default(), *action).await.unwrap();
        let stdout = result.expect("a result that was acknowledged").stdout_raw;
        let found: u64 = String::from_utf8(stdout).unwrap().parse().unwrap();
        assert!(found >= *seed, "result {seed} of round {round} is {found}");
        assert_eq!(self::action(found), *action);
    }
}
