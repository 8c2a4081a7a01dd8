//! Memory of decoded messages, counted in their encoding before they are decoded.
//!
//! A few bytes can stand for a large structure: two bytes are an empty element of a repeated field, which takes up to some
//! hundred bytes in memory. [`MessageScan`] reads the encoding of a request as it arrives, by the descriptors of the
//! protocols, and says how much memory the decoded message takes. It allocates nothing that grows with the message.

mod schema;

use prost::{DecodeError, Message, Name};

use self::schema::{FieldKind, Schema};

/// Messages within each other, as prost allows.
const MAX_DEPTH: usize = 100;
/// Limit of the memory of any decoded message, and for each of its bytes more. Directories of files with short names take 9
/// bytes for each, lists of short texts up to 16.
const MIN_MEMORY_LIMIT: u64 = 1 << 20;
const MAX_MEMORY_FOR_EACH_BYTE: u64 = 16;
/// Memory of an allocation beside its bytes.
const ALLOCATION_BYTES: u64 = 16;
/// Bytes in memory of an element of a packed field, twice because vectors grow by doubling.
const PACKED_ELEMENT_BYTES: u64 = 2 * 8;

/// Requests of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodRequests {
    message: usize,
    /// True if a call may have several requests.
    pub is_client_streaming: bool,
    /// True if a call may have several responses.
    pub is_server_streaming: bool,
}

impl MethodRequests {
    /// Finds the requests of the method at `path` (`/package.Service/Method`), among the protocols of this crate.
    pub fn of(path: &str) -> Option<Self> {
        Schema::get().methods.get(path).copied()
    }

    /// Begins to read a request of `size` bytes.
    pub fn scan(self, size: u64) -> MessageScan {
        MessageScan::new(self.message, size)
    }
}

/// Memory that an encoded message takes once it is decoded.
pub fn decoded_memory<M: Name>(encoded: &[u8]) -> u64 {
    // An index that there is not stands for a message without fields.
    let message = Schema::get().indices.get(&format!(".{}", M::full_name()));
    let mut scan = MessageScan::new(message.copied().unwrap_or(usize::MAX), encoded.len() as u64);
    scan.read(encoded);
    scan.memory()
}

/// Decodes a message that is a blob, and comes from outside. Refuses one that would take far more memory than its bytes,
/// which only a hostile one does.
pub fn decode_message<M: Message + Name + Default>(encoded: &[u8]) -> Result<M, MessageError> {
    let limit = MIN_MEMORY_LIMIT + MAX_MEMORY_FOR_EACH_BYTE * encoded.len() as u64;
    decode_message_within(encoded, limit)
}

/// As [`decode_message`], with a limit of the memory in bytes.
pub fn decode_message_within<M: Message + Name + Default>(
    encoded: &[u8],
    limit: u64,
) -> Result<M, MessageError> {
    let memory = decoded_memory::<M>(encoded);
    if memory > limit {
        return Err(MessageError::TooMuchMemory { memory, limit });
    }
    Ok(M::decode(encoded)?)
}

/// Refusal to decode a message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It is malformed.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// It consists of very many small parts.
    #[error("it would take {memory} bytes of memory, of which a message of its size may take {limit}")]
    TooMuchMemory {
        /// Memory of the decoded message, in bytes.
        memory: u64,
        /// The limit, in bytes.
        limit: u64,
    },
}

/// Count of the memory that a message takes once it is decoded. An upper bound, apart from the allocator's waste.
#[derive(Debug, Clone)]
pub struct MessageScan {
    /// The message and those around it.
    open: Vec<OpenMessage>,
    state: State,
    /// Bits of a number whose bytes have not all arrived.
    number: u64,
    number_bits: u32,
    memory: u64,
}

#[derive(Debug, Clone, Copy)]
struct OpenMessage {
    /// Type, by its index in the schema.
    message: usize,
    /// Bytes that have not arrived.
    remaining: u64,
}

/// Part of the encoding that comes next.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Number and wire type of a field.
    Tag,
    /// Value of a field that is a number.
    Number,
    /// Length of a field with this number.
    Length(u32),
    /// Bytes that say nothing about the structure.
    Skip(u64),
}

impl MessageScan {
    fn new(message: usize, size: u64) -> Self {
        let mut open = Vec::with_capacity(4);
        open.push(OpenMessage {
            message,
            remaining: size,
        });
        Self {
            open,
            state: State::Tag,
            number: 0,
            number_bits: 0,
            memory: 0,
        }
    }

