//! Resources that Actions need and workers have.

use std::fmt;

use bitzel_proto::reapi::Platform;
use bitzel_proto::worker::WorkerResources;
use bytesize::ByteSize;

use crate::error::ExecutionError;
use crate::execution_config::ResourceConfig;

/// Number of steps of a rounded amount from one power of two to the next.
const STEPS_PER_DOUBLING: u64 = 2;
/// Smallest amounts that are told apart.
const MIN_MEMORY_BYTES: u64 = 64 << 20;
const MIN_MILLICPUS: u64 = 125;
const MIN_DISK_BYTES: u64 = 256 << 20;

/// Amounts of memory, processors and disk space. Zero is "none" in a need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[must_use]
pub struct Resources {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Processors, in thousandths.
    pub millicpus: u64,
    /// Space on disk in bytes.
    pub disk_bytes: u64,
}

impl Resources {
    /// Resources of a worker that did not tell them.
    pub const UNLIMITED: Self = Self {
        memory_bytes: u64::MAX,
        millicpus: u64::MAX,
        disk_bytes: u64::MAX,
    };

    /// Reads what an Action states in its platform properties, by the names that the configuration has for each resource.
    /// Zero where it states nothing.
    pub fn stated(platform: &Platform, config: &ResourceConfig) -> Result<Self, ExecutionError> {
        let amount = |names: &[String], parse: fn(&str) -> Option<u64>| {
            let mut properties = platform.properties.iter();
            let Some(property) = properties.find(|property| names.contains(&property.name)) else {
                return Ok(0);
            };
            parse(&property.value).ok_or_else(|| ExecutionError::ResourceProperty {
                name: property.name.clone(),
                value: property.value.clone(),
            })
        };
        Ok(Self {
            memory_bytes: amount(&config.memory_properties, bytes)?,
            millicpus: amount(&config.cpu_properties, millicpus)?,
            disk_bytes: amount(&config.disk_properties, bytes)?,
        })
    }

    /// Resources that a worker offers. What it does not tell is unlimited.
    pub(crate) fn offered(offered: Option<&WorkerResources>) -> Self {
        let amount = |amount: u64| if amount == 0 { u64::MAX } else { amount };
        offered.map_or(Self::UNLIMITED, |offered| Self {
            memory_bytes: amount(offered.memory_bytes),
            millicpus: amount(offered.millicpus),
            disk_bytes: amount(offered.disk_bytes),
        })
    }

    /// True if it states nothing.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// True if each amount is at most that of `available`.
    pub fn fits_in(&self, available: &Self) -> bool {
        self.memory_bytes <= available.memory_bytes
            && self.millicpus <= available.millicpus
            && self.disk_bytes <= available.disk_bytes
    }

    /// The larger one of each amount.
    pub fn larger(&self, other: &Self) -> Self {
        self.zip(other, u64::max)
    }

    /// The smaller one of each amount.
    pub fn smaller(&self, other: &Self) -> Self {
        self.zip(other, u64::min)
    }

    /// Sum of each amount.
    pub fn plus(&self, other: &Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    fn zip(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            memory_bytes: combine(self.memory_bytes, other.memory_bytes),
            millicpus: combine(self.millicpus, other.millicpus),
            disk_bytes: combine(self.disk_bytes, other.disk_bytes),
        }
    }

    /// Amounts rounded up to one of a few sizes, so that Actions of similar size wait in the same queue. Little disk space counts
    /// as none: most Actions need little, and many sizes would make many queues.
    pub fn rounded_up(&self) -> Self {
        Self {
            memory_bytes: round_up(self.memory_bytes, MIN_MEMORY_BYTES),
            millicpus: round_up(self.millicpus, MIN_MILLICPUS),
            disk_bytes: match self.disk_bytes {
                little if little < MIN_DISK_BYTES => 0,
                bytes => round_up(bytes, MIN_DISK_BYTES),
            },
        }
    }
}

