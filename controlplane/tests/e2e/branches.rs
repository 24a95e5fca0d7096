//! Two branches behind one hub: packets between them skip the host where they may, and only there.

use xtask::shell;

use crate::site::{Branch, Implementation, Setup, Site};
use crate::{UDP, XDP};

/// A site with one more branch, on a link of its own.
struct Hub {
    third: Branch,
    site: Site,
}

impl Hub {
    fn new(setup: Setup, second: Implementation) -> Option<Self> {
        let site = Site::new(setup)?;
        let third = Branch::new(&site, 3, second, None)?;
        let hub_key = site.ours.run(&format!("wg show {} public-key", site.our_interface)).unwrap();
        let allow =
            |name: &str, key: &str, prefixes: &str| format!("wg set {name} peer {} allowed-ips {prefixes}", key.trim());
        site.ours.run(&allow(&site.our_interface, &third.keys.public, "10.7.0.3/32,fd00:7::3/128")).unwrap();
        site.theirs.run(&allow(&site.their_interface, &hub_key, "10.7.0.0/24,fd00:7::/64")).unwrap();
        for from in [&site.theirs, &third.host] {
            assert!(site.await_ping(from, "10.7.0.1", 10));
        }
        Some(Self { third, site })
    }

    /// Waits until branch-to-branch packets are moved by `whom`; gives the reason.
    fn await_choice(&self, whom: &str) -> String {
        let chosen = || self.site.status()["hairpin"]["chosen"] == whom;
        assert!(shell::wait_for(10, chosen), "{}", self.site.status()["hairpin"]);
        self.site.status()["hairpin"]["reason"].as_str().unwrap().to_owned()
    }

    fn forward(&self) {
        self.site.ours.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1").unwrap();
    }

    fn hairpinned(&self) -> u64 {
        self.site.counter("counters", "hairpinned")
    }

    fn talk(&self) {
        let (third, site) = (&self.third.host, &self.site);
        site.ping_sizes(&site.theirs, "10.7.0.3", [0, 1, 3, 4, 5, 20, 100, 1391, 1392].into_iter());
        site.ping_sizes(third, "fd00:7::2", [0, 8, 1372].into_iter());
        site.transfer(&site.theirs, third, "10.7.0.3", 20, "there");
        site.transfer(third, &site.theirs, "fd00:7::2", 20, "back");
    }

    /// Packets skip the host once it forwards, and what only the host can answer is answered by the host.
    fn packets_skip_the_host(&self) {
        assert!(self.await_choice("kernel").contains("does not forward"));
        let Self { site, .. } = self;
        assert!(site.theirs.run("ping -c 1 -W 1 10.7.0.3").is_err(), "the host does not forward");
        assert_eq!(self.hairpinned(), 0);
        self.forward();
        self.await_choice("worker");
        self.talk();
        assert!(self.hairpinned() > 20_000, "both transfers");
        let last_hop = site.theirs.run("ping -c 1 -W 5 -t 1 10.7.0.3").unwrap_err().to_string();
        assert!(last_hop.contains("From 10.7.0.1") && last_hop.contains("Time to live exceeded"), "{last_hop}");
        site.ours.ip(&format!("link set {} mtu 1300", site.our_interface)).unwrap();
        let too_big = site.theirs.run("ping -c 1 -W 5 -M do -s 1350 10.7.0.3").unwrap_err().to_string();
        assert!(too_big.contains("From 10.7.0.1") && too_big.contains("1300"), "{too_big}");
    }
}

#[test]
fn packets_between_wireguard_go_and_boringtun_skip_the_host() {
    let setup = Setup { peer: Implementation::WireguardGo, settings: UDP, ..Setup::default() };
    let Some(hub) = Hub::new(setup, Implementation::Boringtun) else { return };
    hub.packets_skip_the_host();
}

#[test]
fn packets_between_branches_skip_the_host_on_xdp() {
    let Some(hub) = Hub::new(Setup { settings: XDP, ..Setup::default() }, Implementation::Linegate) else { return };
    hub.packets_skip_the_host();
}

#[test]
fn a_host_with_rules_of_its_own_gets_all_packets() {
    let Some(hub) = Hub::new(Setup { settings: UDP, ..Setup::default() }, Implementation::Linegate) else { return };
    hub.forward();
    hub.await_choice("worker");
    hub.site.ping_sizes(&hub.site.theirs, "10.7.0.3", [56].into_iter());
    let before = hub.hairpinned();
    assert!(before > 0);
    hub.site.ours.ip("rule add from 10.7.0.3 lookup main priority 100").unwrap();
    assert!(hub.await_choice("kernel").contains("ip rule"));
    hub.site.ping_sizes(&hub.site.theirs, "10.7.0.3", [56].into_iter());
    assert_eq!(hub.hairpinned(), before, "and it forwards them");
}

#[test]
fn with_hairpin_kernel_the_hosts_rules_see_all_packets() {
    const KERNEL: &str = "io = \"udp\"\nhairpin = \"kernel\"\n";
    let Some(hub) = Hub::new(Setup { settings: KERNEL, ..Setup::default() }, Implementation::Linegate) else { return };
    hub.forward();
    assert_eq!(hub.await_choice("kernel"), "asked for");
    hub.site.ping_sizes(&hub.site.theirs, "10.7.0.3", [56].into_iter());
    hub.site.ours.ip("route add blackhole 10.7.0.3/32").unwrap();
    assert!(hub.site.theirs.run("ping -c 1 -W 1 10.7.0.3").is_err());
    assert_eq!(hub.hairpinned(), 0);
}
