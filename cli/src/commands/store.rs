//! `bitzel store`: maintenance of a store that no server uses.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use bitzel_cas::media::disk_blob_store::{BlobTotals, Statistics};
use bitzel_cas::{DiskBlobStore, DiskBlobStoreOptions};
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::arguments::{GcArguments, StoreArguments, StoreCommand};
use crate::command_error::CommandError;
use crate::console;
use crate::directories::Directories;

/// No limits: opening the store here must not evict anything.
const UNLIMITED: DiskBlobStoreOptions = DiskBlobStoreOptions {
    limit_bytes: u64::MAX,
    free_space_floor_bytes: 0,
    compress: false,
};

/// Opens the store, runs the command, and closes the store.
pub(crate) async fn run(
    directories: &Directories,
    arguments: StoreArguments,
) -> Result<ExitCode, CommandError> {
    let directory = match arguments.store {
        Some(directory) => std::path::absolute(directory)?,
        None => directories.server().join("cas"),
    };
    let store = open(&directory).await?;
    if let Some(losses) = store.losses() {
        console::warn(&losses.to_string());
    }
    let done = match arguments.command {
        StoreCommand::Verify => verify(&store).await,
        StoreCommand::Stats { json } => stats(&store, &directory, json).await,
        StoreCommand::Gc(arguments) => evict(&store, &arguments).await,
    };
    store.close().await?;
    done
}

async fn open(directory: &Path) -> Result<DiskBlobStore, CommandError> {
    // Opening a store that does not exist would create it.
    let index: PathBuf = directory.join("index");
    if !index.is_dir() {
        let message = format!("there is no store in {}", directory.display());
        return Err(CommandError::new(message).hint("give the directory of a store with --store DIR"));
    }
    DiskBlobStore::open(directory, UNLIMITED).await.map_err(|error| {
        CommandError::from(error)
            .hint("`bitzel store` needs a store that no server uses: stop `bitzel serve` or the build first")
    })
}

async fn verify(store: &DiskBlobStore) -> Result<ExitCode, CommandError> {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template(
        "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let verified = store
        .verify(|verification, wrong| {
            bar.set_length(verification.total_bytes);
            bar.set_position(verification.bytes);
            bar.set_message(format!("{} corrupt", verification.corrupt));
            bar.suspend(|| {
                for digest in wrong {
                    // With standard output gone, the exit code still reports them.
                    writeln!(io::stdout(), "corrupt: {digest}").ok();
                }
            });
        })
        .await?;
    bar.finish_and_clear();
    let (blobs, bytes) = (HumanCount(verified.blobs), HumanBytes(verified.bytes));
    if verified.corrupt == 0 {
        writeln!(io::stdout(), "{blobs} blobs of {bytes} are intact")?;
        return Ok(ExitCode::SUCCESS);
    }
    let corrupt = HumanCount(verified.corrupt);
    writeln!(
        io::stdout(),
        "{corrupt} of {blobs} blobs were corrupt and were moved to the quarantine"
    )?;
    Ok(ExitCode::FAILURE)
}

async fn stats(store: &DiskBlobStore, directory: &Path, json: bool) -> Result<ExitCode, CommandError> {
    let statistics = store.statistics().await;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{:#}", as_json(&statistics, directory))?;
        return Ok(ExitCode::SUCCESS);
    }
    let usage = statistics.usage;
    writeln!(out, "store        {}", directory.display())?;
    writeln!(out, "blobs        {}", HumanCount(usage.blobs))?;
    writeln!(out, "on disk      {}", HumanBytes(usage.bytes))?;
    let tallies = [
        ("in segments", statistics.in_segments),
        ("in files", statistics.in_files),
        ("compressed", statistics.compressed),
    ];
    for (name, tally) in tallies {
        let (blobs, disk) = (HumanCount(tally.blobs), HumanBytes(tally.disk_bytes));
        let logical = HumanBytes(tally.logical_bytes);
        writeln!(out, "{name:12} {blobs} blobs of {logical}, {disk} on disk")?;
    }
    if let Some(oldest) = statistics.oldest_use {
        let age = SystemTime::now().duration_since(oldest).unwrap_or_default();
        writeln!(out, "oldest use   {} ago", HumanDuration(age))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(statistics: &Statistics, directory: &Path) -> Value {
    let tally = |tally: BlobTotals| {
        json!({
            "blobs": tally.blobs,
            "logical_bytes": tally.logical_bytes,
            "disk_bytes": tally.disk_bytes,
        })
    };
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    json!({
        "store": directory.to_string_lossy(),
        "blobs": statistics.usage.blobs,
        "disk_bytes": statistics.usage.bytes,
        "in_segments": tally(statistics.in_segments),
        "in_files": tally(statistics.in_files),
        "compressed": tally(statistics.compressed),
        "oldest_use_unix_seconds": statistics.oldest_use.map(seconds),
    })
}

async fn evict(store: &DiskBlobStore, arguments: &GcArguments) -> Result<ExitCode, CommandError> {
    let (blobs, bytes) = store.evict(arguments.size, arguments.max_age).await?;
    let usage = store.usage();
    writeln!(
        io::stdout(),
        "evicted {} blobs, {}; {} blobs, {} are left",
        HumanCount(blobs),
        HumanBytes(bytes),
        HumanCount(usage.blobs),
        HumanBytes(usage.bytes),
    )?;
    Ok(ExitCode::SUCCESS)
}
