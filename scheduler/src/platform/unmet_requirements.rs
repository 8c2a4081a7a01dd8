//! Requirements that no worker meets, for the message to the client.

use std::collections::BTreeMap;
use std::fmt;

use bitzel_proto::platform_property::{IMAGE_ROOT_IDENTITY, ROOT_IDENTITY};

use super::{OfferedProperties, RequiredProperties};
use crate::resources::Resources;

/// Number of offered values that a message names. It only counts further ones.
const MAX_LISTED_VALUES: usize = 8;

/// Properties that an Action requires, with the offers of the workers of which none can run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmetRequirements {
    required: RequiredProperties,
    /// Number of workers.
    workers: usize,
    /// Required properties that no worker offers.
    missing: Vec<MissingProperty>,
    /// Resources that the Action states, and those of the largest worker that offers the properties.
    resources: Option<(Resources, Resources)>,
}

/// A required property that no worker offers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MissingProperty {
    name: String,
    value: String,
    /// Values that workers offer for this name, with the number of workers.
    on_offer: BTreeMap<String, usize>,
}

impl UnmetRequirements {
    /// Compares requirements with the offers of all `workers`.
    pub fn new<'worker>(
        required: RequiredProperties,
        workers: impl IntoIterator<Item = &'worker OfferedProperties>,
    ) -> Self {
        let workers: Vec<_> = workers.into_iter().collect();
        let is_missing =
            |property: &&(String, String)| !workers.iter().any(|offered| offered.0.contains(*property));
        let missing = required.0.iter().filter(is_missing).map(|(name, value)| {
            let mut on_offer = BTreeMap::new();
            let values = workers.iter().flat_map(|offered| offered.values(name));
            // Every worker offers image roots, and `--root-identity` is not the way to one.
            let is_choice = |value: &&str| name != ROOT_IDENTITY || *value != IMAGE_ROOT_IDENTITY;
            for value in values.filter(is_choice) {
                *on_offer.entry(value.to_owned()).or_default() += 1;
            }
            MissingProperty {
                name: name.clone(),
                value: value.clone(),
                on_offer,
            }
        });
        Self {
            missing: missing.collect(),
            workers: workers.len(),
            required,
            resources: None,
        }
    }

    /// Adds the resources that an Action states, and those of the largest worker that offers the properties.
    #[must_use]
    pub fn with_resources(mut self, stated: Resources, largest: Option<Resources>) -> Self {
        self.resources = largest.map(|largest| (stated, largest));
        self
    }
}

impl fmt::Display for UnmetRequirements {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; ", self.required)?;
        if self.workers == 0 {
            return formatter.write_str("no worker is connected");
        }
        if let Some((stated, largest)) = &self.resources {
            return write!(
                formatter,
                "the Action states that it needs {stated}, and no worker that offers the properties has that for one Action; \
                 the largest has {largest}"
            );
        }
        if self.missing.is_empty() {
            return formatter.write_str("each is offered by some worker, all of them by none");
        }
        for (index, property) in self.missing.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{property}")?;
        }
        Ok(())
    }
}

impl fmt::Display for MissingProperty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            value,
            on_offer,
        } = self;
        if on_offer.is_empty() {
            return write!(formatter, "no worker offers {name}");
        }
        write!(formatter, "workers offer {name}=")?;
        for (index, (value, workers)) in on_offer.iter().take(MAX_LISTED_VALUES).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let plural = if *workers == 1 { "" } else { "s" };
            write!(formatter, "{separator}{value} ({workers} worker{plural})")?;
        }
        if on_offer.len() > MAX_LISTED_VALUES {
            write!(
                formatter,
                " and {} more values",
                on_offer.len() - MAX_LISTED_VALUES
            )?;
        }
        if name == ROOT_IDENTITY && value == IMAGE_ROOT_IDENTITY {
            formatter.write_str(" (they are of a version that knows no image roots: update them)")?;
        } else if name == ROOT_IDENTITY {
            formatter.write_str(
                " (their root file systems have other packages than the one that the build asks for: choose one of \
                 theirs with --root-identity, or start a worker on a root with the same packages)",
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bitzel_proto::reapi::Platform;
    use bitzel_proto::reapi::platform::Property;

    use super::*;

    fn platform(properties: &[(&str, &str)]) -> Platform {
        let property = |(name, value): &(&str, &str)| Property {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        Platform {
            properties: properties.iter().map(property).collect(),
        }
    }

    fn message(required: &[(&str, &str)], workers: &[&[(&str, &str)]]) -> String {
        let offers: Vec<_> = workers
            .iter()
            .map(|offered| OfferedProperties::new(&platform(offered)))
            .collect();
        UnmetRequirements::new(RequiredProperties::new(&platform(required)), &offers).to_string()
    }

    #[test]
    fn names_the_root_that_was_asked_for_and_those_on_offer() {
        let bookworm: &[(&str, &str)] = &[
            ("root-identity", "debian-12-aa"),
            ("root-identity", "image"),
            ("OSFamily", "linux"),
        ];
        let trixie: &[(&str, &str)] = &[("root-identity", "debian-13-bb"), ("OSFamily", "linux")];
        let required = [("root-identity", "fedora-41-cc"), ("OSFamily", "linux")];
        assert_eq!(
            message(&required, &[trixie, bookworm, bookworm]),
            "OSFamily=linux, root-identity=fedora-41-cc; workers offer root-identity=debian-12-aa (2 workers), \
             debian-13-bb (1 worker) (their root file systems have other packages than the one that the build asks \
             for: choose one of theirs with --root-identity, or start a worker on a root with the same packages)"
        );
    }

    #[test]
    fn says_that_workers_are_too_old_for_image_roots() {
        let old: &[(&str, &str)] = &[("root-identity", "debian-12-aa")];
        assert_eq!(
            message(&[("root-identity", "image")], &[old]),
            "root-identity=image; workers offer root-identity=debian-12-aa (1 worker) (they are of a version that knows \
             no image roots: update them)"
        );
    }

    #[test]
    fn says_why_no_worker_matches() {
        assert_eq!(message(&[("gpu", "1")], &[]), "gpu=1; no worker is connected");
        assert_eq!(
            message(&[("gpu", "1"), ("ISA", "x")], &[&[("ISA", "y")]]),
            "ISA=x, gpu=1; workers offer ISA=y (1 worker); no worker offers gpu"
        );
        assert_eq!(
            message(&[("gpu", "1"), ("ISA", "x")], &[&[("ISA", "x")], &[("gpu", "1")]]),
            "ISA=x, gpu=1; each is offered by some worker, all of them by none"
        );
    }

    #[test]
    fn lists_a_few_values_and_counts_the_others() {
        let names: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
        let offers: Vec<[(&str, &str); 1]> = names.iter().map(|name| [("pool", name.as_str())]).collect();
        let offers: Vec<&[(&str, &str)]> = offers.iter().map(|offer| &offer[..]).collect();
        let message = message(&[("pool", "x")], &offers);
        assert!(message.contains("07 (1 worker) and 12 more values"), "{message}");
        assert!(!message.contains("08"), "{message}");
    }
}
