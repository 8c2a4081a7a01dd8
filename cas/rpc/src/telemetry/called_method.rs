//! Service and method that a request calls.

/// Service and method of a gRPC request: `/{package}.{service}/{method}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CalledMethod {
    pub(super) service: String,
    pub(super) method: String,
}

impl CalledMethod {
    /// Parses a path. The package is left out: services of this server differ in their names already.
    pub(super) fn parse(path: &str) -> Self {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let service = parts.next().unwrap_or_default();
        let service = service.rsplit('.').next().unwrap_or_default();
        Self {
            service: service.to_owned(),
            method: parts.next().unwrap_or_default().to_owned(),
        }
    }

    /// Stand-in for all methods that this server does not have. Clients choose the paths: each would be a time series of
    /// its own otherwise.
    pub(super) fn unknown() -> Self {
        Self {
            service: "unknown".to_owned(),
            method: "unknown".to_owned(),
        }
    }
}
