//! Service and method that a request calls.

use bitzel_proto::message_memory::MethodRequests;

/// Methods of servers whose protocols `bitzel_proto` does not describe.
const OTHER_METHODS: [&str; 4] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Service and method of a gRPC request: `/{package}.{service}/{method}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CalledMethod {
    pub(super) service: String,
    pub(super) method: String,
}

impl CalledMethod {
    /// Parses a path. The package is left out: services of this server differ in their names already.
    ///
    /// Clients choose the paths, also those without credentials, and each name is a time series that stays in memory.
    /// So a method that no protocol describes is [`unknown`](Self::unknown), however its call ends.
    pub(super) fn parse(path: &str) -> Self {
        if MethodRequests::of(path).is_none() && !OTHER_METHODS.contains(&path) {
            return Self::unknown();
        }
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let service = parts.next().unwrap_or_default();
        let service = service.rsplit('.').next().unwrap_or_default();
        Self {
            service: service.to_owned(),
            method: parts.next().unwrap_or_default().to_owned(),
        }
    }

    /// Stand-in for all methods that are in no protocol.
    pub(super) fn unknown() -> Self {
        Self {
            service: "unknown".to_owned(),
            method: "unknown".to_owned(),
        }
    }
}
