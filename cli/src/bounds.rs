//! Settings of the bounds of each Action: options of the command line and a table of the configuration file.

#![allow(
    clippy::doc_markdown,
    reason = "these comments are the help text on the terminal, too"
)]

use std::time::Duration;

use bitzel_cas::composition::store_configuration::schema::SizeText;
use bitzel_worker::Bounds;
use bitzel_worker::bounds::ActionNetworkSetting;
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::Deserialize;

/// `[execution.bounds]`: bounds of each Action on this machine. An Action that reaches one fails with the figure and the
/// name of the key.
#[derive(Debug, Clone, Default, Args, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Bounds of each Action")]
pub(crate) struct BoundSettings {
    /// Memory of all processes, with files in /tmp and /dev/shm. Default: three quarters of this machine's memory
    #[arg(long = "action-memory", value_name = "SIZE", env = "BITZEL_ACTION_MEMORY")]
    #[schemars(with = "Option<SizeText>", extend("examples" = ["16GiB"]))]
    memory: Option<ByteSize>,

    /// Number of processes and threads at the same time. Default: 8192
    #[arg(long = "action-processes", value_name = "N", env = "BITZEL_ACTION_PROCESSES")]
    #[schemars(example = 4096)]
    processes: Option<u64>,

    /// Disk space of changes and logs; holes of files do not count. Default: 128 GiB
    #[arg(long = "action-disk", value_name = "SIZE", env = "BITZEL_ACTION_DISK")]
    #[schemars(with = "Option<SizeText>", extend("examples" = ["200GiB"]))]
    disk: Option<ByteSize>,

    /// Number of files, directories and symlinks of the input root. Files with times that only repeated directories bring
    /// count 16 times. Default: 2000000
    #[arg(
        long = "action-input-entries",
        value_name = "N",
        env = "BITZEL_ACTION_INPUT_ENTRIES"
    )]
    #[schemars(example = 4_000_000)]
    input_entries: Option<u64>,

    /// Size of all files of the input root, as often as they occur. Default: 256 GiB
    #[arg(
        long = "action-input-size",
        value_name = "SIZE",
        env = "BITZEL_ACTION_INPUT_SIZE"
    )]
    #[schemars(with = "Option<SizeText>", extend("examples" = ["500GiB"]))]
    input_size: Option<ByteSize>,

    /// Number of files, directories and symlinks that the command left as outputs. Default: 2000000
    #[arg(
        long = "action-output-entries",
        value_name = "N",
        env = "BITZEL_ACTION_OUTPUT_ENTRIES"
    )]
    #[schemars(example = 4_000_000)]
    output_entries: Option<u64>,

    /// Size of all outputs that the command left, with the holes of files. Default: 64 GiB
    #[arg(
        long = "action-output-size",
        value_name = "SIZE",
        env = "BITZEL_ACTION_OUTPUT_SIZE"
    )]
    #[schemars(with = "Option<SizeText>", extend("examples" = ["100GiB"]))]
    output_size: Option<ByteSize>,

    /// Size of standard output and standard error together. Default: 1 GiB
    #[arg(long = "action-log-size", value_name = "SIZE", env = "BITZEL_ACTION_LOG_SIZE")]
    #[schemars(with = "Option<SizeText>", extend("examples" = ["100MiB"]))]
    log_size: Option<ByteSize>,

    /// Time for the fetch and the assembly of inputs. Default: 1h
    #[arg(
        long = "action-input-time",
        value_name = "DURATION",
        env = "BITZEL_ACTION_INPUT_TIME",
        value_parser = humantime::parse_duration
    )]
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<String>", extend("format" = "duration", "examples" = ["2h"]))]
    input_time: Option<Duration>,

    /// Time for inputs, command and outputs together. Default: 25h
    #[arg(
        long = "action-time",
        value_name = "DURATION",
        env = "BITZEL_ACTION_TIME",
        value_parser = humantime::parse_duration
    )]
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<String>", extend("format" = "duration", "examples" = ["8h"]))]
    total_time: Option<Duration>,

    /// Network of Actions that ask for one, such as do_fetch. Default: auto
    #[arg(long = "action-network", value_name = "KIND", env = "BITZEL_ACTION_NETWORK")]
    network: Option<NetworkSetting>,
}

/// Network of Actions that ask for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkSetting {
    /// An isolated one where the program pasta can make it, else this machine's, with a warning
    Auto,
    /// An isolated one, without loopback of this machine, link-local addresses and metadata services. A worker that cannot
    /// make it does not start
    Isolated,
    /// This machine's
    Host,
}

impl From<NetworkSetting> for ActionNetworkSetting {
    fn from(setting: NetworkSetting) -> Self {
        match setting {
            NetworkSetting::Auto => Self::Auto,
            NetworkSetting::Isolated => Self::Isolated,
            NetworkSetting::Host => Self::Host,
        }
    }
}

impl BoundSettings {
    /// The bounds: these settings, then those of `file`, then the defaults.
    pub(crate) fn bounds(&self, file: Option<&Self>) -> Bounds {
        let mut bounds = Bounds::default();
        for settings in file.into_iter().chain([self]) {
            settings.change(&mut bounds);
        }
        bounds
    }

    fn change(&self, bounds: &mut Bounds) {
        let sizes = [
            (self.memory, &mut bounds.memory_bytes),
            (self.disk, &mut bounds.disk_bytes),
            (self.input_size, &mut bounds.input_bytes),
            (self.output_size, &mut bounds.output_bytes),
            (self.log_size, &mut bounds.log_bytes),
        ];
        for (size, bound) in sizes {
            *bound = size.map_or(*bound, |size| size.as_u64());
        }
        let numbers = [
            (self.processes, &mut bounds.processes),
            (self.input_entries, &mut bounds.input_entries),
            (self.output_entries, &mut bounds.output_entries),
        ];
        for (number, bound) in numbers {
            *bound = number.unwrap_or(*bound);
        }
        bounds.input_time = self.input_time.unwrap_or(bounds.input_time);
        bounds.total_time = self.total_time.unwrap_or(bounds.total_time);
        bounds.network = self.network.map_or(bounds.network, ActionNetworkSetting::from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_counts_more_than_the_file() {
        let file: BoundSettings = toml::from_str(
            "memory = \"2GiB\"\nprocesses = 5\ndisk = \"3GiB\"\ninput_entries = 6\noutput_entries = 7\ninput_size = \"5GiB\"\noutput_size = \"4GiB\"\nnetwork = \"isolated\"\nlog_size = \"1MiB\"\ninput_time = \"30m\"\ntotal_time = \"2h\"",
        )
        .unwrap();
        let options = BoundSettings {
            memory: Some(ByteSize::gib(1)),
            ..BoundSettings::default()
        };
        let expected = Bounds {
            memory_bytes: 1 << 30,
            processes: 5,
            disk_bytes: 3 << 30,
            input_entries: 6,
            input_bytes: 5 << 30,
            output_entries: 7,
            output_bytes: 4 << 30,
            log_bytes: 1 << 20,
            input_time: Duration::from_mins(30),
            total_time: Duration::from_hours(2),
            network: ActionNetworkSetting::Isolated,
        };
        assert_eq!(options.bounds(Some(&file)), expected);
        assert_eq!(BoundSettings::default().bounds(None), Bounds::default());
    }
}
