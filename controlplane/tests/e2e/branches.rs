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
            format!("wg set {} peer {} allowed-ips 10.7.0.0/24,fd00:7::/64", site.their_interface, hub_key.trim());
        site.theirs.run(&allow).unwrap();
        let hub = Self { third, site };
        hub.add_third();
        for from in [&hub.site.theirs, &hub.third.host] {
            assert!(hub.site.await_ping(from, "10.7.0.1", 10));
        }
        Some(hub)
    }

    /// The third branch's peer at the hub, which its configuration file does not name.
    fn add_third(&self) {
        let (interface, key) = (&self.site.our_interface, &self.third.keys.public);
        let add = format!("wg set {interface} peer {key} allowed-ips 10.7.0.3/32,fd00:7::3/128");
        self.site.ours.run(&add).unwrap();
    }

    /// Groups and rules from now on.
    fn read_settings(&self, settings: &str) {
        std::fs::write(self.site.scratch.join("gateway.toml"), format!("{UDP}{settings}")).unwrap();
        let reads = || self.site.gateway.as_ref().unwrap().log().matches("was read again").count();
        let before = reads();
        self.site.ours.run(&format!("kill -HUP {}", self.site.gateway.as_ref().unwrap().pid())).unwrap();
        assert!(shell::wait_for(10, || reads() > before), "{}", self.site.gateway.as_ref().unwrap().log());
        self.add_third();
        assert!(self.site.await_ping(&self.third.host, "10.7.0.1", 10));
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
        self.a_routes_own_mtu_is_kept();
        site.ours.ip(&format!("link set {} mtu 1300", site.our_interface)).unwrap();
        let too_big = site.theirs.run("ping -c 1 -W 5 -M do -s 1350 10.7.0.3").unwrap_err().to_string();
        assert!(too_big.contains("From 10.7.0.1") && too_big.contains("1300"), "{too_big}");
    }

    fn a_routes_own_mtu_is_kept(&self) {
        let Self { site, third } = self;
        let way = format!("10.7.0.2/32 dev {}", site.our_interface);
        site.ours.ip(&format!("route add {way} mtu 1310")).unwrap();
        let answered = || {
            let ping = third.host.run("ping -c 1 -W 1 -M do -s 1350 10.7.0.2");
            ping.is_err_and(|error| error.to_string().contains("1310"))
        };
        assert!(shell::wait_for(10, answered));
        site.ours.ip(&format!("route del {way}")).unwrap();
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
fn groups_have_rates_and_rules_that_can_be_changed_under_traffic() {
    let settings = "io = \"udp\"\npeer_counters = true\n";
    let setup = Setup { settings, peer: Implementation::WireguardGo, ..Setup::default() };
    let Some(hub) = Hub::new(setup, Implementation::Boringtun) else { return };
    hub.forward();
    hub.await_choice("worker");
    let Hub { third, site } = &hub;
    let there = |options: &str| site.theirs.run(&format!("ping -c 1 -W 1 {options} 10.7.0.3"));
    there("").unwrap();
    let group = |name: &str, key: &str| format!("[[group]]\nname = \"{name}\"\npeers = [\"{key}\"]\n");
    let second = site.theirs.run(&format!("wg show {} public-key", site.their_interface)).unwrap();
    let groups = group("office", second.trim()) + &group("guests", &third.keys.public);
    let pings = "[[allow]]\nfrom = \"office\"\nto = \"guests\"\nprotocol = \"icmp\"\n";
    hub.read_settings(&format!("{groups}{pings}"));
    there("").unwrap();
    assert!(third.host.run("ping -c 1 -W 1 10.7.0.2").is_err(), "guests may answer, not ask");
    third.host.run("ping -c 1 -W 1 10.7.0.1").unwrap();
    assert!(site.theirs.run("ping -c 1 -W 1 fd00:7::3").is_err(), "ICMPv6 is another protocol");
    assert_eq!(site.counter("drops", "policy_denied"), 2);
    hub.read_settings(&format!("{groups}to_peer = {{ packets = 10, burst_ms = 1000 }}\n"));
    // Thirty at once, of which ten go.
    let lost = site.theirs.run("ping -c 30 -i 0.002 -W 1 -q 10.7.0.3").unwrap_or_else(|error| error.to_string());
    let limited = site.counter("drops", "to_peer_limited");
    assert!((10..=20).contains(&limited), "{limited} were dropped: {lost}");
    let status = site.status();
    let peers = status["peers"].as_array().unwrap();
    let guest = peers.iter().find(|peer| peer["public_key"] == third.keys.public.as_str()).unwrap();
    assert_eq!((guest["group"].as_str(), guest["drops"]["to_peer_limited"].as_u64()), (Some("guests"), Some(limited)));
    assert!(guest["handshakes"].as_u64().unwrap() > 0 && guest["handshake_micros"].as_u64().unwrap() > 0, "{guest}");
    let log = || site.gateway.as_ref().unwrap().log();
    std::fs::write(site.scratch.join("gateway.toml"), "[[group]]\nname = \"a b\"").unwrap();
    site.ours.run(&format!("kill -HUP {}", site.gateway.as_ref().unwrap().pid())).unwrap();
    assert!(shell::wait_for(10, || log().contains("groups and rules stay as they were")), "{}", log());
    assert_eq!(site.status()["peers"].as_array().unwrap().iter().filter(|peer| peer["group"] == "office").count(), 1);
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
