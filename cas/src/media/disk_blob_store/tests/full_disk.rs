//! File system that other programs fill.

use std::io::Write;

use rustix::mount::{MountFlags, UnmountFlags};

use super::*;

const SIZE: u64 = 24 << 20;
const FLOOR: u64 = 2 << 20;

/// Small file system for one test, unmounted on drop.
struct SmallDisk {
    root: TempDir,
}

impl SmallDisk {
    /// Mounts a file system. `None`, with a message, if this process may not mount.
    fn mount(test: &str) -> Option<Self> {
        let root = TempDir::new().unwrap();
        let options = std::ffi::CString::new(format!("size={SIZE}")).unwrap();
        match rustix::mount::mount(
            "tmpfs",
            root.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(&*options),
        ) {
            Ok(()) => Some(Self { root }),
            Err(error) => {
                eprintln!("SKIPPED: {test}: cannot mount a small file system: {error}");
                None
            }
        }
    }

    fn free(&self) -> u64 {
        let status = rustix::fs::statvfs(self.root.path()).unwrap();
        status.f_bavail * status.f_frsize
    }

    /// Fills the disk, as another program does, except for `left` bytes.
    fn fill(&self, left: u64) {
        let mut file = fs::File::create(self.root.path().join("other")).unwrap();
        while self.free() > left {
            let step = usize::try_from((self.free() - left).min(1 << 20)).unwrap();
            if file.write_all(&vec![1; step]).is_err() {
                break;
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached, because files may still be open.
        let _ = rustix::mount::unmount(self.root.path(), UnmountFlags::DETACH);
    }
}

async fn open_with_floor(disk: &SmallDisk, floor: u64) -> DiskBlobStore {
    let options = DiskBlobStoreOptions {
        free_space_floor_bytes: floor,
        ..ROOMY
    };
    DiskBlobStore::open(disk.root.path(), options).await.unwrap()
}

fn sizes() -> impl Iterator<Item = (u64, usize)> {
    (0..).zip([100, 5000, 70_000, (1 << 20) + 5, 300_000].into_iter().cycle())
}

#[tokio::test]
async fn floor_stays_free_whatever_writes() {
    let Some(disk) = SmallDisk::mount("floor_stays_free_whatever_writes") else {
        return;
    };
    let store = open_with_floor(&disk, FLOOR).await;
    for (seed, size) in sizes().take(150) {
        let digest = add(&store, &noise(seed, size)).await;
        assert!(is_present(&store, digest).await);
        assert!(disk.free() >= FLOOR, "{} are free after blob {seed}", disk.free());
    }
    let before = store.usage();
    assert!(before.evicted_blobs > 0);
    // Another program takes the space that was to stay free; the store evicts.
    disk.fill(0);
    for (seed, size) in sizes().skip(150).take(50) {
        add(&store, &noise(seed, size)).await;
        assert!(disk.free() >= FLOOR, "{} are free after blob {seed}", disk.free());
    }
    assert!(store.usage().bytes < before.bytes);
}

#[tokio::test]
async fn full_disk_is_no_space_and_no_other_error() {
    let Some(disk) = SmallDisk::mount("full_disk_is_no_space_and_no_other_error") else {
        return;
    };
    // No floor: another program can fill the disk at any time.
    let store = open_with_floor(&disk, 0).await;
    let mut kept = Vec::new();
    for (seed, size) in sizes().take(20) {
        kept.push((add(&store, &noise(seed, size)).await, seed, size));
    }
    disk.fill(0);
    for (seed, size) in sizes().skip(100).take(60) {
        disk.fill(0);
        let blob = noise(seed, size);
        let chunks: Vec<_> = blob.chunks(50_000).map(Bytes::copy_from_slice).map(Ok).collect();
        let streamed = store
            .write(sha256(&blob), futures::stream::iter(chunks).boxed())
            .await;
        let more = noise(seed + 1000, size);
        let batched = store
            .write_batch(vec![(sha256(&more), more.into())])
            .await
            .remove(0);
        for written in [streamed, batched] {
            assert!(
                matches!(written, Ok(()) | Err(Error::NoSpace { .. })),
                "{written:?}"
            );
        }
    }
    assert_eq!(store.usage().reserved_bytes, 0);
    // Existing blobs are intact, and the store recovers when the disk has space.
    assert_eq!(store.verify(|_, _| ()).await.unwrap().corrupt, 0);
    fs::remove_file(disk.root.path().join("other")).unwrap();
    for (_, seed, size) in kept {
        add(&store, &noise(seed, size)).await;
    }
    drop(store);
    let store = open_with_floor(&disk, 0).await;
    assert_eq!(store.verify(|_, _| ()).await.unwrap().corrupt, 0);
}

#[tokio::test]
async fn store_on_a_full_disk_serves_and_later_writes_again() {
    let Some(disk) = SmallDisk::mount("store_on_a_full_disk_serves_and_later_writes_again") else {
        return;
    };
    // Closed, or dropped as by a crash.
    for is_closed in [true, false] {
        let store = open_with_floor(&disk, 0).await;
        let kept = [
            (add(&store, &noise(1, 5000)).await, noise(1, 5000)),
            (add(&store, &noise(2, 2 << 20)).await, noise(2, 2 << 20)),
        ];
        if is_closed {
            store.close().await.unwrap();
        }
        drop(store);
        // Several starts: one must not use up the space that the next one needs.
        for floor in [0, FLOOR, 0] {
            disk.fill(0);
            assert_eq!(disk.free(), 0);
            let store = open_with_floor(&disk, floor).await;
            for (digest, blob) in &kept {
                assert_eq!(read_whole(&store, *digest).await.unwrap(), *blob);
            }
            let new = noise(3, 3 << 20);
            let refused = store
                .write_batch(vec![(sha256(&new), new.into())])
                .await
                .remove(0);
            assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
            let new = noise(4, 100);
            let refused = store
                .write_batch(vec![(sha256(&new), new.into())])
                .await
                .remove(0);
            assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
            drop(store);
        }
        let store = open_with_floor(&disk, 0).await;
        fs::remove_file(disk.root.path().join("other")).unwrap();
        let new = noise(5, 100);
        let added = add(&store, &new).await;
        drop(store);
        let store = open_with_floor(&disk, 0).await;
        assert_eq!(read_whole(&store, added).await.unwrap(), new);
        assert_eq!(store.verify(|_, _| ()).await.unwrap().corrupt, 0);
    }
}
