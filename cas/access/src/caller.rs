//! Caller of a request, and the authorisation of its calls.

use std::sync::Arc;

use bitzel_proto::InstanceName;
use http::Extensions;
use metrics::counter;
use tonic::Status;

use crate::identity::Identity;
use crate::permission::{Permission, PermissionSet};
use crate::policy::AccessPolicy;

/// Identity of the caller and the rules that apply. [`super::AccessLayer`] puts it into every request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The identity.
    pub identity: Arc<Identity>,
    /// The rules that apply.
    pub policy: Arc<AccessPolicy>,
}

/// Checks that the caller has a permission on an instance.
///
/// Fails with `UNAUTHENTICATED` if credentials are needed and there are none, with `PERMISSION_DENIED` if they are not
/// sufficient; both name the permission and the instance. A request without a [`Caller`] comes from a server without an
/// [`super::AccessLayer`], as in tests, and is allowed.
pub fn authorize(
    extensions: &Extensions,
    permission: Permission,
    instance: &InstanceName,
) -> Result<(), Status> {
    authorize_any(extensions, &[permission], instance)
}

/// Checks that the caller has one of several permissions, for calls that serve more than one purpose.
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

/// The permissions of the caller on an instance: all of them on a server without access control.
pub fn permitted(extensions: &Extensions, instance: &InstanceName) -> PermissionSet {
    extensions
        .get::<Caller>()
        .map_or_else(PermissionSet::all, |caller| {
            caller.policy.permissions(&caller.identity, instance)
        })
}

impl Caller {
    /// Refusal of a call that needs one of `permissions` on `place`. It is counted, and logged with the identity.
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
