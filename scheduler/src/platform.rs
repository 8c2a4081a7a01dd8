//! Which worker may run which Action.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bitzel_proto::reapi::Platform;

/// Properties that tell the worker how to run the Action rather than which worker may run it: every bitzel worker
/// understands them, so none has to offer them.
const INTERPRETED_BY_WORKER: [&str; 3] = ["network", "undeclared-writes", "user-namespaces"];

/// The platform properties that an Action asks for, sorted, each once. Cheap to clone: Actions that ask for the
/// same wait in the same line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Requirements(Arc<[(String, String)]>);

impl Requirements {
    /// What `platform` asks of the worker.
    pub fn new(platform: &Platform) -> Self {
        let mut properties: Vec<_> = platform
            .properties
            .iter()
            .filter(|property| !INTERPRETED_BY_WORKER.contains(&property.name.as_str()))
            .map(|property| (property.name.clone(), property.value.clone()))
            .collect();
        properties.sort_unstable();
        properties.dedup();
        Self(properties.into())
    }
}

impl fmt::Display for Requirements {
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

/// What a worker offers. A name may have several values: the worker satisfies each of them.
#[derive(Debug, Clone, Default)]
pub struct Offer(HashSet<(String, String)>);

impl Offer {
    /// What a worker with this `platform` offers.
    pub fn new(platform: &Platform) -> Self {
        let properties = platform.properties.iter();
        Self(
            properties
                .map(|property| (property.name.clone(), property.value.clone()))
                .collect(),
        )
    }

    /// Whether everything that the Action asks for is offered.
    pub fn meets(&self, requirements: &Requirements) -> bool {
        requirements.0.iter().all(|property| self.0.contains(property))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitzel_proto::reapi::platform::Property;

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
        let offer = Offer::new(&platform(&[
            ("OSFamily", "linux"),
            ("ISA", "x86-64"),
            ("ISA", "x86-64-v3"),
        ]));
        let meets = |properties: &[(&str, &str)]| offer.meets(&Requirements::new(&platform(properties)));
        assert!(meets(&[]));
        assert!(meets(&[("ISA", "x86-64"), ("OSFamily", "linux")]));
        assert!(meets(&[("ISA", "x86-64-v3"), ("ISA", "x86-64")]));
        assert!(!meets(&[("ISA", "aarch64"), ("OSFamily", "linux")]));
        assert!(!meets(&[("gpu", "1")]));
    }

    #[test]
    fn what_the_worker_interprets_is_not_matched() {
        let requirements = Requirements::new(&platform(&[
            ("network", "on"),
            ("undeclared-writes", "error"),
            ("user-namespaces", "on"),
            ("OSFamily", "linux"),
        ]));
        assert_eq!(
            requirements,
            Requirements::new(&platform(&[("OSFamily", "linux")]))
        );
        assert_eq!(requirements.to_string(), "OSFamily=linux");
    }
}
