//! Identities of callers whose calls another server forwards.
//!
//! The server that a caller reaches checks the credentials. It forwards the call with the name of the caller, and a proof:
//! a keyed hash (HMAC) of it, whose key only the servers can read in PostgreSQL. The proof is valid for one epoch of one
//! leader. So forwarded calls have the permissions and the share of their caller, whatever the kind of credentials, and no
//! password or token goes further than to the server that it was given to.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bitzel_access::{AuthenticationMethod, Authenticator, Credentials, Identity, Refusal};
use ring::hmac;
use serde::{Deserialize, Serialize};
use tonic::Status;

/// Start of a proof, which no JSON Web Token has.
const PREFIX: &str = "bitzel-forwarded.";

/// Maker and checker of the proofs.
#[derive(Debug, Default)]
pub struct ForwardedIdentities {
    key: OnceLock<hmac::Key>,
    /// Last epoch in which this server led.
    own_epoch: AtomicI64,
}

/// Content of a proof.
#[derive(Serialize, Deserialize)]
struct Claim {
    name: String,
    groups: Vec<String>,
    method: Method,
    /// Fencing number of the leader that the call is forwarded to.
    epoch: i64,
}

#[derive(Serialize, Deserialize)]
enum Method {
    Anonymous,
    Token,
    Password,
    Certificate,
}

impl ForwardedIdentities {
    /// Takes the key of the servers. The first one counts.
    pub(super) fn set_key(&self, key: &[u8]) {
        self.key.get_or_init(|| hmac::Key::new(hmac::HMAC_SHA256, key));
    }

    pub(super) fn set_own_epoch(&self, epoch: i64) {
        self.own_epoch.store(epoch, Ordering::Release);
    }

    /// Value of the header `authorization` for a call in the name of this caller. `None` before the first connection to PostgreSQL.
    pub(super) fn authorization(&self, identity: &Identity, epoch: i64) -> Option<String> {
        let method = match identity.method {
            // Without a proof it would be a call of this server, if that has a certificate.
            AuthenticationMethod::Anonymous => Method::Anonymous,
            AuthenticationMethod::Token => Method::Token,
            AuthenticationMethod::Password => Method::Password,
            AuthenticationMethod::Certificate => Method::Certificate,
        };
        let claim = Claim {
            name: identity.name.clone(),
            groups: identity.groups.clone(),
            method,
            epoch,
        };
        let claim = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claim).ok()?);
        let proof = hmac::sign(self.key.get()?, claim.as_bytes());
        let proof = BASE64_URL_SAFE_NO_PAD.encode(proof);
        Some(format!("Bearer {PREFIX}{claim}.{proof}"))
    }

    /// Checks that a server of the group has made this proof for the present epoch of this one.
    pub(super) fn check_server(&self, proof: Option<&str>) -> Result<(), Status> {
        let proof = proof.and_then(|proof| proof.strip_prefix("Bearer ")?.strip_prefix(PREFIX));
        let Some(proof) = proof else {
            return Err(Status::permission_denied(
                "only the other schedulers of the group may ask this here; KEDA asks on the admin port",
            ));
        };
        match self.check(proof) {
            Ok(_) => Ok(()),
            Err(Refusal::Unavailable(reason)) => Err(Status::unavailable(reason)),
            Err(Refusal::Invalid(reason)) => Err(Status::permission_denied(reason)),
        }
    }

    fn check(&self, token: &str) -> Result<Arc<Identity>, Refusal> {
        let invalid = || Refusal::Invalid("the proof of a forwarded call is not valid".to_owned());
        let other = || Refusal::Unavailable("this server does not lead; try again".to_owned());
        let key = self.key.get().ok_or_else(other)?;
        let (claim, proof) = token.split_once('.').ok_or_else(invalid)?;
        let proof = BASE64_URL_SAFE_NO_PAD.decode(proof).map_err(|_| invalid())?;
        hmac::verify(key, claim.as_bytes(), &proof).map_err(|_| invalid())?;
        let claim = BASE64_URL_SAFE_NO_PAD.decode(claim).map_err(|_| invalid())?;
        let claim: Claim = serde_json::from_slice(&claim).map_err(|_| invalid())?;
        if claim.epoch != self.own_epoch.load(Ordering::Acquire) {
            return Err(other());
        }
        Ok(Arc::new(Identity {
            name: claim.name,
            groups: claim.groups,
            method: match claim.method {
                Method::Anonymous => AuthenticationMethod::Anonymous,
                Method::Token => AuthenticationMethod::Token,
                Method::Password => AuthenticationMethod::Password,
                Method::Certificate => AuthenticationMethod::Certificate,
            },
        }))
    }
}

