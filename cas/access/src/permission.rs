//! Permissions of callers.

use std::fmt;

/// Permission to make one kind of call on an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Read blobs.
    CasRead,
    /// Write blobs.
    CasWrite,
    /// Look up results.
    ActionCacheRead,
    /// Write results: who may do that decides what everybody else builds with.
    ActionCacheWrite,
    /// Execute Actions.
    Execute,
    /// Execute Actions with the network of the worker's machine (`network=on`).
    Network,
    /// Execute Actions that may create user namespaces (`user-namespaces=on`).
    UserNamespaces,
    /// Execute Actions before those of others.
    Priority,
    /// Take Actions from the queue and report their results.
    Worker,
    /// Call the methods of operators.
    Admin,
}

impl Permission {
    /// All permissions.
    pub const ALL: [Self; 10] = [
        Self::CasRead,
        Self::CasWrite,
        Self::ActionCacheRead,
        Self::ActionCacheWrite,
        Self::Execute,
        Self::Network,
        Self::UserNamespaces,
        Self::Priority,
        Self::Worker,
        Self::Admin,
    ];

    /// The name in configuration and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::CasRead => "cas-read",
            Self::CasWrite => "cas-write",
            Self::ActionCacheRead => "ac-read",
            Self::ActionCacheWrite => "ac-write",
            Self::Execute => "execute",
            Self::Network => "network",
            Self::UserNamespaces => "user-namespaces",
            Self::Priority => "priority",
            Self::Worker => "worker",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermissionSet(u16);

impl PermissionSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// All permissions.
    pub fn all() -> Self {
        Permission::ALL.into_iter().collect()
    }

    /// Permissions to read blobs and results.
    pub fn read() -> Self {
        [Permission::CasRead, Permission::ActionCacheRead]
            .into_iter()
            .collect()
    }

    /// True if `permission` is in the set.
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// True if the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Permissions that are in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Parses a word of the configuration: a permission, `read` (cas-read and ac-read) or `all`.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "read" => Some(Self::read()),
            "all" => Some(Self::all()),
            _ => Permission::ALL
                .into_iter()
                .find(|permission| permission.name() == word)
                .map(Self::from),
        }
    }
}

impl From<Permission> for PermissionSet {
    fn from(permission: Permission) -> Self {
        Self(permission.bit())
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        permissions
            .into_iter()
            .fold(Self::EMPTY, |set, permission| set.union(permission.into()))
    }
}
