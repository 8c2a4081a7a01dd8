//! Mapping of platform properties that clients send by convention.

use std::collections::BTreeMap;

use bitzel_proto::InstanceName;
use bitzel_proto::reapi::Platform;
use bitzel_proto::reapi::platform::Property;
use schemars::JsonSchema;
use serde::Deserialize;

/// Value that stands for any.
const ANY: &str = "*";

/// Rule that replaces platform properties of Actions. All rules that apply do so, in their order.
///
/// An Action with other properties is another Action: it has a digest of its own, under which its result is cached. So a
/// changed rule never answers with results of the old one. A client that looks into the action cache itself finds nothing
/// there, and gets the cached result from `Execute`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlatformMapping {
    /// Instances whose Actions are mapped. Those of all instances if there is none.
    #[schemars(extend("examples" = [["buildstream"]]))]
    pub instances: Vec<String>,
    /// Properties that an Action must have, with `*` for any value. They are removed. Without any, the rule applies to all
    /// Actions.
    #[schemars(extend("examples" = [{"container-image": "docker://debian:12"}]))]
    pub from: BTreeMap<String, String>,
    /// Properties that the Action gets, in place of those with the same name.
    #[schemars(extend("examples" = [{"root-image": "input-root"}]))]
    pub to: BTreeMap<String, String>,
}

impl PlatformMapping {
    /// True if the Actions of an instance may be mapped.
    pub(crate) fn is_for(&self, instance: &InstanceName) -> bool {
        self.instances.is_empty() || self.instances.iter().any(|name| name == instance.as_str())
    }

    /// Replaces properties. False if the rule does not apply.
    pub(crate) fn apply(&self, platform: &mut Platform) -> bool {
        let has = |(name, value): (&String, &String)| {
            let mut properties = platform.properties.iter();
            properties.any(|property| property.name == *name && (value == ANY || property.value == *value))
        };
        if !self.from.iter().all(has) {
            return false;
        }
        platform.properties.retain(|property| {
            !self.from.contains_key(&property.name) && !self.to.contains_key(&property.name)
        });
        let added = self.to.iter().map(|(name, value)| Property {
            name: name.clone(),
            value: value.clone(),
        });
        platform.properties.extend(added);
        // As the specification requires.
        platform
            .properties
            .sort_by(|one, other| (&one.name, &one.value).cmp(&(&other.name, &other.value)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(rule: &str, properties: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        let rule: PlatformMapping = toml::from_str(rule).unwrap();
        let property = |&(name, value): &(&str, &str)| Property {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let mut platform = Platform {
            properties: properties.iter().map(property).collect(),
        };
        let applied = rule.apply(&mut platform);
        let properties = platform.properties.into_iter();
        applied.then(|| {
            properties
                .map(|property| (property.name, property.value))
                .collect()
        })
    }

    fn pairs(properties: &[(&str, &str)]) -> Vec<(String, String)> {
        let pair = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        properties.iter().map(pair).collect()
    }

    #[test]
    fn replaces_what_it_names() {
        let rule = "from = { container-image = \"docker://debian:12\", Pool = \"*\" }\n\
                    to = { root-image = \"aa/1\", network = \"off\" }";
        let properties = [
            ("container-image", "docker://debian:12"),
            ("OSFamily", "linux"),
            ("network", "on"),
            ("Pool", "large"),
        ];
        let expected = pairs(&[("OSFamily", "linux"), ("network", "off"), ("root-image", "aa/1")]);
        assert_eq!(mapped(rule, &properties), Some(expected));
        for others in [
            &properties[..3],
            &[("container-image", "docker://debian:13"), ("Pool", "x")],
        ] {
            assert_eq!(mapped(rule, others), None);
        }
    }

    #[test]
    fn a_rule_without_conditions_applies_to_all() {
        let expected = pairs(&[("OSFamily", "linux"), ("root-image", "input-root")]);
        assert_eq!(
            mapped("to = { root-image = \"input-root\" }", &[("OSFamily", "linux")]),
            Some(expected)
        );
    }

    #[test]
    fn a_rule_may_be_for_some_instances() {
        let all = PlatformMapping::default();
        let some = PlatformMapping {
            instances: vec!["a".to_owned(), String::new()],
            ..PlatformMapping::default()
        };
        let instance = |name| InstanceName::new(name).unwrap();
        assert!(all.is_for(&instance("b")));
        assert!(some.is_for(&instance("a")) && some.is_for(&instance("")));
        assert!(!some.is_for(&instance("b")) && !some.is_for(&instance("a/b")));
    }
}
