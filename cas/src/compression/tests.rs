use bitzel_proto::DigestFunction;
use proptest::prelude::*;

use super::frame_header::FrameHeader;
use super::*;
use crate::blob_store::one_chunk;
use crate::testing::noise;

/// Frame as an encoder makes it that does not know the size of its data, with a window of 2 to the power of `window_log`.
fn streamed(data: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Memory that data needs, and what it decompresses to.
fn decompress(frames: &[u8], size: u64, chunk: usize) -> Result<(u64, Vec<u8>), Error> {
    let mut decompressor = Decompressor::bounded(size, "the data");
    let (mut needed, mut decompressed) = (0, Vec::new());
    for mut data in frames.chunks(chunk) {
        loop {
            match decompressor.step(&mut data)? {
                DecompressionStep::Piece(piece) => decompressed.extend_from_slice(&piece),
                DecompressionStep::NeedsMemory(bytes) => {
                    needed = bytes;
                    decompressor.grant(bytes);
                }
                DecompressionStep::NeedsData => break,
            }
        }
    }
    assert!(decompressor.is_complete());
    Ok((needed, decompressed))
}

#[test]
fn f16_a_window_is_not_larger_than_the_announced_size_needs() {
    let data = noise(1, 300 << 10);
    let frame = streamed(&data, 23);
    let header = frame_header::parse(&frame[..6]);
    let FrameHeader::Data { window, content, .. } = header else {
        panic!("{header:?}");
    };
    assert_eq!((window, content), (8 << 20, None));
    let (needed, decompressed) = decompress(&frame, data.len() as u64, 1000).unwrap();
    assert!(decompressed == data);
    assert!((512 << 10..2 << 20).contains(&needed), "{needed}");
    // Nobody knows how much follows, so the frame gets what it asks for.
    let (needed, decompressed) = decompress(&frame, 1 << 30, 1000).unwrap();
    assert!(decompressed == data);
    assert!(needed > 8 << 20, "{needed}");
}

#[test]
fn f16_a_large_window_is_refused_with_its_size() {
    let frame = streamed(b"small", 27);
    let error = decompress(&frame, 1 << 30, 100).unwrap_err().to_string();
    assert!(error.contains("a window of 134217728 bytes"), "{error}");
    let (needed, decompressed) = decompress(&frame, 5, 100).unwrap();
    assert_eq!(decompressed, b"small");
    assert!(needed < 2 << 20, "{needed}");
}

#[test]
fn f16_nothing_is_allocated_before_memory_is_granted() {
    let frame = streamed(&noise(1, 5000), 20);
    let mut decompressor = Decompressor::bounded(5000, "the data");
    let mut data = &frame[..5];
    assert_eq!(
        decompressor.step(&mut data).unwrap(),
        DecompressionStep::NeedsData
    );
    let mut data = &frame[5..];
    for _ in 0..3 {
        let step = decompressor.step(&mut data).unwrap();
        assert!(matches!(step, DecompressionStep::NeedsMemory(_)), "{step:?}");
        assert_eq!(data.len(), frame.len() - 6);
    }
}

#[test]
fn frames_of_old_versions_are_refused() {
    // Version 0.7, whose decoder has no limit for its window.
    let old = [0x27, 0xb5, 0x2f, 0xfd, 0, 0x88, 0, 0, 0];
    let error = decompress(&old, 100, 3).unwrap_err().to_string();
    assert!(error.contains("no frame of Zstandard"), "{error}");
}

#[test]
fn frames_follow_each_other_with_growing_windows_and_skippable_ones() {
    let (first, second) = (noise(1, 200), noise(2, 3 << 20));
    let mut frames = vec![0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    frames.extend(zstd::bulk::compress(&first, 3).unwrap());
    frames.extend([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
    frames.extend(streamed(&second, 22));
    frames.extend(streamed(b"", 20));
    let whole = [first, second].concat();
    for chunk in [1, 7, 4096, frames.len()] {
        let (needed, decompressed) = decompress(&frames, whole.len() as u64, chunk).unwrap();
        assert!(decompressed == whole, "in chunks of {chunk}");
        assert!(needed > 4 << 20);
    }
    let error = decompress(&frames, whole.len() as u64 - 1, 4096)
        .unwrap_err()
        .to_string();
    assert!(error.contains("more than"), "{error}");
}

proptest! {
    #[test]
    fn any_split_decompresses_to_the_same_bytes(
        seed in any::<u64>(), size in 0_usize..400_000, run in 1_usize..5000, window in 10_u32..24, chunk in 1_usize..70_000,
        knows_size: bool,
    ) {
        // Repeated from far away, so that the window matters.
        let data: Vec<u8> = noise(seed, run).into_iter().cycle().take(size).collect();
        let frame = if knows_size {
            zstd::bulk::compress(&data, 1).unwrap()
        } else {
            streamed(&data, window)
        };
        let (_, decompressed) = decompress(&frame, data.len() as u64, chunk).unwrap();
        prop_assert!(decompressed == data);
    }

    #[test]
    fn hostile_bytes_are_an_error_or_bounded(mut bytes in prop::collection::vec(any::<u8>(), 0..200), with_magic: bool) {
        if with_magic {
            bytes.splice(..0, [0x28, 0xb5, 0x2f, 0xfd]);
        }
        let mut decompressor = Decompressor::bounded(1000, "the data");
        let mut data = &bytes[..];
        let mut decompressed = 0;
        while let Ok(Some(piece)) = decompressor.next_piece(&mut data) {
            decompressed += piece.len();
        }
        prop_assert!(decompressed <= 1000);
    }
}

#[tokio::test]
async fn a_stream_that_ends_within_a_header_is_an_error() {
    let digest = DigestFunction::Sha256.digest(b"data");
    for length in [3, 6, 10] {
        let frame = streamed(b"data", 20);
        let data = one_chunk(Bytes::from(frame[..length].to_vec())).boxed();
        let stream = decompressed(data, Decompressor::new(digest), UnlimitedMemory);
        let error = stream.try_collect::<Vec<Bytes>>().await.unwrap_err();
        assert!(error.to_string().contains("ends too early"), "{error}");
    }
}
