use bitzel_access::{AccessPolicy, AuthenticationMethod, Caller, Identity};
use bitzel_cas::blob_store::collect;
use bitzel_cas::testing::noise;
use tonic::Code;

use super::*;

fn chunks(blob: &[u8]) -> BlobStream {
    let chunks: Vec<_> = blob
        .chunks(100_000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    futures::stream::iter(chunks).boxed()
}

#[tokio::test]
async fn reserves_space_until_an_upload_is_passed_on() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::new(directory.path(), 10 << 20, 0);
    let take = async |blob: &[u8]| {
        spool
            .receive(&Extensions::new(), DigestFunction::Sha256, None, chunks(blob))
            .await
    };
    for size in [500_000, 3 << 20] {
        let blob = noise(1, size);
        let held = take(&blob).await.unwrap();
        assert_eq!(held.bytes().await.unwrap(), blob);
        assert_eq!(spool.used.load(Ordering::Relaxed), size as u64);
        let refused = take(&noise(2, (5 << 20) - 10)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        let mut stream = held.into_stream();
        stream.next().await.unwrap().unwrap();
        assert_eq!(spool.used.load(Ordering::Relaxed), size as u64);
        drop(stream);
        assert_eq!(spool.used.load(Ordering::Relaxed), 0);
        assert!(collect(take(&blob).await.unwrap().into_stream()).await.unwrap() == blob);
    }
}

#[tokio::test]
async fn f21_one_identity_has_half_of_the_spool() {
    let user = |name: &str| {
        let mut request = Extensions::new();
        request.insert(Caller {
            identity: Arc::new(Identity {
                name: name.to_owned(),
                groups: Vec::new(),
                method: AuthenticationMethod::Token,
            }),
            policy: Arc::new(AccessPolicy::open()),
        });
        request
    };
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::new(directory.path(), 4 << 20, 0);
    let blob = noise(1, 1 << 20);
    let take = async |request: &Extensions| {
        spool
            .receive(request, DigestFunction::Sha256, None, chunks(&blob))
            .await
    };
    let (busy, other) = (user("busy"), user("other"));
    let held = [take(&busy).await.unwrap(), take(&busy).await.unwrap()];
    assert_eq!(take(&busy).await.unwrap_err().code(), Code::ResourceExhausted);
    take(&other).await.unwrap();
    drop(held);
    take(&busy).await.unwrap();
    let large = chunks(&noise(2, (2 << 20) + 1));
    let refused = spool.receive(&busy, DigestFunction::Sha256, None, large).await;
    assert_eq!(refused.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn further_uploads_go_to_files() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::new(directory.path(), 50 << 20, 0);
    let mut held = Vec::new();
    for number in 0..MAX_MEMORY_UPLOADS + 3 {
        let blob = noise(number as u64, 200_000);
        let upload = spool
            .receive(
                &Extensions::new(),
                DigestFunction::Sha256,
                Some(200_000),
                chunks(&blob),
            )
            .await
            .unwrap();
        assert_eq!(
            matches!(upload.content, Content::Memory(_)),
            number < MAX_MEMORY_UPLOADS
        );
        held.push((upload, blob));
    }
    for (upload, blob) in held {
        assert!(collect(upload.into_stream()).await.unwrap() == blob);
    }
}

#[tokio::test]
async fn keeps_the_free_space_floor() {
    let directory = tempfile::tempdir().unwrap();
    let (no_flags, size) = (rustix::mount::MountFlags::empty(), c"size=24m");
    if let Err(error) = rustix::mount::mount("tmpfs", directory.path(), "tmpfs", no_flags, Some(size)) {
        eprintln!("SKIPPED: a small disk for uploads: cannot mount a small file system: {error}");
        return;
    }
    let spool = Spool::new(directory.path(), 50 << 20, 20 << 20);
    let take = async |blob: &[u8]| {
        spool
            .receive(&Extensions::new(), DigestFunction::Sha256, None, chunks(blob))
            .await
    };
    let refused = take(&noise(1, 5 << 20)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(spool.used.load(Ordering::Relaxed), 0);
    drop(take(&noise(1, 3 << 20)).await.unwrap());
    // A small upload stays in memory.
    let kept = take(&noise(2, 100_000)).await.unwrap();
    assert_eq!(kept.bytes().await.unwrap(), noise(2, 100_000));
    rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn checks_the_disk_once_for_many_pieces() {
    let (granted, piece) = (Mutex::default(), 1 << 20);
    let mut checks = 0;
    for _ in 0..128 {
        grant(&granted, piece, || {
            checks += 1;
            Ok(1 << 40)
        })
        .unwrap();
    }
    assert_eq!(checks, 2);
    // Never more than the free space.
    grant(&granted, piece, || Ok(piece + 5)).unwrap();
    assert!(grant(&granted, piece, || Ok(5)).is_err());
    assert!(grant(&granted, piece, || Ok(0)).is_err());
    grant(&granted, GRANTED_BYTES + piece, || Ok(1 << 40)).unwrap();
}

#[test]
fn a_full_disk_is_no_internal_error() {
    let status = |kind: ErrorKind| write_error(Path::new("/spool"), kind.into());
    assert_eq!(status(ErrorKind::StorageFull).code(), Code::ResourceExhausted);
    assert_eq!(status(ErrorKind::PermissionDenied).code(), Code::Internal);
}
