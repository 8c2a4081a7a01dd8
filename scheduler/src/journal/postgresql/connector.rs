//! Connections to PostgreSQL.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bitzel_rpc::Secret;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::mpsc;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::config::PostgresqlConfig;
use super::schema;
use crate::journal::JournalError;

/// Time that PostgreSQL has to accept a connection, and to answer a statement.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the kernel asks whether the machine of PostgreSQL is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Maker of connections to one database.
#[derive(Clone)]
pub struct PostgresqlConnector {
    config: Config,
    /// Name of the queue, which the tables belong to.
    queue: String,
    /// `None` for this machine.
    tls: Option<MakeRustlsConnect>,
}

/// A connection. Dropping it closes it.
pub(crate) struct PostgresqlConnection {
    pub(crate) client: Client,
    /// Receives something for each notification, and ends with the connection.
    pub(crate) notifications: mpsc::Receiver<()>,
    _driver: AbortOnDropHandle<()>,
}

impl PostgresqlConnector {
    /// Reads the configuration and its files, relative to `base`. `password` is for a configuration without a file of
    /// it. The tables belong to one `queue`: other ones are refused.
    pub fn new(
        config: &PostgresqlConfig,
        base: &Path,
        password: Option<Secret>,
        queue: String,
    ) -> Result<Self, JournalError> {
        let mut postgres: Config = config.url.parse().map_err(|_| {
            let expected = "write postgresql://user@host/database, or pairs like host=… user=… dbname=…";
            JournalError::Address(expected.to_owned())
        })?;
        if postgres.get_password().is_some() {
            let reason = "it has a password, which logs could show; write it to a file for password_file";
            return Err(JournalError::Address(reason.to_owned()));
        }
        let password = match &config.password_file {
            Some(path) => Some(read_password(&base.join(path))?),
            None => password,
        };
        if let Some(password) = password {
            postgres.password(password.expose());
        }
        postgres
            .connect_timeout(ANSWER_TIMEOUT)
            .tcp_user_timeout(ANSWER_TIMEOUT)
            .keepalives_idle(KEEP_ALIVE)
            .application_name("bitzel");
        let encrypted = !postgres.get_hosts().iter().all(is_this_machine)
            && postgres.get_ssl_mode() != SslMode::Disable
            || postgres.get_ssl_mode() == SslMode::Require;
        let tls = if encrypted {
            // Never by choice of the other side: everybody on the way could make that choice.
            postgres.ssl_mode(SslMode::Require);
            Some(MakeRustlsConnect::new(client_config(
                config.tls_ca.as_ref().map(|path| base.join(path)).as_deref(),
            )?))
        } else {
            postgres.ssl_mode(SslMode::Disable);
            None
        };
        Ok(Self {
            config: postgres,
            queue,
            tls,
        })
    }

    /// Connects, and makes the tables if there are none.
    pub(crate) async fn connect(&self) -> Result<PostgresqlConnection, JournalError> {
        let connecting = async {
            let connection = match &self.tls {
                Some(tls) => self.connect_by(tls.clone()).await?,
                None => self.connect_by(NoTls).await?,
            };
            schema::prepare(&connection.client, &self.queue).await?;
            Ok(connection)
        };
        let connected = tokio::time::timeout(ANSWER_TIMEOUT, connecting).await;
        connected.unwrap_or(Err(JournalError::NoAnswer))
    }

    async fn connect_by<T>(&self, tls: T) -> Result<PostgresqlConnection, JournalError>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
    {
        let (client, connection) = self.config.connect(tls).await?;
        // One waiting notification says as much as many.
        let (notify, notifications) = mpsc::channel(1);
        let driver = tokio::spawn(drive(connection, notify));
        Ok(PostgresqlConnection {
            client,
            notifications,
            _driver: AbortOnDropHandle::new(driver),
        })
    }
}

/// Drives a connection to its end.
async fn drive<S, T>(mut connection: Connection<S, T>, notify: mpsc::Sender<()>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(_))) => {
                // An error means that one is waiting already.
                let _ = notify.try_send(());
            }
            Some(Ok(_)) => {}
            // The statements that wait for answers get the error.
            Some(Err(_)) | None => return,
        }
    }
}

fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
    }
}

fn read_password(path: &Path) -> Result<Secret, JournalError> {
    let text = std::fs::read_to_string(path).map_err(|error| unusable(path, &error))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// TLS that checks the certificate of the server and the name in it.
fn client_config(authorities: Option<&Path>) -> Result<ClientConfig, JournalError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, &error))? {
                let certificate = certificate.map_err(|error| unusable(path, &error))?;
                roots.add(certificate).map_err(|error| unusable(path, &error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // The provider has the default versions.
    let builder = versions.map_err(|error| JournalError::Address(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn unusable(path: &Path, error: &impl ToString) -> JournalError {
    JournalError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
