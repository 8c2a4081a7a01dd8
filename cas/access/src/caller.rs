//! The caller of a request, and what services ask about it.

use std::sync::Arc;

use bitzel_proto::InstanceName;
use http::Extensions;
use metrics::counter;
use tonic::Status;

use crate::identity::Identity;
use crate::permission::{Permission, PermissionSet};
use crate::policy::AccessPolicy;

/// Who is calling, and the rules that apply. [`super::AccessLayer`] puts it into every request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub identity: Arc<Identity>,
    /// The rules.
    pub policy: Arc<AccessPolicy>,
}

/// Whether the caller may make this kind of call on this instance.
///
/// Fails with `UNAUTHENTICATED` when credentials would be needed and there are none, with `PERMISSION_DENIED` when
/// they are not enough; both say which permission on which instance. A request without a [`Caller`] comes from a
/// server that was put together without an [`super::AccessLayer`], as tests do, and is allowed.
pub fn authorize(
    extensions: &Extensions,
    permission: Permission,
    instance: &InstanceName,
) -> Result<(), Status> {
    authorize_any(extensions, &[permission], instance)
}

/// Like [`authorize`], for calls that serve more than one purpose: one of the permissions is enough.
pub fn authorize_any(
    extensions: &Extensions,
    permissions: &[Permission],
    instance: &InstanceName,
) -> Result<(), Status> {
    let Some(caller) = extensions.get::<Caller>() else {
        return Ok(());
    };
    let granted = caller.policy.permissions(&caller.identity, instance);
    if permissions.iter().any(|permission| granted.contains(*permission)) {
        return Ok(());
    }
    Err(caller.refuse(permissions, &format!("instance {:?}", instance.as_str())))
}

/// What the caller may do on an instance; everything where access is not controlled.
pub fn permitted(extensions: &Extensions, instance: &InstanceName) -> PermissionSet {
    extensions
        .get::<Caller>()
        .map_or_else(PermissionSet::all, |caller| {
            caller.policy.permissions(&caller.identity, instance)
        })
}

impl Caller {
    /// The refusal of a call that needs one of `permissions` on `place`: counted, and logged with the identity.
    pub(super) fn refuse(&self, permissions: &[Permission], place: &str) -> Status {
        let names: Vec<&str> = permissions.iter().map(|permission| permission.name()).collect();
        let needed = names.join(" or ");
        counter!("bitzel_access_refusals_total", "reason" => if self.identity.is_anonymous() { "anonymous" } else { "permission" })
            .increment(1);
        tracing::warn!(identity = %self.identity, permission = needed, place, "refused");
        if self.identity.is_anonymous() {
            Status::unauthenticated(format!(
                "this call needs credentials: {needed} on {place} is not for anonymous callers; give a token \
                 (--token-file), a client certificate (--tls-cert) or a password"
            ))
        } else {
            Status::permission_denied(format!(
                "{} may not do this: it has no {needed} permission on {place}; ask who runs the server for a rule \
                 that grants it",
                self.identity
            ))
        }
    }
}
