//! Which callers may make which kinds of calls on which instances.

use bitzel_proto::InstanceName;

use crate::identity::{AuthenticationMethod, Identity};
use crate::pattern::Pattern;
use crate::permission::{Permission, PermissionSet};

/// Callers × instances × permissions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Names of callers; `*` is everybody who has authenticated. Never matches anonymous callers.
    pub identities: Vec<Pattern>,
    /// Groups of callers, as an alternative to names.
    pub groups: Vec<Pattern>,
    /// Only callers that authenticated like this; empty for any way.
    pub methods: Vec<AuthenticationMethod>,
    /// Instances; `*` is all.
    pub instances: Vec<Pattern>,
    /// What is allowed.
    pub allow: PermissionSet,
}

impl Rule {
    fn is_about(&self, identity: &Identity) -> bool {
        if identity.is_anonymous() {
            return false;
        }
        let named = self
            .identities
            .iter()
            .any(|pattern| pattern.matches(&identity.name));
        let grouped = || {
            let mut groups = identity.groups.iter();
            groups.any(|group| self.groups.iter().any(|pattern| pattern.matches(group)))
        };
        let method = self.methods.is_empty() || self.methods.contains(&identity.method);
        method && (named || grouped())
    }

    fn covers(&self, instance: &InstanceName) -> bool {
        let instance = instance.as_str();
        self.instances.iter().any(|pattern| pattern.matches(instance))
    }
}

/// All rules together. What no rule allows is refused; there are no rules that forbid, so their order means nothing
/// and adding one never takes anything away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessPolicy {
    /// For callers that have authenticated.
    pub rules: Vec<Rule>,
    /// For everybody, on all instances.
    pub anonymous: PermissionSet,
}

impl AccessPolicy {
    /// Everybody may do everything: for sockets that only trusted programs can reach.
    pub fn open() -> Self {
        Self {
            rules: Vec::new(),
            anonymous: PermissionSet::all(),
        }
    }

    /// What `identity` may do on `instance`.
    pub fn permissions(&self, identity: &Identity, instance: &InstanceName) -> PermissionSet {
        let rules = self
            .rules
            .iter()
            .filter(|rule| rule.covers(instance) && rule.is_about(identity));
        rules.fold(self.anonymous, |granted, rule| granted.union(rule.allow))
    }

    /// Whether `identity` may do this on `instance`.
    pub fn allows(&self, identity: &Identity, permission: Permission, instance: &InstanceName) -> bool {
        self.permissions(identity, instance).contains(permission)
    }

    /// What `identity` may do on at least one instance: an upper bound, for when the instance is not known yet.
    pub fn permissions_anywhere(&self, identity: &Identity) -> PermissionSet {
        let rules = self.rules.iter().filter(|rule| rule.is_about(identity));
        rules.fold(self.anonymous, |granted, rule| granted.union(rule.allow))
    }
}
