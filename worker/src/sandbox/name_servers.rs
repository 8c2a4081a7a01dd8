//! Name servers of commands in an isolated network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bitzel_launcher::is_unreachable;

/// Address that stands for this machine's first IPv4 name server: one that IANA reserves for protocols and has not
/// assigned.
const FORWARD_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 53));
/// Address that stands for this machine's first IPv6 name server: one for documentation.
const FORWARD_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53));

/// The name servers of commands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NameServers {
    /// Content of `/etc/resolv.conf`, see resolv.conf(5).
    pub(super) file: String,
    forward_v4: bool,
    forward_v6: bool,
}

impl NameServers {
    /// Name servers on a machine with this `/etc/resolv.conf`. One that commands cannot reach, such as that of
    /// systemd-resolved at 127.0.0.53, is replaced by an address that pasta forwards.
    pub(super) fn of_host(resolv_conf: &str) -> Self {
        let (mut forward_v4, mut forward_v6) = (false, false);
        let mut file = String::new();
        for line in resolv_conf.lines() {
            let mut words = line.split_whitespace();
            let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else {
                file.extend([line, "\n"]);
                continue;
            };
            // A scope (`fe80::1%eth0`) names an interface that the isolated network does not have.
            let (address, scope) = address.split_once('%').unwrap_or((address, ""));
            let Ok(address) = address.parse::<IpAddr>() else {
                continue;
            };
            if scope.is_empty() && !is_unreachable(address) {
                file.push_str(&format!("nameserver {address}\n"));
                continue;
            }
            let (forward, is_used) = match address {
                IpAddr::V4(_) => (FORWARD_V4, &mut forward_v4),
                IpAddr::V6(_) => (FORWARD_V6, &mut forward_v6),
            };
            if !std::mem::replace(is_used, true) {
                file.push_str(&format!("nameserver {forward}\n"));
            }
        }
        Self {
            file,
            forward_v4,
            forward_v6,
        }
    }

    /// Addresses that are forwarded to name servers of this machine.
    pub(super) fn forwards(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.forward_v4.then_some(FORWARD_V4);
        v4.into_iter().chain(self.forward_v6.then_some(FORWARD_V6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_the_machine_itself_are_forwarded() {
        let resolved =
            "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.org\n";
        let servers = NameServers::of_host(resolved);
        assert_eq!(
            servers.file,
            "# by systemd-resolved\nnameserver 192.0.0.53\noptions edns0 trust-ad\nsearch example.org\n"
        );
        assert_eq!(servers.forwards().collect::<Vec<_>>(), [FORWARD_V4]);
        let several =
            "nameserver 169.254.169.253\nnameserver\t10.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\n";
        let servers = NameServers::of_host(several);
        assert_eq!(
            servers.file,
            "nameserver 192.0.0.53\nnameserver 10.0.0.1\nnameserver 2001:db8::53\n"
        );
        assert_eq!(servers.forwards().collect::<Vec<_>>(), [FORWARD_V4, FORWARD_V6]);
    }

    #[test]
    fn other_name_servers_stay() {
        let text = "nameserver 10.0.0.1\nnameserver 2001:4860:4860::8888\n";
        let servers = NameServers::of_host(text);
        assert_eq!((servers.file.as_str(), servers.forwards().count()), (text, 0));
    }
}
