//! Network of commands that reaches what the machine reaches, but not the machine's own loopback services.
//!
//! The launcher and its commands are in a network namespace of their own. pasta, a program of the machine, moves packets
//! between a TAP interface there and ordinary sockets in the machine's network. Three processes take part:
//!
//! - The *connector* is forked before the launcher enters its network namespace, so it stays in the machine's. It starts
//!   pasta. It is the first process of a process-id namespace, and dies with the launcher: the kernel ends pasta with
//!   it, whoever kills whom.
//! - The *target* is forked afterwards and has no capabilities. pasta opens the network namespace by the target's entry
//!   in `/proc`, and the kernel lets a process look only at others that have no more capabilities than itself.
//! - The launcher makes the TAP interface, which lets nothing to groups out ([`crate::group_filter`]), waits for both, and
//!   then makes addresses that nobody may reach local ones, see [`crate::routes`].

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio, id};
use std::time::Duration;

use bitzel_launcher::IsolatedNetwork;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Signal, WaitOptions, set_parent_process_death_signal, wait};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities};

use crate::failure::{Failure, InStep as _};
use crate::raw_calls::{self, Fork, fork_into, unshare};
use crate::{group_filter, network, routes};

/// Name of the step that failures belong to; pasta's own messages too.
const CONNECT: &str = "connect an isolated network with pasta";
/// Name of the interface in the network namespace.
const INTERFACE: &str = "net0";
/// Time until pasta counts as hanging. It takes some 20 ms.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Options of pasta: it configures the interface itself; no port and no address of one side stands for the loopback of
/// the other one; nobody asks for addresses.
const OPTIONS: [&str; 15] = [
    "--config-net",
    "--no-map-gw",
    "--tcp-ports",
    "none",
    "--udp-ports",
    "none",
    "--tcp-ns",
    "none",
    "--udp-ns",
    "none",
    "--no-dhcp",
    "--no-dhcpv6",
    "--no-ra",
    "--ns-ifname",
    INTERFACE,
];

/// Enters a network namespace and connects it.
pub(crate) fn enter(settings: &IsolatedNetwork) -> Result<(), Failure> {
    let mut connector = fork_connector(settings).in_step(CONNECT)?;
    unshare(UnshareFlags::NEWNET).in_step("unshare the network namespace")?;
    network::bring_loopback_up().in_step("set up loopback")?;
    group_filter::create_interface(INTERFACE).in_step("create the interface of an isolated network")?;
    // Nobody else has the addresses. The kernel would look for a duplicate for a second and refuse them meanwhile. Not
    // there on a machine without IPv6.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
    let mut target = fork_target().in_step(CONNECT)?;
    let mut process = String::new();
    target.read_line(&mut process).in_step(CONNECT)?;
    let mut failure = String::new();
    let exchange = connector
        .set_read_timeout(Some(START_TIMEOUT))
        .and_then(|()| connector.write_all(process.as_bytes()))
        .and_then(|()| connector.read_to_string(&mut failure));
    exchange.in_step(CONNECT)?;
    if !failure.is_empty() {
        return Err(Failure::new(CONNECT, failure));
    }
    routes::keep_local(INTERFACE).in_step("close the isolated network to addresses of the machine")
}

/// Forks the connector. It takes the process id of the target, and answers with nothing or with the reason of a failure.
fn fork_connector(settings: &IsolatedNetwork) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    match fork_into(libc::CLONE_NEWPID)? {
        Fork::Parent(_) => Ok(ours),
        Fork::Child => {
            drop(ours);
            let ended = connect(settings, theirs);
            raw_calls::exit(i32::from(ended.is_err()));
        }
    }
}

fn connect(settings: &IsolatedNetwork, stream: UnixStream) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut stream = BufReader::new(stream);
    let mut target = String::new();
    // Nothing if the launcher has ended before this process asked to die with it.
    if stream.read_line(&mut target)? == 0 {
        return Ok(());
    }
    let failure = match start_pasta(settings, target.trim()) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    };
    stream.into_inner().write_all(failure.as_bytes())?;
    // pasta has become a child of this process. Nothing is left when it ends.
    while wait(WaitOptions::empty()).is_ok() {}
    Ok(())
}

/// Starts pasta, which goes to the background as soon as the network is connected.
fn start_pasta(settings: &IsolatedNetwork, target: &str) -> io::Result<()> {
    // A file, because the process in the background may keep it open.
    let mut messages = File::from(memfd_create("messages", MemfdFlags::CLOEXEC)?);
    let ended = Command::new(&settings.program)
        .args(OPTIONS)
        .args(
            settings
                .name_server_forwards
                .iter()
                .flat_map(|address| ["--dns-forward".to_owned(), address.to_string()]),
        )
        .arg("--netns")
        .arg(format!("/proc/{target}/ns/net"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(messages.try_clone()?)
        .status()
        .map_err(|error| io::Error::other(format!("{}: {error}", settings.program)))?;
    if ended.success() {
        return Ok(());
    }
    let mut text = vec![];
    messages.rewind()?;
    messages.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // Some versions complain about each message that no system log takes.
    let mut lines = text.lines().filter(|line| !line.contains("to syslog"));
    let last = lines.next_back().unwrap_or_default();
    Err(io::Error::other(format!("pasta ended with {ended}: {last}")))
}

/// Forks the target, which writes its process id and ends when the other end of the stream does.
fn fork_target() -> io::Result<BufReader<UnixStream>> {
    let (ours, mut theirs) = UnixStream::pair()?;
    match fork_into(0)? {
        Fork::Parent(_) => Ok(BufReader::new(ours)),
        Fork::Child => {
            drop(ours);
            let mut serve = || -> io::Result<()> {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                let nothing = CapabilitySets {
                    effective: CapabilitySet::empty(),
                    permitted: CapabilitySet::empty(),
                    inheritable: CapabilitySet::empty(),
                };
                set_capabilities(None, nothing)?;
                writeln!(theirs, "{}", id())?;
                theirs.read_to_end(&mut vec![])?;
                Ok(())
            };
            raw_calls::exit(i32::from(serve().is_err()));
        }
    }
}
