//! Table of the builds of a server: a state machine without I/O. Times are passed in.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::build::{BuildEnd, BuildId, BuildRequest};
use crate::config::BuildsConfig;
use crate::error::BuildsError;

/// Builds that run, and those that have ended and are known.
pub struct BuildTable {
    config: BuildsConfig,
    builds: BTreeMap<BuildId, TableEntry>,
}

/// A build and its end.
#[derive(Debug, Clone)]
pub struct TableEntry {
    /// The build.
    pub request: BuildRequest,
    /// Its end; `None` while it runs.
    pub end: Option<BuildEnd>,
}

/// Answer to a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// A new build.
    New,
    /// The client has repeated its call.
    Repeated,
}

impl BuildTable {
    /// Creates an empty table.
    pub fn new(config: BuildsConfig) -> Self {
        Self {
            config,
            builds: BTreeMap::new(),
        }
    }

    /// Enters a build, if the bounds allow it.
    pub fn admit(&mut self, id: BuildId, request: BuildRequest) -> Result<Admission, BuildsError> {
        if let Some(known) = self.builds.get(&id) {
            let known = &known.request;
            let is_same = known.owner.identity == request.owner.identity
                && known.instance == request.instance
                && known.plan == request.plan;
            return if is_same {
                Ok(Admission::Repeated)
            } else {
                Err(BuildsError::IdTaken)
            };
        }
        let user = request.owner.user();
        let running = || self.builds.values().filter(|entry| entry.end.is_none());
        if running().count() >= self.config.max_running {
            return Err(BuildsError::TooManyBuilds(self.config.max_running));
        }
        let limit = self.config.max_running_per_user;
        if running()
            .filter(|entry| entry.request.owner.user() == user)
            .count()
            >= limit
        {
            return Err(BuildsError::TooManyBuildsOfUser { user, limit });
        }
        self.restore(id, request, None);
        Ok(Admission::New)
    }

    /// Enters a build of an earlier run of the server.
    pub fn restore(&mut self, id: BuildId, request: BuildRequest, end: Option<BuildEnd>) {
        self.builds.insert(id, TableEntry { request, end });
    }

    /// Removes a build that has not begun.
    pub fn withdraw(&mut self, id: BuildId) {
        self.builds.remove(&id);
    }

    /// Ends a build. Returns the ended builds of its owner that are too many, and no longer known.
    pub fn end(&mut self, id: BuildId, end: BuildEnd) -> Vec<BuildId> {
        let Some(entry) = self.builds.get_mut(&id) else {
            return vec![];
        };
        entry.end = Some(end);
        let user = entry.request.owner.user();
        let ended_at = |entry: &TableEntry| entry.end.as_ref().map(|end| end.at);
        let mut ended: Vec<_> = self
            .builds
            .iter()
            .filter(|(_, entry)| entry.request.owner.user() == user)
            .filter_map(|(id, entry)| Some((ended_at(entry)?, *id)))
            .collect();
        ended.sort();
        let excess = ended.len().saturating_sub(self.config.max_ended_per_user);
        let forgotten: Vec<BuildId> = ended[..excess].iter().map(|(_, id)| *id).collect();
        self.builds.retain(|id, _| !forgotten.contains(id));
        forgotten
    }

    /// Forgets the builds that have ended too long ago, and returns them.
    pub fn expire(&mut self, now: SystemTime) -> Vec<BuildId> {
        let retention = self.config.ended_retention;
        let expired = |entry: &TableEntry| {
            let age = entry.end.as_ref().map(|end| now.duration_since(end.at));
            // A clock that was set back makes ends of the future.
            age.is_some_and(|age| age.is_ok_and(|age| age >= retention))
        };
        let forgotten: Vec<BuildId> = self
            .builds
            .iter()
            .filter(|(_, entry)| expired(entry))
            .map(|(id, _)| *id)
            .collect();
        self.builds.retain(|id, _| !forgotten.contains(id));
        forgotten
    }

    /// A build.
    pub fn get(&self, id: BuildId) -> Option<&TableEntry> {
        self.builds.get(&id)
    }

    /// All builds, the newest first.
    pub fn newest_first(&self) -> Vec<(BuildId, &TableEntry)> {
        let mut builds: Vec<_> = self.builds.iter().map(|(id, entry)| (*id, entry)).collect();
        builds.sort_by_key(|(id, entry)| (std::cmp::Reverse(entry.request.started), *id));
        builds
    }

    /// Finds the only build among the visible ones whose identifier begins with `prefix`.
    pub fn find(
        &self,
        prefix: &str,
        visible: impl Fn(&BuildRequest) -> bool,
    ) -> Result<BuildId, BuildsError> {
        let shown = || prefix.chars().take(64).collect::<String>();
        let mut found = self.builds.iter().filter(|(id, entry)| {
            !prefix.is_empty() && id.to_string().starts_with(prefix) && visible(&entry.request)
        });
        match (found.next(), found.next()) {
            (Some((id, _)), None) => Ok(*id),
            (None, _) => Err(BuildsError::NotFound(shown())),
            (Some(_), Some(_)) => Err(BuildsError::Ambiguous(shown())),
        }
    }
}

#[cfg(test)]
mod tests;
