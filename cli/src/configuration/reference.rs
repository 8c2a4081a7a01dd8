//! Generated documentation: `docs/configuration-reference.md` and `docs/configuration.schema.json`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::schema::{self, KeySchemas, value_kind};

/// Writes the reference of one schema: a section for the file, and one for each table below it.
struct Reference {
    schemas: KeySchemas,
    text: String,
    /// Names of definitions that have a section.
    described: BTreeSet<String>,
}

impl Reference {
    fn text_of(root: &Value) -> String {
        let schemas = schema::of_file();
        let mut reference = Self {
            schemas,
            text: "# Configuration reference\n\n\
                   Generated from the types in the code, do not edit. [configuration.md](configuration.md) explains the\n\
                   file and has an example.\n"
                .to_owned(),
            described: BTreeSet::new(),
        };
        reference.section("## The file", root);
        reference.text
    }

    /// Describes a table, then the tables that it refers to.
    fn section(&mut self, heading: &str, schema: &Value) {
        let description = schema["description"].as_str().unwrap_or_default();
        let description = description
            .split_once("`: ")
            .map_or(description, |(_, text)| text);
        self.text
            .push_str(&format!("\n{heading}\n\n{}\n", sentence(description)));
        let mut references = Vec::new();
        if let Some(kinds) = schema["oneOf"].as_array() {
            self.kinds(kinds, &mut references);
        } else {
            self.keys(schema, &mut references);
        }
        for reference in references {
            let Some(name) = reference.strip_prefix("#/$defs/") else {
                continue;
            };
            if self.described.insert(name.to_owned()) {
                let schema = self
                    .schemas
                    .resolved(&serde_json::json!({ "$ref": reference }))
                    .clone();
                self.section(&format!("## {}", title(name, &schema)), &schema);
            }
        }
    }

    /// Table of the kinds of a store.
    fn kinds(&mut self, kinds: &[Value], references: &mut Vec<String>) {
        self.text.push_str("\n| kind | meaning |\n|---|---|\n");
        for kind in kinds {
            for (name, schema) in properties(kind) {
                let (link, reference) = self.link(name, schema);
                references.extend(reference);
                let description = kind["description"].as_str().unwrap_or_default();
                self.text
                    .push_str(&format!("| {link} | {} |\n", one_line(description)));
            }
        }
    }

    /// Table of the keys of a table.
    fn keys(&mut self, schema: &Value, references: &mut Vec<String>) {
        if properties(schema).next().is_none() {
            return;
        }
        self.text
            .push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, schema) in properties(schema) {
            let (kind, reference) = self.kind(schema);
            references.extend(reference);
            let default = match &schema["default"] {
                _ if required.iter().any(|required| required == name) => "required".to_owned(),
                Value::Null => String::new(),
                default => format!("`{default}`"),
            };
            let description = schema["description"].as_str().unwrap_or_default();
            self.text.push_str(&format!(
                "| `{name}` | {kind} | {default} | {} |\n",
                one_line(description)
            ));
        }
    }

    /// Type of a value in words, with a link to the section of a table.
    fn kind(&self, schema: &Value) -> (String, Option<String>) {
        let resolved = self.schemas.resolved(schema);
        // A default is an example too.
        let example = schema["examples"]
            .get(0)
            .filter(|_| schema["default"].is_null())
            .map_or_else(String::new, |example| format!(", for example `{example}`"));
        if let Some(items) = schema.get("items") {
            let (kind, reference) = self.kind(items);
            return (format!("list: {kind}{example}"), reference);
        }
        if let Some(words) = words(resolved) {
            return (words.join(", "), None);
        }
        if let Some(kind) = value_kind(resolved) {
            return (
                format!(
                    "{}{example}",
                    kind.trim_start_matches("a ").trim_start_matches("an ")
                ),
                None,
            );
        }
        self.link("table", schema)
    }

    /// Link to the section of the table that a schema refers to, and the reference.
    fn link(&self, text: &str, schema: &Value) -> (String, Option<String>) {
        let reference = schema["$ref"].as_str().or(schema["anyOf"][0]["$ref"].as_str());
        let Some(reference) = reference else {
            return (format!("`{text}`"), None);
        };
        let name = reference.trim_start_matches("#/$defs/");
        let anchor: String = title(name, self.schemas.resolved(schema))
            .to_lowercase()
            .chars()
            .filter_map(|character| match character {
                ' ' => Some('-'),
                '-' | '_' => Some(character),
                character => character.is_alphanumeric().then_some(character),
            })
            .collect();
        (format!("[{text}](#{anchor})"), Some(reference.to_owned()))
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// Heading of a definition: the code span that its description begins with, else its name in words.
fn title(name: &str, schema: &Value) -> String {
    let description = schema["description"].as_str().unwrap_or_default();
    match description.split_once("`: ") {
        Some((title, _)) if title.starts_with('`') => format!("{title}`"),
        _ => match name {
            "StoreConfiguration" => "Stores".to_owned(),
            "InnerTable" => "Other decorators".to_owned(),
            name => name.to_owned(),
        },
    }
}

/// Values of an enumeration of strings.
fn words(schema: &Value) -> Option<Vec<String>> {
    let variants = schema["oneOf"].as_array()?.iter();
    variants
        .map(|variant| Some(format!("`{}`", variant["const"].as_str()?)))
        .collect()
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + characters.as_str()
}

#[track_caller]
fn assert_current(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == text,
        "docs/{name} is not current; write it with: BLESS=1 cargo test -p bitzel configuration::reference"
    );
}

#[test]
fn the_schema_in_the_docs_is_current() {
    assert_current("configuration.schema.json", &(schema::text() + "\n"));
}

#[test]
fn the_reference_in_the_docs_is_current() {
    let root: Value = serde_json::from_str(&schema::text()).unwrap();
    assert_current("configuration-reference.md", &Reference::text_of(&root));
}
