//! Row of a build in the journal: a protobuf message, so that fields can be added.

use std::time::{Duration, SystemTime};

use bitzel_access::{AuthenticationMethod, Identity, PermissionSet};
use bitzel_graph::plan::tree::DIGEST_FUNCTION;
use bitzel_proto::builds::BuildEvent;
use bitzel_proto::{Digest, InstanceName, timestamp};
use prost::Message;

use crate::build::{BuildEnd, BuildRequest, Ending, Owner};
use crate::event_log::TaskCounts;
use crate::event_messages::{event_of_message, message_of_event};

#[derive(Clone, PartialEq, Message)]
struct BuildRow {
    #[prost(string, tag = "1")]
    instance: String,
    #[prost(string, tag = "2")]
    owner: String,
    #[prost(enumeration = "Method", tag = "3")]
    method: i32,
    /// Names of permissions.
    #[prost(string, repeated, tag = "4")]
    permissions: Vec<String>,
    #[prost(message, optional, tag = "5")]
    plan: Option<bitzel_proto::reapi::Digest>,
    #[prost(string, repeated, tag = "6")]
    targets: Vec<String>,
    #[prost(int64, tag = "7")]
    started_unix_nanos: i64,
    #[prost(message, optional, tag = "8")]
    end: Option<EndRow>,
}

#[derive(Clone, PartialEq, Message)]
struct EndRow {
    #[prost(enumeration = "EndingRow", tag = "1")]
    ending: i32,
    #[prost(int64, tag = "2")]
    unix_nanos: i64,
    #[prost(string, optional, tag = "3")]
    error: Option<String>,
    #[prost(message, optional, tag = "4")]
    results: Option<bitzel_proto::reapi::Digest>,
    #[prost(message, optional, tag = "5")]
    counts: Option<bitzel_proto::builds::TaskCounts>,
    #[prost(message, repeated, tag = "6")]
    events: Vec<BuildEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Method {
    Anonymous = 0,
    Token = 1,
    Password = 2,
    Certificate = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum EndingRow {
    Failed = 0,
    Succeeded = 1,
    Cancelled = 2,
}

/// Encodes a build.
pub(crate) fn encode(request: &BuildRequest, end: Option<&BuildEnd>) -> Vec<u8> {
    let owner = &request.owner;
    let permissions = bitzel_access::Permission::ALL.into_iter();
    let granted = permissions.filter(|permission| owner.permissions.contains(*permission));
    let row = BuildRow {
        instance: request.instance.to_string(),
        owner: owner.identity.name.clone(),
        method: Method::from(owner.identity.method).into(),
        permissions: granted.map(|permission| permission.name().to_owned()).collect(),
        plan: Some(request.plan.to_wire()),
        targets: request.targets.clone(),
        started_unix_nanos: timestamp::unix_nanos(request.started),
        end: end.map(encode_end),
    };
    row.encode_to_vec()
}

/// Decodes a build. `None` if the row is not valid.
pub(crate) fn decode(row: &[u8]) -> Option<(BuildRequest, Option<BuildEnd>)> {
    let row = BuildRow::decode(row).ok()?;
    let method = row.method();
    let permissions = row
        .permissions
        .iter()
        .filter_map(|name| PermissionSet::parse(name));
    let request = BuildRequest {
        instance: InstanceName::new(row.instance).ok()?,
        owner: Owner {
            identity: Identity {
                name: row.owner,
                groups: vec![],
                method: method.into(),
            },
            permissions: permissions.fold(PermissionSet::EMPTY, PermissionSet::union),
        },
        plan: digest(row.plan.as_ref())?,
        targets: row.targets,
        started: time(row.started_unix_nanos),
    };
    Some((request, row.end.map(decode_end)))
}

fn encode_end(end: &BuildEnd) -> EndRow {
    let events = (1..).zip(&end.events);
    EndRow {
        ending: match end.ending {
            Ending::Succeeded => EndingRow::Succeeded,
            Ending::Failed => EndingRow::Failed,
            Ending::Cancelled => EndingRow::Cancelled,
        }
        .into(),
        unix_nanos: timestamp::unix_nanos(end.at),
        error: end.error.clone(),
        results: end.results.map(|digest| digest.to_wire()),
        counts: Some(end.counts.into()),
        events: events
            .filter_map(|(sequence, event)| message_of_event(sequence, event))
            .collect(),
    }
}

fn decode_end(row: EndRow) -> BuildEnd {
    BuildEnd {
        ending: match row.ending() {
            EndingRow::Succeeded => Ending::Succeeded,
            EndingRow::Failed => Ending::Failed,
            EndingRow::Cancelled => Ending::Cancelled,
        },
        at: time(row.unix_nanos),
        error: row.error,
        results: digest(row.results.as_ref()),
        counts: row.counts.unwrap_or_default().into(),
        events: row.events.into_iter().filter_map(event_of_message).collect(),
    }
}

fn digest(wire: Option<&bitzel_proto::reapi::Digest>) -> Option<Digest> {
    Digest::from_wire(DIGEST_FUNCTION, wire?).ok()
}

fn time(unix_nanos: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(unix_nanos).unwrap_or_default())
}

impl From<AuthenticationMethod> for Method {
    fn from(method: AuthenticationMethod) -> Self {
        match method {
            AuthenticationMethod::Anonymous => Self::Anonymous,
            AuthenticationMethod::Token => Self::Token,
            AuthenticationMethod::Password => Self::Password,
            AuthenticationMethod::Certificate => Self::Certificate,
        }
    }
}

impl From<Method> for AuthenticationMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::Anonymous => Self::Anonymous,
            Method::Token => Self::Token,
            Method::Password => Self::Password,
            Method::Certificate => Self::Certificate,
        }
    }
}

impl From<TaskCounts> for bitzel_proto::builds::TaskCounts {
    fn from(counts: TaskCounts) -> Self {
        Self {
            ran: counts.ran,
            hits: counts.hits,
            cut_offs: counts.cut_offs,
            noexec: counts.noexec,
            failed: counts.failed,
        }
    }
}

impl From<bitzel_proto::builds::TaskCounts> for TaskCounts {
    fn from(counts: bitzel_proto::builds::TaskCounts) -> Self {
        Self {
            ran: counts.ran,
            hits: counts.hits,
            cut_offs: counts.cut_offs,
            noexec: counts.noexec,
            failed: counts.failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use bitzel_access::Permission;
    use bitzel_graph::walk;

    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let request = BuildRequest {
            instance: InstanceName::new("team/one").unwrap(),
            owner: Owner {
                identity: Identity {
                    name: "alice".to_owned(),
                    groups: vec![],
                    method: AuthenticationMethod::Certificate,
                },
                permissions: [Permission::Execute, Permission::ActionCacheWrite]
                    .into_iter()
                    .collect(),
            },
            plan: DIGEST_FUNCTION.digest(b"plan"),
            targets: vec!["zlib".to_owned()],
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
        };
        let end = BuildEnd {
            ending: Ending::Failed,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
            error: Some("error".to_owned()),
            results: Some(DIGEST_FUNCTION.digest(b"results")),
            counts: TaskCounts {
                ran: 3,
                failed: 1,
                ..TaskCounts::default()
            },
            events: vec![walk::BuildEvent::Summary(walk::Summary::default())],
        };
        assert_eq!(decode(&encode(&request, None)), Some((request.clone(), None)));
        let row = encode(&request, Some(&end));
        assert_eq!(decode(&row), Some((request, Some(end))));
        assert_eq!(decode(b"\xff"), None);
    }
}
