//! Configuration file of `bitzel serve`: any text is either accepted, or refused with messages that name the lines.

#![no_main]
#![allow(dead_code, reason = "a part of a program, compiled here because a program is no library")]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

#[path = "../../../cli/src"]
mod program {
    pub(crate) mod bounds;
    pub(crate) mod command_error;
    pub(crate) mod configuration;
    pub(crate) mod visible_text;
}

use program::{bounds, command_error, configuration::Configuration, visible_text};

/// Lines with the syntax of real files, so that many inputs pass the TOML parser.
#[derive(Debug, arbitrary::Arbitrary)]
enum Line {
    Any(String),
    Table { path: Vec<Word>, is_array: bool },
    Pair { key: Word, value: Value },
}

#[derive(Debug, arbitrary::Arbitrary)]
struct Word(u8);

#[derive(Debug, arbitrary::Arbitrary)]
enum Value {
    Text(String),
    Path(u8),
    Size(u16, u8),
    Number(i64),
    Bool(bool),
    Words(Vec<Word>),
    Inline(Vec<(Word, Word)>),
}

const WORDS: [&str; 48] = [
    "listen", "grpc", "http", "admin", "execution", "enabled", "jobs", "blobs", "actions", "memory", "disk", "directory",
    "size", "max_results", "s3", "bucket", "endpoint", "url", "tiered", "fast", "slow", "write_back", "max_size",
    "max_blobs", "concurrency", "verifying", "existence_caching", "inner", "read_only", "metered", "deadline", "mirrored",
    "one", "other", "sharded", "shards", "name", "weight", "store", "tls", "access", "rules", "allow", "limits",
    "tenants", "groups", "instances", "key",
];

impl Word {
    fn text(&self) -> &'static str {
        WORDS[usize::from(self.0) % WORDS.len()]
    }
}

fn list(words: &[Word]) -> String {
    words.iter().map(|word| format!("{:?}", word.text())).collect::<Vec<_>>().join(", ")
}

impl Line {
    fn text(&self) -> String {
        match self {
            Self::Any(text) => text.clone(),
            Self::Table { path, is_array } => {
                let path = path.iter().map(Word::text).collect::<Vec<_>>().join(".");
                if *is_array { format!("[[{path}]]") } else { format!("[{path}]") }
            }
            Self::Pair { key, value } => {
                let value = match value {
                    Value::Text(text) => format!("{text:?}"),
                    Value::Path(number) => format!("\"/d{number}\""),
                    Value::Size(number, unit) => {
                        let unit = ["B", "KiB", "MiB", "GiB", "", "XiB"][usize::from(*unit) % 6];
                        format!("\"{number}{unit}\"")
                    }
                    Value::Number(number) => number.to_string(),
                    Value::Bool(value) => value.to_string(),
                    Value::Words(words) => format!("[{}]", list(words)),
                    Value::Inline(pairs) => {
                        let pairs = pairs.iter().map(|(key, value)| format!("{} = {:?}", key.text(), value.text()));
                        format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
                    }
                };
                format!("{} = {value}", key.text())
            }
        }
    }
}

fuzz_target!(|lines: Vec<Line>| {
    let text = lines.iter().map(Line::text).collect::<Vec<_>>().join("\n");
    let path = Path::new("/etc/bitzel.toml");
    match Configuration::parse(path, &text) {
        Ok(configuration) => {
            assert!(configuration.summary().starts_with("stores: "));
            assert_eq!(configuration.base, Path::new("/etc"));
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with("/etc/bitzel.toml"), "{message:?} does not name the file");
            // The renderer counts a lone carriage return as the end of a line.
            let lines_of_file = text.matches(['\n', '\r']).count() + 1;
            for line in message.lines() {
                // As in `,-[/etc/bitzel.toml:4:8]`.
                let (_, place) = line.split_once("[/etc/bitzel.toml:").unwrap_or_default();
                let number = place.split(':').next();
                if let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) {
                    assert!((1..=lines_of_file).contains(&number), "{line:?}: there are {lines_of_file} lines");
                }
            }
        }
    }
});
