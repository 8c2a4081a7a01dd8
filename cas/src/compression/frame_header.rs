//! Headers of Zstandard frames (RFC 8878, 3.1).

/// Largest header: magic number, descriptor, window, dictionary and content size.
pub(super) const MAX_HEADER_BYTES: usize = 18;
/// Smallest window that a changed header gets, as a power of two: that of one block of the largest size, so that blocks
/// keep their limit.
const MIN_CHANGED_WINDOW_LOG: u32 = 17;
/// Exponent of the smallest window that a header can say.
const MIN_WINDOW_LOG: u32 = 10;
/// First bytes of a frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Last bytes of the magic number of a skippable frame. The first one is from 0x50 to 0x5f.
const SKIPPABLE_MAGIC: [u8; 3] = [0x2a, 0x4d, 0x18];
/// Size of the header of a skippable frame.
const SKIPPABLE_HEADER_BYTES: usize = 8;
/// Position of the byte with the window, in frames that have one.
const WINDOW_POSITION: usize = 5;

/// Header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameHeader {
    /// Frame that decoders pass over.
    Skippable,
    /// Frame with data.
    Data {
        /// Bytes that the decoder has to remember.
        window: u64,
        /// Size of the decompressed data, if the frame says it.
        content: Option<u64>,
        /// True if the window is given by the size of the content.
        is_single_segment: bool,
    },
}

/// Size of the header that begins with `bytes`; `None` if more bytes are needed to tell. Bytes that begin no frame are an
/// error: so are the frames of versions before 1.0, whose memory nothing would limit.
pub(super) fn size(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let is_start_of = |magic: &[u8], bytes: &[u8]| bytes.iter().zip(magic).all(|(byte, magic)| byte == magic);
    let Some((first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    if (0x50..=0x5f).contains(first) && is_start_of(&SKIPPABLE_MAGIC, rest) {
        return Ok(Some(SKIPPABLE_HEADER_BYTES));
    }
    if !is_start_of(&MAGIC, bytes) {
        return Err("it is no frame of Zstandard");
    }
    let Some(descriptor) = bytes.get(MAGIC.len()) else {
        return Ok(None);
    };
    let is_single_segment = is_single_segment(*descriptor);
    let window = usize::from(!is_single_segment);
    let dictionary = dictionary_bytes(*descriptor);
    let content = content_bytes(*descriptor);
    Ok(Some(MAGIC.len() + 1 + window + dictionary + content))
}

/// Reads a complete header.
pub(super) fn parse(header: &[u8]) -> FrameHeader {
    if !header.starts_with(&MAGIC) {
        return FrameHeader::Skippable;
    }
    let descriptor = header[MAGIC.len()];
    let content_bytes = content_bytes(descriptor);
    let mut content = [0; 8];
    content[..content_bytes].copy_from_slice(&header[header.len() - content_bytes..]);
    let content = u64::from_le_bytes(content);
    let content = match content_bytes {
        0 => None,
        // The two bytes stand for the sizes from 256 on.
        2 => Some(content + 256),
        _ => Some(content),
    };
    let is_single_segment = is_single_segment(descriptor);
    let window = match content {
        Some(content) if is_single_segment => content,
        _ => {
            let window = header[WINDOW_POSITION];
            let base = 1_u64 << (MIN_WINDOW_LOG + u32::from(window >> 3));
            base + base / 8 * u64::from(window & 7)
        }
    };
    FrameHeader::Data {
        window,
        content,
        is_single_segment,
    }
}

/// Window that is enough for `bytes` of content, and not less than a block. Saturates.
pub(super) fn sufficient_window(bytes: u64) -> u64 {
    let window = bytes.max(1 << MIN_CHANGED_WINDOW_LOG);
    window.checked_next_power_of_two().unwrap_or(u64::MAX)
}

/// Changes the window of a header that is not of a single segment. It says how far the data refers back, which is never
/// beyond its beginning: a window of [`sufficient_window`] decodes everything.
pub(super) fn set_window(header: &mut [u8], window: u64) {
    let exponent = window.ilog2() - MIN_WINDOW_LOG;
    // The largest exponent is 53.
    header[WINDOW_POSITION] = u8::try_from(exponent << 3).unwrap_or(u8::MAX);
}

fn is_single_segment(descriptor: u8) -> bool {
    descriptor & 0x20 != 0
}

fn dictionary_bytes(descriptor: u8) -> usize {
    [0, 1, 2, 4][usize::from(descriptor & 3)]
}

fn content_bytes(descriptor: u8) -> usize {
    match descriptor >> 6 {
        0 => usize::from(is_single_segment(descriptor)),
        1 => 2,
        2 => 4,
        _ => 8,
    }
}
