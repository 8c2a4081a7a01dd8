//! Network of Actions: what one with `network=on` reaches, and what not.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitzel_worker::bounds::ActionNetworkSetting;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::harness::*;

const NETWORK: &[(&str, &str)] = &[("network", "on")];

/// Client that tries to reach servers in all ways that an ordinary user has, and prints the names of those that it
/// reached. Its input has a name, an address and a port a line.
const CLIENT: &str = r#"
import socket, struct, sys
interfaces = [name for _, name in socket.if_nameindex()]
def greeted(name, connect):
    try:
        with connect() as client:
            client.settimeout(1)
            if client.recv(5) == b"hello":
                print(name, flush=True)
    except OSError as error:
        print(name, error, file=sys.stderr)
def stream(family, target, device=None, scope=None):
    client = socket.socket(family, socket.SOCK_STREAM)
    client.settimeout(1)
    if device:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    client.connect(target if scope is None else (*target, 0, socket.if_nametoindex(scope)))
    return client
def datagram(family, target, device):
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.settimeout(1)
    index = socket.if_nametoindex(device)
    if family == socket.AF_INET:
        info = (socket.IPPROTO_IP, 8, struct.pack("@i4s4s", index, bytes(4), bytes(4)))
    else:
        info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("@16si", bytes(16), index))
    client.sendmsg([b"hello"], [info], 0, target)
    return client
for line in open("servers"):
    name, address, port = line.split()
    port = int(port)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    target = (address, port)
    greeted(name, lambda: stream(family, target))
    for device in interfaces:
        greeted(name, lambda: stream(family, target, device))
        greeted(name, lambda: datagram(family, target, device))
        if family == socket.AF_INET6:
            greeted(name, lambda: stream(family, target, None, device))
    if family == socket.AF_INET:
        for form in ["::ffff:", "::", "64:ff9b::", "::ffff:0:"]:
            greeted(name, lambda: stream(socket.AF_INET6, (form + address, port)))
"#;

/// Server on an address of this machine that says hello, by TCP and UDP.
struct Server {
    address: SocketAddr,
}

impl Server {
    fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let datagrams = UdpSocket::bind(address).unwrap();
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let _ = client.write_all(b"hello");
            }
        });
        std::thread::spawn(move || {
            let mut received = [0; 5];
            while let Ok((_, client)) = datagrams.recv_from(&mut received) {
                let _ = datagrams.send_to(b"hello", client);
            }
        });
        Self { address }
    }
}

/// Further address of this machine. Removed when it is dropped.
struct AddedAddress {
    address: String,
    interface: String,
}

impl AddedAddress {
    /// `None` without the privilege to add addresses.
    fn new(address: &str, interface: &str) -> Option<Self> {
        let added = Self {
            address: address.into(),
            interface: interface.into(),
        };
        added.ip("add").then_some(added)
    }

    fn ip(&self, verb: &str) -> bool {
        let mut command = Command::new("ip");
        command.args(["address", verb, &self.address, "dev", &self.interface]);
        // Usable at once.
        command.args((verb == "add" && self.address.contains(':')).then_some("nodad"));
        let ended = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
        ended.is_ok_and(|status| status.success())
    }
}

impl Drop for AddedAddress {
    fn drop(&mut self) {
        self.ip("delete");
    }
}

