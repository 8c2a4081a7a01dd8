//! Rules: permissions of callers on instances.

use bitzel_proto::InstanceName;

use crate::identity::{AuthenticationMethod, Identity};
use crate::pattern::Pattern;
use crate::permission::{Permission, PermissionSet};

/// Grant of permissions to callers on instances.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Names of callers; `*` is every authenticated caller. Anonymous callers never match.
    pub identities: Vec<Pattern>,
    /// Groups of callers, as an alternative to names.
    pub groups: Vec<Pattern>,
    /// Authentication methods that the rule is for; empty for all.
    pub methods: Vec<AuthenticationMethod>,
    /// Instance names; `*` is all.
    pub instances: Vec<Pattern>,
    /// Permissions that the rule grants.
    pub allow: PermissionSet,
}

impl Rule {
    fn matches_caller(&self, identity: &Identity) -> bool {
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

    fn matches_instance(&self, instance: &InstanceName) -> bool {
        let instance = instance.as_str();
        self.instances.iter().any(|pattern| pattern.matches(instance))
    }
}

/// All rules of a server. What no rule allows is refused. No rule forbids anything, so their order has no meaning, and a
/// new rule never takes a permission away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessPolicy {
    /// Rules for authenticated callers.
    pub rules: Vec<Rule>,
    /// Permissions of everybody, on all instances.
    pub anonymous: PermissionSet,
}

impl AccessPolicy {
    /// Allows everything to everybody: for sockets that only trusted programs can reach.
    pub fn open() -> Self {
        Self {
            rules: Vec::new(),
            anonymous: PermissionSet::all(),
        }
    }

    /// True if everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.anonymous == PermissionSet::all()
    }

    /// The permissions of `identity` on `instance`.
    pub fn permissions(&self, identity: &Identity, instance: &InstanceName) -> PermissionSet {
        let rules = self
            .rules
            .iter()
            .filter(|rule| rule.matches_instance(instance) && rule.matches_caller(identity));
        rules.fold(self.anonymous, |granted, rule| granted.union(rule.allow))
    }

    /// True if `identity` has `permission` on `instance`.
    pub fn allows(&self, identity: &Identity, permission: Permission, instance: &InstanceName) -> bool {
        self.permissions(identity, instance).contains(permission)
    }

    /// The permissions of `identity` on at least one instance: an upper bound for when the instance is not known yet.
    pub fn permissions_anywhere(&self, identity: &Identity) -> PermissionSet {
        let rules = self.rules.iter().filter(|rule| rule.matches_caller(identity));
        rules.fold(self.anonymous, |granted, rule| granted.union(rule.allow))
    }
}
