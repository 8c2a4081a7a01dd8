//! JSON schema of the configuration file, for editors, for `docs/configuration-reference.md` and for hints.

use bitzel_access::{AccessTable, Limits, TlsTable};
use bitzel_cas::composition::store_configuration::StoreConfiguration;
use schemars::{JsonSchema, Schema, schema_for};
use serde_json::Value;

use super::server_tables::{ChunksTable, ExecutionTable, ListenTable, TenantsTable};

/// Configuration file of `bitzel serve`. All tables are optional. Relative paths start at the directory of the file.
#[derive(JsonSchema)]
#[schemars(title = "bitzel configuration", deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "only a description: each table of a file is read on its own"
)]
struct ConfigurationFile {
    /// Addresses of the server.
    listen: Option<ListenTable>,
    /// Execution of Actions.
    execution: Option<ExecutionTable>,
    /// Store of blobs. Default: the disk of this machine, in the server's own directory.
    blobs: Option<StoreConfiguration>,
    /// Store of results (the action cache). Default: the disk of this machine, in the server's own directory.
    actions: Option<StoreConfiguration>,
    /// Chunks of large blobs.
    chunks: Option<ChunksTable>,
    /// Instances that do not share blobs. Default: all instances share them.
    tenants: Option<TenantsTable>,
    /// Encryption. Default: connections are not encrypted.
    tls: Option<TlsTable>,
    /// Callers and their permissions. Default: full access for everybody.
    access: Option<AccessTable>,
    /// Limits per connection and per identity.
    limits: Option<Limits>,
}

/// The schema as text.
pub(crate) fn text() -> String {
    format!("{:#}", schema_for!(ConfigurationFile).to_value())
}

/// Schemas of the keys of a configuration file.
pub(super) fn of_file() -> KeySchemas {
    KeySchemas::new(schema_for!(ConfigurationFile))
}

/// Schemas of keys, with references resolved.
#[derive(Debug)]
pub(super) struct KeySchemas(Value);

impl KeySchemas {
    pub(super) fn new(schema: Schema) -> Self {
        Self(schema.to_value())
    }

    /// Keys at the top.
    pub(super) fn keys(&self) -> Vec<&str> {
        let properties = self.0["properties"].as_object().into_iter().flatten();
        properties.map(|(name, _)| name.as_str()).collect()
    }

    /// The next step after a mistake in the value of a key: its type with an example, and its meaning. `None` for tables
    /// and unknown keys.
    pub(super) fn hint(&self, key: &str) -> Option<String> {
        let schema = self.of_key(key)?;
        let kind = value_kind(self.resolved(schema))?;
        let example = schema["examples"]
            .get(0)
            .map_or_else(String::new, |example| format!(", for example {example}"));
        let meaning = schema["description"].as_str().unwrap_or_default();
        let meaning = meaning
            .split(". ")
            .next()
            .unwrap_or_default()
            .trim_end_matches('.');
        Some(format!("{key} is {kind}{example}: {meaning}"))
    }

    /// Schema of a key as in `access.rules[0].allow`.
    fn of_key(&self, key: &str) -> Option<&Value> {
        key.split('.').try_fold(&self.0, |schema, part| {
            let name = part.split('[').next().unwrap_or_default();
            let property = self.property(schema, name)?;
            let items = self.resolved(property).get("items");
            if part.contains('[') { items } else { Some(property) }
        })
    }

    /// Schema of a property of a table, also of one that only some kinds of the table have.
    fn property<'schema>(&'schema self, schema: &'schema Value, name: &str) -> Option<&'schema Value> {
        let schema = self.resolved(schema);
        let own = schema["properties"].get(name);
        own.or_else(|| {
            let mut variants = schema["oneOf"].as_array()?.iter();
            variants.find_map(|variant| variant["properties"].get(name))
        })
    }

    /// Follows references, and steps over "or null".
    pub(super) fn resolved<'schema>(&'schema self, schema: &'schema Value) -> &'schema Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = reference
                .strip_prefix('#')
                .and_then(|pointer| self.0.pointer(pointer));
            return target.map_or(schema, |target| self.resolved(target));
        }
        match schema["anyOf"].get(0) {
            Some(first) => self.resolved(first),
            None => schema,
        }
    }
}

/// Type of a value in words. `None` for tables.
pub(super) fn value_kind(schema: &Value) -> Option<&'static str> {
    let types = match &schema["type"] {
        Value::Array(types) => types.first().and_then(Value::as_str),
        kind => kind.as_str(),
    };
    match (types?, schema["format"].as_str()) {
        ("string", Some("size")) => Some("a size"),
        ("string", Some("duration")) => Some("a duration"),
        ("string", Some("socket-address")) => Some("an address with a port"),
        ("string", _) => Some("a string"),
        ("integer", _) => Some("a whole number"),
        ("boolean", _) => Some("true or false"),
        ("array", _) => Some("a list"),
        _ => None,
    }
}
