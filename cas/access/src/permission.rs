//! Kinds of calls.

use std::fmt;

/// A kind of call that somebody may or may not make on an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Read blobs.
    CasRead,
    /// Write blobs.
    CasWrite,
    /// Look results up.
    ActionCacheRead,
    /// Claim results: whoever may, decides what everybody else builds with.
    ActionCacheWrite,
    /// Have Actions executed.
    Execute,
    /// Take Actions from the queue and hand their results over.
    Worker,
    /// What operators do.
    Admin,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CasRead,
        Self::CasWrite,
        Self::ActionCacheRead,
        Self::ActionCacheWrite,
        Self::Execute,
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
            Self::Worker => "worker",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Some permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermissionSet(u8);

impl PermissionSet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// All.
    pub fn all() -> Self {
        Permission::ALL.into_iter().collect()
    }

    /// What reading takes: blobs and results.
    pub fn read() -> Self {
        [Permission::CasRead, Permission::ActionCacheRead]
            .into_iter()
            .collect()
    }

    /// Whether `permission` is among them.
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What a word of the configuration stands for: a permission, `read` (cas-read and ac-read) or `all`.
    pub fn of_word(word: &str) -> Option<Self> {
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