#[async_trait]
impl Authenticator for ForwardedIdentities {
    async fn authenticate(&self, credentials: &Credentials) -> Option<Result<Arc<Identity>, Refusal>> {
        match credentials {
            Credentials::Bearer(token) => Some(self.check(token.expose().strip_prefix(PREFIX)?)),
            Credentials::Basic { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn identities(key: &[u8], epoch: i64) -> ForwardedIdentities {
        let identities = ForwardedIdentities::default();
        identities.set_key(key);
        identities.set_own_epoch(epoch);
        identities
    }

    fn alice() -> Identity {
        Identity {
            name: "alice".to_owned(),
            groups: vec!["staff".to_owned()],
            method: AuthenticationMethod::Certificate,
        }
    }

    async fn checked(
        leader: &ForwardedIdentities,
        authorization: &str,
    ) -> Option<Result<Arc<Identity>, Refusal>> {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, authorization.parse().unwrap());
        leader
            .authenticate(&Credentials::of(&headers).unwrap().unwrap())
            .await
    }

    #[tokio::test]
    async fn a_forwarded_call_has_the_identity_of_its_caller() {
        let (follower, leader) = (identities(b"key", 0), identities(b"key", 7));
        let authorization = follower.authorization(&alice(), 7).unwrap();
        let identity = checked(&leader, &authorization).await.unwrap().unwrap();
        assert_eq!(*identity, alice());
        let anonymous = follower.authorization(&Identity::anonymous(), 7).unwrap();
        let identity = checked(&leader, &anonymous).await.unwrap().unwrap();
        assert_eq!(*identity, Identity::anonymous());
    }

    #[tokio::test]
    async fn proofs_of_others_and_other_credentials_are_refused() {
        let leader = identities(b"key", 7);
        let foreign = identities(b"other key", 0).authorization(&alice(), 7).unwrap();
        assert!(matches!(
            checked(&leader, &foreign).await,
            Some(Err(Refusal::Invalid(_)))
        ));
        let own = leader.authorization(&alice(), 7).unwrap();
        let (claim, proof) = own.rsplit_once('.').unwrap();
        let raised = claim.replacen("bitzel-forwarded.ey", "bitzel-forwarded.fy", 1);
        let raised = format!("{raised}.{proof}");
        assert_ne!(raised, own);
        assert!(matches!(
            checked(&leader, &raised).await,
            Some(Err(Refusal::Invalid(_)))
        ));
        assert!(
            checked(&leader, "Bearer eyJhbGciOiJFZERTQSJ9.e30.x")
                .await
                .is_none()
        );
        assert!(checked(&leader, "Basic YTpi").await.is_none());
    }

    #[test]
    fn only_servers_of_the_group_prove_themselves() {
        let (follower, leader) = (identities(b"key", 0), identities(b"key", 7));
        let proof = |identities: &ForwardedIdentities, epoch| {
            identities.authorization(&Identity::anonymous(), epoch).unwrap()
        };
        let checked = |proof: Option<&str>| leader.check_server(proof).map_err(|status| status.code());
        assert_eq!(checked(Some(&proof(&follower, 7))), Ok(()));
        assert_eq!(checked(Some(&proof(&follower, 6))), Err(Code::Unavailable));
        let foreign = proof(&identities(b"other key", 0), 7);
        for other in [None, Some("Bearer x"), Some("yes"), Some(foreign.as_str())] {
            assert_eq!(checked(other), Err(Code::PermissionDenied), "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_proof_for_another_leader_is_tried_again() {
        let follower = identities(b"key", 0);
        let authorization = follower.authorization(&alice(), 6).unwrap();
        let refused = checked(&identities(b"key", 7), &authorization).await;
        assert!(matches!(refused, Some(Err(Refusal::Unavailable(_)))));
    }
}