    /// Memory of the message, as far as it has arrived.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Reads the next bytes. Bytes after the end of the message are not looked at. Nor is the rest of a message that no
    /// decoder takes.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.open.is_empty() {
            if let State::Skip(length) = self.state {
                // A value that is longer than its message ends with it. No decoder takes that.
                let remaining = self.open.last().map_or(0, |message| message.remaining);
                let skipped = length.min(remaining).min(bytes.len() as u64);
                bytes = &bytes[usize::try_from(skipped).unwrap_or(bytes.len())..];
                self.advance(skipped);
                self.state = match length - skipped {
                    0 => State::Tag,
                    rest => State::Skip(rest),
                };
            } else {
                let byte = bytes[0];
                bytes = &bytes[1..];
                self.advance(1);
                self.number |= u64::from(byte & 0x7f).checked_shl(self.number_bits).unwrap_or(0);
                self.number_bits += 7;
                if byte < 0x80 {
                    let number = std::mem::take(&mut self.number);
                    self.number_bits = 0;
                    self.end_number(number);
                } else if self.number_bits >= 70 {
                    self.give_up();
                }
            }
            self.close();
        }
    }

    /// Counts bytes as arrived.
    fn advance(&mut self, bytes: u64) {
        for message in &mut self.open {
            message.remaining = message.remaining.saturating_sub(bytes);
        }
    }

    /// Leaves the messages that have ended.
    fn close(&mut self) {
        while self.open.last().is_some_and(|message| message.remaining == 0) {
            self.open.pop();
            self.state = State::Tag;
            (self.number, self.number_bits) = (0, 0);
        }
    }

    /// Passes over the rest of a message that no decoder takes.
    fn give_up(&mut self) {
        let rest = self.open.last().map_or(0, |message| message.remaining);
        self.state = State::Skip(rest);
        (self.number, self.number_bits) = (0, 0);
    }

    fn end_number(&mut self, number: u64) {
        match self.state {
            State::Tag => {
                let field = u32::try_from(number >> 3).unwrap_or(0);
                match number & 7 {
                    0 => {
                        self.count_value(field);
                        self.state = State::Number;
                    }
                    1 => {
                        self.count_value(field);
                        self.state = State::Skip(8);
                    }
                    2 => self.state = State::Length(field),
                    5 => {
                        self.count_value(field);
                        self.state = State::Skip(4);
                    }
                    // Groups have no fields of their own here: what is in them is counted, and the decoder passes over it.
                    3 | 4 => {}
                    _ => self.give_up(),
                }
            }
            State::Number => self.state = State::Tag,
            State::Length(field) => self.begin_field(field, number),
            State::Skip(_) => {}
        }
    }

    /// Counts a field that is a number.
    fn count_value(&mut self, field: u32) {
        if let Some(field) = self.field(field)
            && field.is_repeated
        {
            self.memory += PACKED_ELEMENT_BYTES;
        }
    }

    /// Counts a field with a length, and goes into it if it is a message.
    fn begin_field(&mut self, field: u32, length: u64) {
        self.state = match length {
            0 => State::Tag,
            length => State::Skip(length),
        };
        let Some(&OpenMessage { remaining, .. }) = self.open.last() else {
            return;
        };
        if length > remaining {
            // The decoder refuses the message.
            return self.give_up();
        }
        let Some(field) = self.field(field) else {
            return;
        };
        self.memory += field.element_bytes;
        match field.kind {
            FieldKind::Number => {
                self.memory = self
                    .memory
                    .saturating_add(length.saturating_mul(PACKED_ELEMENT_BYTES));
            }
            FieldKind::Bytes if length == 0 => {}
            FieldKind::Bytes => self.memory += length + ALLOCATION_BYTES,
            FieldKind::Message(_) if length == 0 || self.open.len() >= MAX_DEPTH => {}
            FieldKind::Message(message) => {
                self.open.push(OpenMessage {
                    message,
                    remaining: length,
                });
                self.state = State::Tag;
            }
        }
    }

    fn field(&self, number: u32) -> Option<schema::Field> {
        let message = self.open.last()?.message;
        let fields = Schema::get().messages.get(message)?;
        *fields.get(usize::try_from(number).ok()?)?
    }
}

#[cfg(test)]
mod tests;