/// The next larger size: a power of two times `unit`, or one of the steps between two of them.
fn round_up(amount: u64, unit: u64) -> u64 {
    if amount == 0 {
        return 0;
    }
    let units = amount.div_ceil(unit);
    let Some(power) = units.checked_next_power_of_two() else {
        return u64::MAX;
    };
    let step = (power / 2 / STEPS_PER_DOUBLING).max(1);
    let rounded = units.checked_next_multiple_of(step);
    rounded.map_or(u64::MAX, |rounded| rounded.saturating_mul(unit))
}

/// Number of bytes of a property, such as `8GiB` or `1073741824`.
fn bytes(text: &str) -> Option<u64> {
    text.parse::<ByteSize>().ok().map(|size| size.as_u64())
}

/// Thousandths of processors of a property, such as `2`, `0.5` or `500m`.
fn millicpus(text: &str) -> Option<u64> {
    if let Some(thousandths) = text.strip_suffix('m') {
        return thousandths.parse().ok();
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(fraction)
}

impl fmt::Display for Resources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |amount: u64| ByteSize(amount).to_string();
        let processors = format!("{}.{:03}", self.millicpus / 1000, self.millicpus % 1000);
        let mut separator = "";
        for (amount, text, name) in [
            (self.memory_bytes, bytes(self.memory_bytes), "of memory"),
            (self.millicpus, processors, "processors"),
            (self.disk_bytes, bytes(self.disk_bytes), "of disk space"),
        ] {
            match amount {
                0 => continue,
                u64::MAX => write!(formatter, "{separator}any amount {name}")?,
                _ => write!(formatter, "{separator}{text} {name}")?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bitzel_proto::reapi::platform::Property;

    use super::*;

    fn stated(properties: &[(&str, &str)]) -> Result<Resources, ExecutionError> {
        let property = |(name, value): &(&str, &str)| Property {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        let platform = Platform {
            properties: properties.iter().map(property).collect(),
        };
        let config = ResourceConfig {
            memory_properties: vec!["bitzel:memory".to_owned(), "EstimatedMemory".to_owned()],
            ..ResourceConfig::default()
        };
        Resources::stated(&platform, &config)
    }

    #[test]
    fn reads_what_an_action_states() {
        let read = stated(&[
            ("EstimatedMemory", "8GiB"),
            ("bitzel:cpus", "1.5"),
            ("bitzel:disk", "4096"),
            ("OSFamily", "linux"),
        ]);
        let expected = Resources {
            memory_bytes: 8 << 30,
            millicpus: 1500,
            disk_bytes: 4096,
        };
        assert_eq!(read.unwrap(), expected);
        assert_eq!(stated(&[("bitzel:cpus", "250m")]).unwrap().millicpus, 250);
        for (name, value) in [
            ("bitzel:memory", "much"),
            ("bitzel:memory", "-1"),
            ("bitzel:cpus", "0.0001"),
            ("bitzel:cpus", "1.-5"),
            ("bitzel:cpus", "18446744073709551615"),
        ] {
            assert!(stated(&[(name, value)]).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn rounds_up_to_few_sizes() {
        let gib = |amount: u64| amount << 30;
        assert_eq!(round_up(0, MIN_MEMORY_BYTES), 0);
        assert_eq!(round_up(1, MIN_MEMORY_BYTES), 64 << 20);
        assert_eq!(round_up(gib(5), MIN_MEMORY_BYTES), gib(6));
        assert_eq!(round_up(gib(6), MIN_MEMORY_BYTES), gib(6));
        assert_eq!(round_up(gib(7), MIN_MEMORY_BYTES), gib(8));
        assert_eq!(round_up(u64::MAX, MIN_MEMORY_BYTES), u64::MAX);
        let sizes: std::collections::BTreeSet<u64> = (1..=1024)
            .map(|size| round_up(size << 30, MIN_MEMORY_BYTES))
            .collect();
        assert_eq!(sizes.len(), 20, "1 GiB to 1 TiB");
    }

    #[test]
    fn names_only_what_is_needed() {
        let resources = Resources {
            memory_bytes: 8 << 30,
            millicpus: 500,
            disk_bytes: 0,
        };
        assert_eq!(resources.to_string(), "8.0 GiB of memory, 0.500 processors");
        assert_eq!(
            Resources::UNLIMITED.to_string(),
            "any amount of memory, any amount processors, any amount of disk space"
        );
    }
}
