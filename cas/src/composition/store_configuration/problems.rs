//! What is wrong with a configuration that can be read.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use super::{DiskTable, ShardedTable, StoreConfiguration, TieredTable};

/// What a store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Blobs.
    Blobs,
    /// Results of Actions.
    Results,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, from the top of the file: `blobs.tiered.fast.disk.size`.
    pub key: String,
    /// Where in the text the value is, in bytes, if that is known.
    pub place: Option<Range<usize>>,
    /// What is wrong and what to write instead.
    pub what: String,
}

/// Collects everything that is wrong with several stores of one process.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<Problem>,
    directories: BTreeSet<PathBuf>,
}

impl Problems {
    /// All that was found.
    pub fn into_found(self) -> Vec<Problem> {
        self.found
    }

    /// Looks at the store under `key` and at what is below it.
    pub fn look_at(&mut self, key: &str, store: &StoreConfiguration, purpose: Use) {
        let mut below = |name: &str, inner: &StoreConfiguration| {
            self.look_at(&format!("{key}.{name}"), inner, purpose);
        };
        match store {
            StoreConfiguration::Memory {} => {}
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
                    self.note(
                        key,
                        None,
                        "tls_certificate and tls_key go together; add the other one",
                    );
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
            StoreConfiguration::Verifying(table) => {
                below("verifying.inner", &table.inner);
                self.for_blobs_only(key, "verifying", purpose);
            }
            StoreConfiguration::ExistenceCaching(table) => {
                below("existence_caching.inner", &table.inner);
                self.for_blobs_only(key, "existence_caching", purpose);
            }
            StoreConfiguration::Tiered(table) => {
                below("tiered.fast", &table.fast);
                below("tiered.slow", &table.slow);
                self.tiered(&format!("{key}.tiered"), table, purpose);
            }
            StoreConfiguration::ReadOnly(table) => below("read_only.inner", &table.inner),
            StoreConfiguration::Metered(table) => below("metered.inner", &table.inner),
            StoreConfiguration::Deadline(table) => below("deadline.inner", &table.inner),
            StoreConfiguration::Mirrored(table) => {
                below("mirrored.one", &table.one);
                below("mirrored.other", &table.other);
            }
            StoreConfiguration::Sharded(table) => self.sharded(&format!("{key}.sharded"), table, purpose),
        }
    }

    fn note(&mut self, key: impl Into<String>, place: Option<Range<usize>>, what: impl Into<String>) {
        self.found.push(Problem {
            key: key.into(),
            place,
            what: what.into(),
        });
    }

    fn for_blobs_only(&mut self, key: &str, kind: &str, purpose: Use) {
        if purpose == Use::Results {
            let what = "this kind is for blobs only; leave it out here";
            self.note(format!("{key}.{kind}"), None, what);
        }
    }

    fn address(&mut self, key: &str, value: &str, place: Range<usize>, schemes: &[&str]) {
        let has_scheme = schemes
            .iter()
            .any(|scheme| value.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
        if !has_scheme {
            let what = format!("{value:?} is no address; write {}…", schemes.join("…, "));
            self.note(key, Some(place), what);
        }
    }

    fn directory(&mut self, key: &str, directory: &toml::Spanned<PathBuf>) {
        if !self.directories.insert(directory.get_ref().clone()) {
            let what = format!(
                "{} is the directory of another store too; give each one of its own",
                directory.get_ref().display()
            );
            self.note(key, Some(directory.span()), what);
        }
    }

    fn disk(&mut self, key: &str, table: &DiskTable, purpose: Use) {
        self.directory(&format!("{key}.directory"), &table.directory);
        if purpose == Use::Blobs && table.size.is_none_or(|size| size.as_u64() == 0) {
            let what = "a store of blobs needs a limit; write, for example, size = \"50GiB\"";
            self.note(format!("{key}.size"), Some(table.directory.span()), what);
        }
        if purpose == Use::Results && table.max_results == 0 {
            let what = "at least one result has to fit";
            self.note(format!("{key}.max_results"), Some(table.directory.span()), what);
        }
    }

    fn tiered(&mut self, key: &str, table: &TieredTable, purpose: Use) {
        let Some(write_back) = &table.write_back else {
            return;
        };
        let key = format!("{key}.write_back");
        if purpose == Use::Results {
            self.note(
                key,
                None,
                "results are written through; leave write_back out here",
            );
            return;
        }
        self.directory(&format!("{key}.directory"), &write_back.directory);
        let waiting = write_back.max_size.get_ref().as_u64();
        if let StoreConfiguration::Disk(DiskTable { size: Some(size), .. }) = &*table.fast
            && waiting > size.as_u64() / 2
        {
            let what = format!(
                "{} may wait in a fast store of {size}, which would leave too little room; write half of that at most",
                write_back.max_size.get_ref()
            );
            self.note(format!("{key}.max_size"), Some(write_back.max_size.span()), what);
        }
        if write_back.max_blobs == 0 || write_back.concurrency == 0 || waiting == 0 {
            let what = "max_blobs, max_size and concurrency have to be above zero";
            self.note(key, Some(write_back.max_size.span()), what);
        }
    }

    fn sharded(&mut self, key: &str, table: &ShardedTable, purpose: Use) {
        let key = format!("{key}.shards");
        let shards = table.shards.get_ref();
        if shards.is_empty() {
            self.note(&key, Some(table.shards.span()), "one shard at least is needed");
        }
        let mut names = BTreeSet::new();
        for (number, shard) in shards.iter().enumerate() {
            let key = format!("{key}[{number}]");
            if !names.insert(shard.name.get_ref()) {
                let what = format!("two shards are called {:?}", shard.name.get_ref());
                self.note(format!("{key}.name"), Some(shard.name.span()), what);
            }
            if shard.weight == 0 {
                let what = "a shard of weight 0 holds nothing; leave it out";
                self.note(format!("{key}.weight"), Some(shard.name.span()), what);
            }
            self.look_at(&format!("{key}.store"), &shard.store, purpose);
        }
    }
}
