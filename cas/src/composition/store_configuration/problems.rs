//! Checks of a configuration that can be parsed: values that cannot work, or not together.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use super::{DiskTable, ShardedTable, StoreConfiguration, TieredTable};

/// Content of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorePurpose {
    /// Blobs.
    Blobs,
    /// Results of Actions.
    Results,
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, from the top of the file: `blobs.tiered.fast.disk.size`.
    pub key: String,
    /// Bytes of the text that the problem is about, if known.
    pub span: Option<Range<usize>>,
    /// The mistake.
    pub message: String,
    /// The next step: what to write instead.
    pub hint: Option<String>,
}

/// Collects the mistakes in all stores of one process.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<Problem>,
    directories: BTreeSet<PathBuf>,
}

impl Problems {
    /// All problems, in the order of the checks.
    pub fn into_vec(self) -> Vec<Problem> {
        self.found
    }

    /// Checks the store under `key` and those below it.
    pub fn check(&mut self, key: &str, store: &StoreConfiguration, purpose: StorePurpose) {
        for (name, child) in store.children() {
            self.check(&format!("{key}.{}.{name}", store.kind()), child, purpose);
        }
        match store {
            StoreConfiguration::Disk(table) => self.disk(&format!("{key}.disk"), table, purpose),
            StoreConfiguration::Grpc(table) => {
                let schemes = ["grpc://", "grpcs://", "unix:"];
                let key = format!("{key}.grpc");
                self.address(
                    &format!("{key}.endpoint"),
                    table.endpoint.get_ref(),
                    table.endpoint.span(),
                    &schemes,
                );
                if table.tls_certificate.is_some() != table.tls_key.is_some() {
                    let message = "tls_certificate and tls_key go together";
                    self.note(key, None, message, "add the other one");
                }
            }
            StoreConfiguration::Http(table) => {
                let schemes = ["http://", "https://"];
                self.address(
                    &format!("{key}.http.url"),
                    table.url.get_ref(),
                    table.url.span(),
                    &schemes,
                );
            }
            StoreConfiguration::S3(table) => {
                if let Some(endpoint) = &table.endpoint {
                    let schemes = ["http://", "https://"];
                    self.address(
                        &format!("{key}.s3.endpoint"),
                        endpoint.get_ref(),
                        endpoint.span(),
                        &schemes,
                    );
                }
            }
            StoreConfiguration::Verifying(_) | StoreConfiguration::ExistenceCaching(_) => {
                self.for_blobs_only(key, store.kind(), purpose);
            }
            StoreConfiguration::Tiered(table) => self.tiered(&format!("{key}.tiered"), table, purpose),
            StoreConfiguration::Sharded(table) => self.sharded(&format!("{key}.sharded"), table),
            // Tables in which no value can be wrong.
            _ => {}
        }
    }

    fn note(
        &mut self,
        key: impl Into<String>,
        span: Option<Range<usize>>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.found.push(Problem {
            key: key.into(),
            span,
            message: message.into(),
            hint: Some(hint.into()),
        });
    }

    fn for_blobs_only(&mut self, key: &str, kind: &str, purpose: StorePurpose) {
        if purpose == StorePurpose::Results {
            self.note(
                format!("{key}.{kind}"),
                None,
                "this kind is for blobs only",
                "leave it out here",
            );
        }
    }

    fn address(&mut self, key: &str, value: &str, span: Range<usize>, schemes: &[&str]) {
        if value.contains('@') {
            // Without an excerpt of the line, which would show the password.
            let message = "the address contains credentials, which would be shown in logs";
            self.note(
                key,
                None,
                message,
                "configure them by the keys for credentials of this store",
            );
            return;
        }
        let has_scheme = schemes
            .iter()
            .any(|scheme| value.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
        if !has_scheme {
            let message = format!("{value:?} is not an address");
            self.note(
                key,
                Some(span),
                message,
                format!("write {}…", schemes.join("…, ")),
            );
        }
    }

    fn directory(&mut self, key: &str, directory: &toml::Spanned<PathBuf>) {
        if !self.directories.insert(directory.get_ref().clone()) {
            let message = format!(
                "{} is the directory of another store too",
                directory.get_ref().display()
            );
            self.note(
                key,
                Some(directory.span()),
                message,
                "give each store a directory of its own",
            );
        }
    }

    fn disk(&mut self, key: &str, table: &DiskTable, purpose: StorePurpose) {
        self.directory(&format!("{key}.directory"), &table.directory);
        let span = Some(table.directory.span());
        if purpose == StorePurpose::Blobs && table.size.is_none_or(|size| size.as_u64() == 0) {
            let message = "a store of blobs needs a size limit";
            self.note(
                format!("{key}.size"),
                span.clone(),
                message,
                "write, for example, size = \"50GiB\"",
            );
        }
        if purpose == StorePurpose::Results && table.max_results == 0 {
            let message = "a store of 0 results cannot keep anything";
            self.note(
                format!("{key}.max_results"),
                span,
                message,
                "write a number above 0, or leave it out",
            );
        }
    }

    fn tiered(&mut self, key: &str, table: &TieredTable, purpose: StorePurpose) {
        let Some(write_back) = &table.write_back else {
            return;
        };
        let key = format!("{key}.write_back");
        if purpose == StorePurpose::Results {
            let message = "results are always written through";
            self.note(key, None, message, "leave write_back out here");
            return;
        }
        self.directory(&format!("{key}.directory"), &write_back.directory);
        let max_size = write_back.max_size.get_ref();
        let span = Some(write_back.max_size.span());
        if let StoreConfiguration::Disk(DiskTable { size: Some(size), .. }) = &*table.fast
            && max_size.as_u64() > size.as_u64() / 2
        {
            let message = format!("a queue of {max_size} leaves too little room in a fast store of {size}");
            self.note(
                format!("{key}.max_size"),
                span.clone(),
                message,
                "write at most half of the fast store's size",
            );
        }
        if write_back.max_blobs == 0 || write_back.concurrency == 0 || max_size.as_u64() == 0 {
            let message = "a queue without room cannot take a write";
            self.note(
                key,
                span,
                message,
                "write numbers above 0 for max_blobs, max_size and concurrency",
            );
        }
    }

    fn sharded(&mut self, key: &str, table: &ShardedTable) {
        let key = format!("{key}.shards");
        let shards = table.shards.get_ref();
        if shards.is_empty() {
            self.note(
                &key,
                Some(table.shards.span()),
                "there is no shard",
                "write at least one",
            );
        }
        let mut names = BTreeSet::new();
        for (number, shard) in shards.iter().enumerate() {
            let key = format!("{key}[{number}]");
            let span = Some(shard.name.span());
            if !names.insert(shard.name.get_ref()) {
                let message = format!("two shards have the name {:?}", shard.name.get_ref());
                self.note(
                    format!("{key}.name"),
                    span.clone(),
                    message,
                    "give each shard a name of its own",
                );
            }
            if shard.weight == 0 {
                let message = "a shard of weight 0 holds nothing";
                self.note(
                    format!("{key}.weight"),
                    span,
                    message,
                    "leave it out, or write a number above 0",
                );
            }
        }
    }
}
