//! Sizes in memory of the messages of all protocols, from their descriptors.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message as _;

use super::MethodRequests;
use crate::FILE_DESCRIPTOR_SET;
use crate::google::protobuf::field_descriptor_proto::{Label, Type};
use crate::google::protobuf::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet, MessageOptions};

/// Size of a vector or a string.
const VECTOR_BYTES: u64 = 24;
/// Size of a map, of which each field of a message has one.
const MAP_BYTES: u64 = 48;
/// Size of a number or a pointer.
const WORD_BYTES: u64 = 8;
/// Limit of the numbers of fields that are looked at.
const MAX_FIELD_NUMBERS: usize = 1 << 10;

static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::read);

/// Messages and methods of all protocols.
pub(super) struct Schema {
    /// Fields of each message, at their numbers.
    pub(super) messages: Vec<Vec<Option<Field>>>,
    /// Requests of each method, by its path.
    pub(super) methods: HashMap<String, MethodRequests>,
    /// Index of each message, by its full name with a dot before it.
    pub(super) indices: HashMap<String, usize>,
}

/// Field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) kind: FieldKind,
    pub(super) is_repeated: bool,
    /// Memory of one occurrence beside that of the message that it belongs to.
    pub(super) element_bytes: u64,
}

/// Kind of a field's values.
#[derive(Debug, Clone, Copy)]
pub(super) enum FieldKind {
    /// Number, boolean or enum. Several may be packed.
    Number,
    /// Text or bytes.
    Bytes,
    /// Message, by its index.
    Message(usize),
}

/// Messages as they are described.
struct Descriptors {
    messages: Vec<DescriptorProto>,
    /// Index of each message, by its full name with a dot before it.
    indices: HashMap<String, usize>,
}

impl Schema {
    pub(super) fn get() -> &'static Self {
        &SCHEMA
    }

    /// Reads the descriptors of this build, which the compiler of the protocols wrote.
    fn read() -> Self {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
        let mut descriptors = Descriptors {
            messages: Vec::new(),
            indices: HashMap::new(),
        };
        for file in &set.file {
            descriptors.add(&format!(".{}", file.package()), &file.message_type);
        }
        let messages = descriptors.messages.iter();
        let messages = messages
            .map(|message| descriptors.fields(message))
            .collect::<Vec<_>>();
        let mut methods = HashMap::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let Some(message) = descriptors.indices.get(method.input_type()) else {
                        continue;
                    };
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let requests = MethodRequests {
                        message: *message,
                        is_client_streaming: method.client_streaming(),
                        is_server_streaming: method.server_streaming(),
                    };
                    methods.insert(path, requests);
                }
            }
        }
        Self {
            messages,
            methods,
            indices: descriptors.indices,
        }
    }
}

impl Descriptors {
    /// Adds the messages of a package or of a message, and those within them.
    fn add(&mut self, scope: &str, messages: &[DescriptorProto]) {
        for message in messages {
            let name = format!("{scope}.{}", message.name());
            self.add(&name, &message.nested_type);
            self.indices.insert(name, self.messages.len());
            self.messages.push(message.clone());
        }
    }

    fn find(&self, field: &FieldDescriptorProto) -> Option<(usize, &DescriptorProto)> {
        let index = *self.indices.get(field.type_name())?;
        Some((index, &self.messages[index]))
    }

    fn fields(&self, message: &DescriptorProto) -> Vec<Option<Field>> {
        let mut fields = Vec::new();
        for field in &message.field {
            // Only the descriptors of descriptors have larger numbers, and no method takes those.
            let number = usize::try_from(field.number()).unwrap_or(usize::MAX);
            if number < MAX_FIELD_NUMBERS {
                if fields.len() <= number {
                    fields.resize(number + 1, None);
                }
                fields[number] = Some(self.field(field));
            }
        }
        fields
    }

    fn field(&self, field: &FieldDescriptorProto) -> Field {
        let is_repeated = field.label() == Label::Repeated;
        // Vectors grow by doubling.
        let growth = if is_repeated { 2 } else { 0 };
        let (kind, element_bytes) = match field.r#type() {
            Type::String | Type::Bytes => (FieldKind::Bytes, growth * VECTOR_BYTES),
            Type::Message | Type::Group => match self.find(field) {
                None => (FieldKind::Bytes, 0),
                Some((index, message)) => {
                    let size = self.size(message, &mut Vec::new());
                    // One that is not repeated is part of the message around it, or in a box if it can contain itself.
                    let bytes = if is_repeated { growth * size } else { 0 };
                    let boxed = if !is_repeated && self.contains(message, index, &mut Vec::new()) {
                        size
                    } else {
                        0
                    };
                    (FieldKind::Message(index), bytes + boxed)
                }
            },
            _ => (FieldKind::Number, 0),
        };
        Field {
            kind,
            is_repeated,
            element_bytes,
        }
    }

    /// Bytes of a message in memory without what its fields point to. Somewhat more than its true size.
    fn size(&self, message: &DescriptorProto, around: &mut Vec<usize>) -> u64 {
        let mut size = 0;
        let mut choices: HashMap<i32, u64> = HashMap::new();
        for field in &message.field {
            let bytes = self.inline_size(field, around);
            match field.oneof_index {
                // `optional` is a choice of one.
                Some(choice) => {
                    let largest = choices.entry(choice).or_default();
                    *largest = (*largest).max(bytes);
                }
                None => size += bytes,
            }
        }
        size + choices.values().map(|bytes| bytes + WORD_BYTES).sum::<u64>()
    }

    fn inline_size(&self, field: &FieldDescriptorProto, around: &mut Vec<usize>) -> u64 {
        let message = self.find(field).filter(|_| field.r#type() == Type::Message);
        if field.label() == Label::Repeated {
            let is_map = message
                .is_some_and(|(_, message)| message.options.as_ref().is_some_and(MessageOptions::map_entry));
            return if is_map { MAP_BYTES } else { VECTOR_BYTES };
        }
        match (field.r#type(), message) {
            (Type::String | Type::Bytes, _) => VECTOR_BYTES,
            (_, Some((index, _))) if around.contains(&index) => WORD_BYTES,
            (_, Some((index, message))) => {
                around.push(index);
                let size = self.size(message, around) + WORD_BYTES;
                around.pop();
                size
            }
            _ => WORD_BYTES,
        }
    }

    /// True if `message` can contain the message `index`.
    fn contains(&self, message: &DescriptorProto, index: usize, seen: &mut Vec<usize>) -> bool {
        message.field.iter().any(|field| {
            let Some((inner, message)) = self.find(field) else {
                return false;
            };
            if inner == index {
                return true;
            }
            if seen.contains(&inner) {
                return false;
            }
            seen.push(inner);
            self.contains(message, index, seen)
        })
    }
}