/// Name of the interface that leads out of this machine, and its index.
fn outer_interface() -> Option<(String, u32)> {
    let output = Command::new("ip")
        .args(["-o", "route", "show", "default"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let name = text
        .split_whitespace()
        .skip_while(|word| *word != "dev")
        .nth(1)?
        .to_owned();
    let index = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?;
    Some((name, index.trim().parse().ok()?))
}

/// True if this machine can isolate networks.
fn has_pasta() -> bool {
    let mut pasta = Command::new("pasta");
    pasta.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    pasta.status().is_ok()
}

const NO_PASTA: &str = "pasta is not in PATH; install the package passt";

async fn worker(network: ActionNetworkSetting) -> Worker {
    Worker::with(|config| config.bounds.network = network).await
}

/// Names of the servers that a command with network reaches.
async fn reached(network: ActionNetworkSetting, servers: &[(&str, &Server)]) -> Vec<String> {
    let line = |(name, server): &(&str, &Server)| {
        let (address, port) = (server.address.ip(), server.address.port());
        format!("{name} {address} {port}\n")
    };
    let lines = servers.iter().map(line).collect::<Vec<_>>().concat();
    let worker = worker(network).await;
    let run = Run {
        script: "/usr/bin/python3 client.py",
        platform: NETWORK,
        ..Run::default()
    };
    let tree = directory([("client.py", file(CLIENT)), ("servers", file(&lines))]);
    let result = worker.run(&tree, run).await;
    let mut names: Vec<String> = worker.stdout(&result).await.lines().map(str::to_owned).collect();
    names.dedup();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_loopback_of_the_machine_is_out_of_reach() {
    if !has_pasta() {
        println!("SKIPPED: f9_loopback_of_the_machine_is_out_of_reach: {NO_PASTA}");
        return;
    }
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        "127.1.2.3".parse().unwrap(),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        // All addresses, those of loopback too.
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    ];
    let servers = loopback.map(|address| Server::start((address, 0).into()));
    let names = ["v4", "other", "v6", "any"];
    let named: Vec<(&str, &Server)> = names.into_iter().zip(&servers).collect();
    assert_eq!(reached(ActionNetworkSetting::Host, &named).await, names);
    assert_eq!(
        reached(ActionNetworkSetting::Isolated, &named).await,
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_link_local_addresses_are_out_of_reach() {
    const TEST: &str = "f9_link_local_addresses_are_out_of_reach";
    if !has_pasta() {
        println!("SKIPPED: {TEST}: {NO_PASTA}");
        return;
    }
    let Some((interface, index)) = outer_interface() else {
        println!("SKIPPED: {TEST}: this machine has no default route");
        return;
    };
    // Metadata services of AWS, Alibaba Cloud and Azure.
    let metadata = [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
    ];
    let link_local = "fe80::b172:e1";
    let routed = ["198.51.100.77", "2001:db8:77::1"];
    let mut added = vec![];
    for address in metadata.into_iter().chain([link_local]).chain(routed) {
        let prefix = if address.contains(':') { 128 } else { 32 };
        // pasta gives commands an address of the outer interface, and this test needs those that only the machine has.
        let interface = if address == link_local { &interface } else { "lo" };
        let Some(address) = AddedAddress::new(&format!("{address}/{prefix}"), interface) else {
            println!("SKIPPED: {TEST}: no privilege to add the address {address} to {interface}");
            return;
        };
        added.push(address);
    }
    let mut servers = vec![];
    for address in metadata.into_iter().chain(routed) {
        let server = Server::start((address.parse::<IpAddr>().unwrap(), 0).into());
        servers.push((address, server));
    }
    let address: Ipv6Addr = link_local.parse().unwrap();
    let scoped = std::net::SocketAddrV6::new(address, 0, 0, index);
    servers.push((link_local, Server::start(scoped.into())));
    let named: Vec<(&str, &Server)> = servers.iter().map(|(name, server)| (*name, server)).collect();
    let all: Vec<&str> = metadata.into_iter().chain(routed).chain([link_local]).collect();
    assert_eq!(reached(ActionNetworkSetting::Host, &named).await, all);
    assert_eq!(reached(ActionNetworkSetting::Isolated, &named).await, routed);
}

/// Client that sends one datagram to each group and broadcast address, in all ways that an ordinary user has. The datagram
/// is the name of the address. At last it exchanges one with a server: what was sent before has then arrived.
const GROUP_CLIENT: &str = r#"
import os, socket, struct, sys
server = ("198.51.100.78", int(os.environ["PORT"]))
interfaces = [pair for pair in socket.if_nameindex() if pair[1] != "lo"]
for line in open("groups"):
    address, port = line.split()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for index, device in interfaces:
        for way in ["route", "interface", "device", "source"]:
            client = socket.socket(family, socket.SOCK_DGRAM)
            target = (address, int(port))
            try:
                if family == socket.AF_INET:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 9)
                    option = (socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), index))
                else:
                    client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 9)
                    option = (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
                if way == "interface":
                    client.setsockopt(*option)
                if way == "device":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
                if way == "source" and family == socket.AF_INET:
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                        other.connect(server)
                        client.bind((other.getsockname()[0], 0))
                client.sendto(address.encode(), target)
            except OSError as error:
                print(address, way, error, file=sys.stderr)
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(20)
client.sendto(b"hello", server)
print(client.recv(5).decode())
"#;

/// Receiver of the datagrams to some groups and broadcast addresses on an interface of this machine.
struct GroupReceiver {
    v4: UdpSocket,
    v6: Option<UdpSocket>,
}

impl GroupReceiver {
    fn start(groups: &[IpAddr], interface_address: Ipv4Addr, index: u32) -> Self {
        let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok();
        for group in groups {
            match (group, &v6) {
                (IpAddr::V4(group), _) if group.is_multicast() => {
                    v4.join_multicast_v4(group, &interface_address).unwrap();
                }
                (IpAddr::V6(group), Some(v6)) => v6.join_multicast_v6(group, index).unwrap(),
                _ => {}
            }
        }
        Self { v4, v6 }
    }

    /// Addresses of the datagrams that have arrived.
    fn received(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for socket in [Some(&self.v4), self.v6.as_ref()].into_iter().flatten() {
            socket.set_nonblocking(true).unwrap();
            let mut datagram = [0; 100];
            while let Ok(length) = socket.recv(&mut datagram) {
                names.insert(String::from_utf8_lossy(&datagram[..length]).into_owned());
            }
        }
        names
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_groups_and_broadcast_are_out_of_reach() {
    const TEST: &str = "f9_groups_and_broadcast_are_out_of_reach";
    if !has_pasta() {
        println!("SKIPPED: {TEST}: {NO_PASTA}");
        return;
    }
    let Some((interface, index)) = outer_interface() else {
        println!("SKIPPED: {TEST}: this machine has no default route");
        return;
    };
    let shown = Command::new("ip")
        .args(["-o", "-4", "address", "show", "dev", &interface])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let after = |word: &str| shown.split_whitespace().skip_while(|found| *found != word).nth(1);
    let Some(address) = after("inet").and_then(|address| address.split('/').next()?.parse().ok()) else {
        println!("SKIPPED: {TEST}: the outer interface has no IPv4 address");
        return;
    };
    let mut groups: Vec<IpAddr> = [
        "239.1.2.3",
        "224.0.0.251",
        "255.255.255.255",
        "ff02::fb",
        "ff05::77",
        "ff0e::77",
    ]
    .map(|group| group.parse().unwrap())
    .into();
    groups.extend(after("brd").map(|address| address.parse::<IpAddr>().unwrap()));
    let Some(added) = AddedAddress::new("198.51.100.78/32", "lo") else {
        println!("SKIPPED: {TEST}: no privilege to add an address to lo");
        return;
    };
    let server = Server::start("198.51.100.78:0".parse().unwrap());
    let reached_groups = async |network| {
        let receiver = GroupReceiver::start(&groups, address, index);
        let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
        let (v4_port, v6_port) = (port(&receiver.v4), receiver.v6.as_ref().map_or(0, port));
        let line = |group: &IpAddr| format!("{group} {}\n", if group.is_ipv4() { v4_port } else { v6_port });
        let lines = groups.iter().map(line).collect::<Vec<_>>().concat();
        let worker = worker(network).await;
        let port = server.address.port().to_string();
        let run = Run {
            script: "/usr/bin/python3 client.py",
            platform: NETWORK,
            environment: &[("PORT", &port)],
            ..Run::default()
        };
        let tree = directory([("client.py", file(GROUP_CLIENT)), ("groups", file(&lines))]);
        let result = worker.run(&tree, run).await;
        assert_eq!(worker.stdout(&result).await, "hello\n", "the machine is reached");
        receiver.received()
    };
    let all: BTreeSet<String> = groups.iter().map(ToString::to_string).collect();
    assert_eq!(reached_groups(ActionNetworkSetting::Host).await, all);
    assert_eq!(
        reached_groups(ActionNetworkSetting::Isolated).await,
        BTreeSet::new()
    );
    drop(added);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_resolve_in_an_isolated_network() {
    const TEST: &str = "names_resolve_in_an_isolated_network";
    const RESOLVE: &str = "getent hosts deb.debian.org github.com || true";
    if !has_pasta() {
        println!("SKIPPED: {TEST}: {NO_PASTA}");
        return;
    }
    let here = Command::new("sh").args(["-c", RESOLVE]).output().unwrap();
    if here.stdout.is_empty() {
        println!("SKIPPED: {TEST}: this machine resolves no names");
        return;
    }
    let worker = worker(ActionNetworkSetting::Isolated).await;
    let run = Run {
        script: RESOLVE,
        platform: NETWORK,
        ..Run::default()
    };
    let result = worker.run(&directory([]), run).await;
    assert_eq!(worker.stdout(&result).await.is_empty(), here.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_network_ends_with_its_action() {
    const TEST: &str = "an_isolated_network_ends_with_its_action";
    if !has_pasta() {
        println!("SKIPPED: {TEST}: {NO_PASTA}");
        return;
    }
    let worker = Arc::new(worker(ActionNetworkSetting::Isolated).await);
    let root = worker.put_tree(&directory([])).await;
    let run = Run {
        script: "touch running; exec sleep 1000",
        platform: NETWORK,
        ..Run::default()
    };
    let action = worker.action(root, &run).await;
    let (request, mut stages) = Worker::observed_request(action);
    let cancellation = request.cancellation.clone();
    let running = {
        let worker = Arc::clone(&worker);
        tokio::spawn(async move { worker.executor().execute(request).await })
    };
    stages.recv().await.unwrap();
    created_by_command(&worker, "running").await;
    let pastas = own_pastas();
    assert_eq!(pastas.len(), 1, "{pastas:?}");
    let pasta = pidfd_open(pastas[0], PidfdFlags::empty()).unwrap();
    cancellation.cancel();
    let status = running.await.unwrap().status.unwrap();
    assert_ne!(status.code, 0);
    // It ends soon after its launcher.
    let timeout = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let ended = poll(&mut [PollFd::new(&pasta, PollFlags::IN)], Some(&timeout)).unwrap();
    assert_eq!(ended, 1, "pasta still runs");
}

/// Processes of pasta below this one.
fn own_pastas() -> Vec<Pid> {
    // Name and parent of a process, from its `stat`: `12 (name) S 34 …`.
    let stat = |process: i32| {
        let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
        let parent: i32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        Some((name.to_owned(), parent))
    };
    let own = i32::try_from(std::process::id()).unwrap();
    let is_below = |process| {
        std::iter::successors(Some(process), |process| Some(stat(*process)?.1))
            .any(|ancestor| ancestor == own)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // The program is one file with two names, and has variants for processors.
    let is_pasta = |process: &i32| {
        stat(*process).is_some_and(|(name, _)| name.starts_with("pasta") || name.starts_with("passt"))
    };
    let found = processes.filter(|process| is_pasta(process) && is_below(*process));
    found.filter_map(Pid::from_raw).collect()
}

/// Time that an Action takes in each kind of network. Run it alone:
/// `cargo test -p bitzel-worker --test runner action_network -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn cost_of_a_network() {
    for (name, network, platform) in [
        ("no network", ActionNetworkSetting::Isolated, &[][..]),
        ("isolated", ActionNetworkSetting::Isolated, NETWORK),
        ("host", ActionNetworkSetting::Host, NETWORK),
    ] {
        let worker = worker(network).await;
        let root = worker.put_tree(&directory([])).await;
        let run = Run {
            script: "true",
            platform,
            ..Run::default()
        };
        let action = worker.action(root, &run).await;
        let mut times = vec![];
        for _ in 0..31 {
            let start = Instant::now();
            let response = worker.execute(action).await;
            times.push(start.elapsed());
            worker.succeeded(response).await;
        }
        times.sort();
        let median: Duration = times[times.len() / 2];
        println!("{name}: median {median:?}, least {:?}", times[0]);
    }
}
