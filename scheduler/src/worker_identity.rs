//! Identity of a worker: tells one instance of a worker from all other callers, also those of its name.
//!
//! A worker chooses a secret at its start and sends it on every stream. Name, credentials and secret together give a key.
//! The names of its leases are signed with that key, so nobody else can guess them, and the server tells them to nobody
//! else. A proof made with the key goes to the journal with each lease. So a lease belongs to the instance that got it also
//! after a restart and for another leader, and who reads the journal learns no name of a lease.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bitzel_access::{AuthenticationMethod, Identity};
use bitzel_proto::worker::Hello;
use ring::hmac;
use uuid::Uuid;

use super::operation_queue::{HolderProof, LeaseHolder, LeaseId, OperationId};

/// Text between a worker's own name and the name of its credentials.
const NAME_SEPARATOR: &str = " of ";
/// Message that the proof of a holder signs. No name of a lease begins like this.
const PROOF_MESSAGE: &[u8] = b"holder of leases";

/// Identity of one instance of a worker.
#[derive(Debug, Clone)]
pub struct WorkerIdentity {
    name: Arc<str>,
    key: hmac::Key,
}

impl WorkerIdentity {
    /// Identity of a worker with these credentials. The name for people has the credentials, if there are any.
    ///
    /// A worker without a secret gets one that nobody knows: it comes back with no lease.
    pub fn new(hello: &Hello, caller: &Identity) -> Self {
        let own_name = &hello.worker_name;
        let (method, name) = match caller.method {
            AuthenticationMethod::Anonymous => ("anonymous", own_name.clone()),
            AuthenticationMethod::Token => ("token", format!("{own_name}{NAME_SEPARATOR}{caller}")),
            AuthenticationMethod::Password => ("password", format!("{own_name}{NAME_SEPARATOR}{caller}")),
            AuthenticationMethod::Certificate => {
                ("certificate", format!("{own_name}{NAME_SEPARATOR}{caller}"))
            }
        };
        let secret = match hello.instance_secret.as_slice() {
            [] => [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat(),
            secret => secret.to_vec(),
        };
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &secret));
        for field in [own_name.as_str(), method, &caller.name] {
            // With its length, so that no two lists of fields give the same bytes.
            context.update(&(field.len() as u64).to_le_bytes());
            context.update(field.as_bytes());
        }
        Self {
            name: name.into(),
            key: hmac::Key::new(hmac::HMAC_SHA256, context.sign().as_ref()),
        }
    }

    /// Name for people: in the farm's state, in messages and in results.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// This worker as the holder of leases.
    pub fn holder(&self) -> LeaseHolder {
        LeaseHolder {
            worker: self.name.clone(),
            proof: HolderProof::new(hmac::sign(&self.key, PROOF_MESSAGE).as_ref()),
        }
    }

    /// Name of a lease for this worker. With the operation in it, the worker can report the lease to a server that was
    /// restarted.
    pub(super) fn lease_name(&self, operation: OperationId, lease: LeaseId) -> String {
        let name = format!("{}-{}", operation.0.simple(), lease.0);
        let signature = hmac::sign(&self.key, name.as_bytes());
        format!("{name}-{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// Reads a name that [`Self::lease_name`] gave to this worker. `None` for all others.
    pub(super) fn read_lease_name(&self, lease_name: &str) -> Option<(OperationId, LeaseId)> {
        let mut parts = lease_name.splitn(3, '-');
        let (operation, lease, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
        let name = &lease_name[..operation.len() + 1 + lease.len()];
        // In a time that does not depend on the place of the first difference.
        hmac::verify(&self.key, name.as_bytes(), &signature).ok()?;
        let operation = OperationId(Uuid::try_parse(operation).ok()?);
        Some((operation, LeaseId(lease.parse().ok()?)))
    }
}

/// The name that a worker has given itself.
pub(super) fn own_name(name: &str) -> &str {
    // The server alone makes names that end like this.
    let with_credentials = name.ends_with(')').then(|| name.split_once(NAME_SEPARATOR));
    with_credentials.flatten().map_or(name, |(own, _)| own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str, secret: &[u8]) -> Hello {
        Hello {
            worker_name: name.to_owned(),
            instance_secret: secret.to_vec(),
            ..Hello::default()
        }
    }

    fn caller(name: &str, method: AuthenticationMethod) -> Identity {
        Identity {
            name: name.to_owned(),
            groups: vec![],
            method,
        }
    }

    #[test]
    fn f18_name_credentials_and_secret_make_the_holder() {
        let token = AuthenticationMethod::Token;
        let ci = caller("ci", token);
        let worker = WorkerIdentity::new(&hello("w", &[1; 32]), &ci);
        let again = WorkerIdentity::new(&hello("w", &[1; 32]), &ci);
        assert!(worker.holder().proof == again.holder().proof);
        let (operation, lease) = (OperationId(Uuid::from_u128(7)), LeaseId(3));
        let name = worker.lease_name(operation, lease);
        assert_eq!(again.read_lease_name(&name), Some((operation, lease)));
        for other in [
            WorkerIdentity::new(&hello("w", &[2; 32]), &ci),
            WorkerIdentity::new(&hello("w", &[]), &ci),
            WorkerIdentity::new(&hello("v", &[1; 32]), &ci),
            WorkerIdentity::new(&hello("w", &[1; 32]), &caller("other", token)),
            WorkerIdentity::new(
                &hello("w", &[1; 32]),
                &caller("ci", AuthenticationMethod::Certificate),
            ),
            WorkerIdentity::new(&hello("w", &[1; 32]), &Identity::anonymous()),
        ] {
            assert!(worker.holder().proof != other.holder().proof, "{other:?}");
            assert_eq!(other.read_lease_name(&name), None, "{other:?}");
        }
        let without = || WorkerIdentity::new(&hello("w", &[]), &ci).holder().proof;
        assert!(without() != without(), "nobody comes back without a secret");
    }

    #[test]
    fn f18_changed_names_of_leases_are_refused() {
        let worker = WorkerIdentity::new(&hello("w", &[1; 32]), &Identity::anonymous());
        let name = worker.lease_name(OperationId(Uuid::from_u128(7)), LeaseId(30));
        for changed in [
            name.replacen("-30-", "-31-", 1),
            name.replacen("-30-", "-030-", 1),
            name[..name.len() - 1].to_owned(),
            name.rsplit_once('-').unwrap().0.to_owned(),
            String::new(),
            "--".to_owned(),
        ] {
            assert_eq!(worker.read_lease_name(&changed), None, "{changed}");
        }
    }

    #[test]
    fn the_name_for_people_has_the_credentials() {
        let token = caller("ci", AuthenticationMethod::Token);
        let worker = WorkerIdentity::new(&hello("w", &[1; 32]), &token);
        assert_eq!(&**worker.name(), "w of ci (token)");
        assert_eq!(own_name(worker.name()), "w");
        let anonymous = WorkerIdentity::new(&hello("w of x", &[1; 32]), &Identity::anonymous());
        assert_eq!(own_name(anonymous.name()), "w of x");
    }
}
