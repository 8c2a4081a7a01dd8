//! Platform properties that Actions require and workers offer.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bitzel_access::Permission;
use bitzel_proto::platform_property::{IMAGE_ROOT_IDENTITY, ROOT_IDENTITY, ROOT_IMAGE};
use bitzel_proto::reapi::Platform;
use bitzel_proto::reapi::platform::Property;

use crate::error::ExecutionError;

mod unmet_requirements;

pub use unmet_requirements::UnmetRequirements;

/// Properties that select the way in which a worker runs the Action, not the worker: every bitzel worker supports them, so
/// none has to offer them.
const INTERPRETED_BY_WORKER: [&str; 4] = ["network", ROOT_IMAGE, "undeclared-writes", "user-namespaces"];

/// Properties that give the command of an Action more power over the worker's machine when they are `on`, each with the
/// permission that the client needs.
const POWERFUL: [(&str, Permission); 2] = [
    ("network", Permission::Network),
    ("user-namespaces", Permission::UserNamespaces),
];

/// Maximum number of platform properties of an Action. The queue compares them at every decision.
pub(super) const MAX_PLATFORM_PROPERTIES: usize = 64;
/// Maximum length of all names and values of an Action's platform properties. Each waiting Action holds them.
pub(super) const MAX_PLATFORM_BYTES: usize = 16 << 10;

/// Refuses a platform with more or longer properties than the queue can hold for each Action.
pub(super) fn check_platform(platform: &Platform) -> Result<(), ExecutionError> {
    let count = platform.properties.len();
    let lengths = platform.properties.iter();
    let bytes = lengths
        .map(|property| property.name.len() + property.value.len())
        .sum();
    if count <= MAX_PLATFORM_PROPERTIES && bytes <= MAX_PLATFORM_BYTES {
        return Ok(());
    }
    Err(ExecutionError::PlatformTooLarge { count, bytes })
}

/// Permissions that a client needs for Actions with this platform, beside that to execute.
pub(super) fn needed_permissions(platform: &Platform) -> Vec<Permission> {
    let is_on = |name: &str| {
        let mut properties = platform.properties.iter();
        properties.any(|property| property.name == name && property.value == "on")
    };
    let needed = POWERFUL.into_iter().filter(|(name, _)| is_on(name));
    needed.map(|(_, permission)| permission).collect()
}

/// Platform properties that an Action requires, sorted, each once. Cheap to clone: Actions with the same requirements wait
/// in the same queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RequiredProperties(Arc<[(String, String)]>);

impl RequiredProperties {
    /// Selects the properties of `platform` that a worker must offer. For an Action with an image root, it must offer image
    /// roots, also if the client did not ask for that: an older worker would run the Action in its own root.
    pub fn new(platform: &Platform) -> Self {
        let mut properties: Vec<_> = platform
            .properties
            .iter()
            .filter(|property| !INTERPRETED_BY_WORKER.contains(&property.name.as_str()))
            .map(|property| (property.name.clone(), property.value.clone()))
            .collect();
        if platform
            .properties
            .iter()
            .any(|property| property.name == ROOT_IMAGE)
        {
            properties.push((ROOT_IDENTITY.to_owned(), IMAGE_ROOT_IDENTITY.to_owned()));
        }
        properties.sort_unstable();
        properties.dedup();
        Self(properties.into())
    }

    /// The properties on the wire.
    pub fn to_platform(&self) -> Platform {
        let properties = self.0.iter().map(|(name, value)| Property {
            name: name.clone(),
            value: value.clone(),
        });
        Platform {
            properties: properties.collect(),
        }
    }

    /// The properties as names and values.
    pub(crate) fn properties(&self) -> &[(String, String)] {
        &self.0
    }
}

impl fmt::Display for RequiredProperties {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("no platform properties");
        }
        for (index, (name, value)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(formatter, "{separator}{name}={value}")?;
        }
        Ok(())
    }
}

/// Platform properties that a worker offers. A name may have several values, and the worker satisfies each of them.
#[derive(Debug, Clone, Default)]
pub struct OfferedProperties(HashSet<(String, String)>);

impl OfferedProperties {
    /// Reads the properties of a worker's `platform`.
    pub fn new(platform: &Platform) -> Self {
        let properties = platform.properties.iter();
        Self(
            properties
                .map(|property| (property.name.clone(), property.value.clone()))
                .collect(),
        )
    }

    /// True if all required properties are offered.
    pub fn satisfy(&self, requirements: &RequiredProperties) -> bool {
        requirements.0.iter().all(|property| self.0.contains(property))
    }

    /// Values that are offered for a name.
    fn values<'offered>(&'offered self, name: &str) -> impl Iterator<Item = &'offered str> {
        let values = self.0.iter().filter(move |(offered, _)| offered == name);
        values.map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_worker_must_offer_every_property_with_its_value() {
        let offered = OfferedProperties::new(&platform(&[
            ("OSFamily", "linux"),
            ("ISA", "x86-64"),
            ("ISA", "x86-64-v3"),
        ]));
        let satisfies =
            |properties: &[(&str, &str)]| offered.satisfy(&RequiredProperties::new(&platform(properties)));
        assert!(satisfies(&[]));
        assert!(satisfies(&[("ISA", "x86-64"), ("OSFamily", "linux")]));
        assert!(satisfies(&[("ISA", "x86-64-v3"), ("ISA", "x86-64")]));
        assert!(!satisfies(&[("ISA", "aarch64"), ("OSFamily", "linux")]));
        assert!(!satisfies(&[("gpu", "1")]));
    }

    #[test]
    fn only_clients_that_ask_for_a_root_get_one_root() {
        let offered = OfferedProperties::new(&platform(&[
            ("OSFamily", "linux"),
            ("root-identity", "debian-12-aa"),
        ]));
        let satisfies =
            |properties: &[(&str, &str)]| offered.satisfy(&RequiredProperties::new(&platform(properties)));
        // Bazel and others send no such property.
        assert!(satisfies(&[("OSFamily", "linux")]));
        assert!(satisfies(&[
            ("OSFamily", "linux"),
            ("root-identity", "debian-12-aa")
        ]));
        assert!(!satisfies(&[
            ("OSFamily", "linux"),
            ("root-identity", "debian-13-bb")
        ]));
    }

    #[test]
    fn properties_that_the_worker_interprets_are_not_required() {
        let requirements = RequiredProperties::new(&platform(&[
            ("network", "on"),
            ("undeclared-writes", "error"),
            ("user-namespaces", "on"),
            ("OSFamily", "linux"),
        ]));
        assert_eq!(
            requirements,
            RequiredProperties::new(&platform(&[("OSFamily", "linux")]))
        );
        assert_eq!(requirements.to_string(), "OSFamily=linux");
    }

    #[test]
    fn only_workers_that_know_image_roots_get_them() {
        // As Bazel sends it.
        let alone = RequiredProperties::new(&platform(&[("root-image", "00/1")]));
        let both = platform(&[("root-identity", "image"), ("root-image", "00/1")]);
        assert_eq!(alone, RequiredProperties::new(&both));
        assert_eq!(alone.to_string(), "root-identity=image");
        let old = OfferedProperties::new(&platform(&[("root-identity", "debian-12-aa")]));
        let new = OfferedProperties::new(&platform(&[
            ("root-identity", "debian-12-aa"),
            ("root-identity", "image"),
        ]));
        assert!(!old.satisfy(&alone));
        assert!(new.satisfy(&alone));
    }
}
