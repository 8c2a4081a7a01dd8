//! Options of `bitzel store`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct StoreArguments {
    /// Directory of a disk store that no running server uses [default: the store of `bitzel serve` in the cache
    /// directory]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read and hash every blob. Corrupt blobs are moved to the quarantine; the exit code is 1 if there are any
    Verify,
    /// Show number and size of the blobs in the store
    Stats {
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Evict the least recently used blobs
    Gc(GcArguments),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct GcArguments {
    /// Evict until the store is no larger than this: bytes, or a number with K, M, G or T (powers of 1024), for example
    /// 20G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) size: Option<u64>,

    /// Evict blobs that were not used for this long: seconds, or a number with m, h or d, for example 30d
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pub(crate) max_age: Option<Duration>,
}

/// Parses a whole number with one of the units.
fn parse_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let (_, unit) = units.iter().find(|(name, _)| *name == &text[digits.len()..])?;
    digits.parse::<u64>().ok()?.checked_mul(*unit)
}

pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let units = [
        ("", 1),
        ("K", 1 << 10),
        ("M", 1 << 20),
        ("G", 1 << 30),
        ("T", 1 << 40),
    ];
    parse_units(text, &units)
        .ok_or_else(|| "write a whole number with K, M, G or T, for example 20G".to_owned())
}

pub(super) fn parse_age(text: &str) -> Result<Duration, String> {
    let units = [("", 1), ("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let seconds = parse_units(text, &units);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "write a whole number with s, m, h or d, for example 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_units_of_sizes_and_ages() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("20G"), Ok(20 << 30));
        assert_eq!(parse_age("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_age("30d"), Ok(Duration::from_hours(30 * 24)));
        for wrong in ["", "G", "1.5G", "-1", "1g", "20 G", "99999999999T", "1é"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
    }
}
