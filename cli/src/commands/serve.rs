//! `bitzel serve`.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bitzel_access::{AccessConfiguration, ServerAccess};
use bitzel_cas::composition::store_configuration::{DEFAULT_FREE_SPACE, StoreConfiguration};
use bitzel_cas_server::http_cache::Spool;
use bitzel_cas_server::{Listener, ServerConfig, StoreLayout};
use bitzel_rpc::WatchedFiles;
use bitzel_scheduler::JournalMedium;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::access_reload::{AccessReload, RulesFile};
use crate::admin::AdminListener;
use crate::allocator;
use crate::arguments::ServeArguments;
use crate::command_error::CommandError;
use crate::configuration::{Configuration, read_access};
use crate::connection::processors;
use crate::console;
use crate::directories::Directories;
use crate::interrupt;
use crate::open_files;
use crate::queue_journal::QueueJournal;
use crate::root_user;
use crate::server::{Execution, Server};
use crate::tenants;
use crate::worker::LocalWorker;

/// Limit of the spool: bytes on disk of all HTTP cache uploads whose digests are not known yet.
const MAX_SPOOL_BYTES: u64 = 8 << 30;
/// Default of `--listen`.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8980);

/// Serves until interrupted.
pub(crate) async fn run(
    directories: &Directories,
    arguments: ServeArguments,
) -> Result<ExitCode, CommandError> {
    let rules_paths = arguments.config.iter().chain(&arguments.access);
    let watched = WatchedFiles::new(rules_paths.cloned().collect());
    let file = arguments.config.as_deref().map(Configuration::read).transpose()?;
    let listen = arguments
        .listen
        .or(file.as_ref().and_then(|file| file.listen.grpc));
    let listen = listen.unwrap_or(DEFAULT_ADDRESS);
    let http_listen = arguments
        .http_listen
        .or(file.as_ref().and_then(|file| file.listen.http));
    let access = access(&arguments, file.as_ref(), &[Some(listen), http_listen]).await?;
    let ports = 1 + usize::from(http_listen.is_some());
    if let Some(problem) = open_files::raise(access.limits.connections.saturating_mul(ports)) {
        console::warn(&problem);
    }
    let admin = arguments
        .admin
        .or(file.as_ref().and_then(|file| file.listen.admin));
    let executes = file.as_ref().is_none_or(|file| file.execution.enabled);
    let jobs = arguments
        .jobs
        .or(file.as_ref().and_then(|file| file.execution.jobs));
    let scratch_directory = directories
        .scratch()
        .or_else(|| file.as_ref().and_then(Configuration::scratch));
    let root_identity = arguments
        .root_identity
        .clone()
        .or_else(|| file.as_ref()?.execution.root_identity.clone());
    let policies = file
        .as_ref()
        .map(|file| file.execution.policies.clone())
        .unwrap_or_default();
    let mut journal = file
        .as_ref()
        .map(|file| file.execution.journal.clone())
        .unwrap_or_default();
    if let (Some(address), Some(postgresql)) = (&arguments.scheduler_address, &mut journal.postgresql) {
        postgresql.address = Some(address.clone());
    }
    let base = file.as_ref().map(|file| file.base.clone()).unwrap_or_default();
    let is_shared = journal.medium == JournalMedium::Postgresql;
    if is_shared && jobs.is_some_and(|jobs| jobs > 0) {
        return Err(
            CommandError::new("schedulers that share a journal run no Actions themselves")
                .hint("leave --jobs and execution.jobs out, and start `bitzel worker` on this machine"),
        );
    }
    let slots = if executes && !is_shared {
        jobs.unwrap_or_else(processors)
    } else {
        0
    };
    if slots > 0 {
        root_user::warn(arguments.allow_root);
    }
    let in_file = file.as_ref().map(|file| &file.execution.bounds);
    let bounds = arguments.bounds.bounds(in_file);
    let (scheme, http_scheme) = if access.tls.is_some() {
        ("grpcs", "https")
    } else {
        ("grpc", "http")
    };
    let chunking = file.as_ref().map(|file| file.chunking).unwrap_or_default();
    let tenants = match &file {
        Some(file) => tenants::open(file, directories)?,
        None => None,
    };
    if tenants.is_some() {
        let rules = match (
            file.as_ref().and_then(|file| file.access.clone()),
            &arguments.access,
        ) {
            (Some(rules), _) => Some(rules),
            (None, Some(path)) => Some(read_access(path)?),
            (None, None) => None,
        };
        for warning in tenants::warnings(rules.as_ref().map(|rules| &rules.access)) {
            console::warn(&warning);
        }
    }
    let queue_file = tenants::queue_file(tenants.as_ref());
    let rules_file = rules_file(&arguments, file.as_ref());
    let reload = rules_file
        .map(|rules| AccessReload::of(rules, watched, access.clone(), tenants.is_some()))
        .transpose()?;
    let stores = match file {
        Some(Configuration {
            stores: Some((blobs, results)),
            base,
            ..
        }) => StoreLayout { blobs, results, base },
        _ => StoreLayout::in_directory(&directories.server(), arguments.store_size << 30),
    };
    // With port 0, the system chooses the port.
    let (listener, address) = bind(listen).await?;
    let queue_file = directories.server().join(queue_file);
    let journal = QueueJournal::configured(journal, &base, queue_file, (scheme, address))?;
    let access = match journal.identities() {
        Some(identities) => ServerAccess {
            layer: access.layer.with_authenticator(identities),
            ..access
        },
        None => access,
    };
    let mut listeners = vec![Listener::Tcp(listener, access.clone())];
    let mut http_address = None;
    if let Some(listen) = http_listen {
        let (listener, address) = bind(listen).await?;
        http_address = Some(address);
        let spool = spool(directories.server().join("spool"), &stores.blobs)?;
        listeners.push(Listener::Http(listener, access, spool));
    }
    let admin = match admin {
        Some(address) => Some(AdminListener::bind(address).await?),
        None => None,
    };
    let admin_address = admin.as_ref().map(AdminListener::address).transpose()?;
    let config = ServerConfig {
        stores,
        syncs: true,
        chunking,
        shared_cache: None,
        tenants,
    };
    let server = Server::open(config, executes.then_some(Execution { policies, journal })).await?;
    let _memory = AbortOnDropHandle::new(tokio::spawn(allocator::return_freed_memory()));
    let _reload = reload.map(|reload| AbortOnDropHandle::new(tokio::spawn(reload.run())));
    let for_worker = server.for_worker();
    let server_shutdown = CancellationToken::new();
    let mut server = tokio::spawn(server.run(listeners, admin, server_shutdown.clone()));
    let worker_shutdown = CancellationToken::new();
    let worker = LocalWorker {
        name: None,
        pool: String::new(),
        cache_directory: directories.worker(),
        scratch_directory,
        file_cache_size: None,
        // The store is in this process.
        prefetch_size: 0,
        max_layer_entries: None,
        properties: vec![],
        slots,
        root_identity,
        drain_timeout: Duration::ZERO,
        bounds,
    };
    let mut worker = tokio::spawn(worker.run(for_worker, worker_shutdown.clone()));
    writeln!(io::stdout(), "bitzel serves on {scheme}://{address}")?;
    if let Some(address) = http_address {
        writeln!(io::stdout(), "the HTTP cache is on {http_scheme}://{address}")?;
    }
    if let Some(address) = admin_address {
        writeln!(io::stdout(), "metrics are on http://{address}/metrics")?;
    }
    tokio::select! {
        ended = &mut server => {
            worker_shutdown.cancel();
            ended??;
            return Ok(ExitCode::SUCCESS);
        }
        ended = &mut worker => {
            server_shutdown.cancel();
            server.await??;
            ended??;
            return Ok(ExitCode::SUCCESS);
        }
        () = interrupt::interrupted() => {}
    }
    // The worker first: the server records the results of what it has finished.
    worker_shutdown.cancel();
    let worked = worker.await?;
    server_shutdown.cancel();
    server.await??;
    worked?;
    Ok(ExitCode::SUCCESS)
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), CommandError> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        CommandError::from(error)
            .context(format!("cannot listen on {address}"))
            .hint("stop the server that uses this address, or choose another one")
    })?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Access rules of the listeners. Without rules everybody has full access, which is acceptable for the users of one
/// machine only.
async fn access(
    arguments: &ServeArguments,
    file: Option<&Configuration>,
    listen: &[Option<SocketAddr>],
) -> Result<ServerAccess, CommandError> {
    let mut listen = listen.iter().flatten();
    let public = listen.find(|address| !address.ip().is_loopback()).copied();
    if let (Some(path), Some(file)) = (&arguments.config, file)
        && let Some(configuration) = file.access.clone()
    {
        return open_access(configuration, path, public).await;
    }
    let Some(path) = &arguments.access else {
        let Some(public) = public.filter(|_| !arguments.allow_anonymous) else {
            let limits = file.map(|file| file.limits.clone()).unwrap_or_default();
            return Ok(ServerAccess::open_with(limits));
        };
        return Err(CommandError::new(format!(
            "without access rules, everybody who can reach {public} could replace the results that others build with"
        ))
        .hint(
            "write rules for --access FILE (docs/access.md has examples), or give everybody full access with \
             --allow-anonymous",
        ));
    };
    open_access(read_access(path)?, path, public).await
}

/// File that the access rules came from. `None` if there are no rules.
fn rules_file(arguments: &ServeArguments, file: Option<&Configuration>) -> Option<RulesFile> {
    let has_rules = file.is_some_and(|file| file.access.is_some());
    match (&arguments.config, &arguments.access) {
        (Some(path), _) if has_rules => Some(RulesFile::Configuration(path.clone())),
        (_, Some(path)) => Some(RulesFile::Access(path.clone())),
        _ => None,
    }
}

/// Spool for uploads of unknown digests, within the size limit and the free space of the store on the same disk.
fn spool(directory: PathBuf, blobs: &StoreConfiguration) -> io::Result<Spool> {
    std::fs::create_dir_all(&directory)?;
    let disk = blobs.first_disk();
    let size = disk
        .and_then(|disk| disk.size)
        .map_or(u64::MAX, |size| size.as_u64());
    let floor = disk.map_or(DEFAULT_FREE_SPACE, |disk| disk.free_space.as_u64());
    Ok(Spool::new(directory, size.min(MAX_SPOOL_BYTES), floor))
}

async fn open_access(
    configuration: AccessConfiguration,
    path: &Path,
    public: Option<SocketAddr>,
) -> Result<ServerAccess, CommandError> {
    let in_file = |error: CommandError| error.context(format!("{} cannot be used", path.display()));
    let encrypted = configuration.tls.is_some();
    if !encrypted && public.is_some() {
        console::warn(
            "there is no [tls] table: others on the network can read and change tokens, passwords and data",
        );
    }
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    configuration
        .open(base)
        .await
        .map_err(|error| in_file(error.into()))
}
