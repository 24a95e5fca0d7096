//! Peers come, go, change their keys and move between allowed IPs at random, under traffic: no packet reaches a branch,
//! or leaves with a source, that is another's at that time; nothing panics, and memory returns.
//!
//! `LINEGATE_CHURN_BRANCHES`, `LINEGATE_CHURN_SECONDS` (of each of three rounds) and `LINEGATE_CHURN_SEED` make it larger.

mod branch;
mod checks;
mod ownership;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use linegate_dataplane::clock::Clock;
use linegate_protocol::PublicKey;
use linegate_wire::time::Instant;
use linegate_wire::udp::{ETHERNET_HEADER_BYTES, UnderlayHeaders, headers_len, write_underlay_headers};
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng};
use xtask::netns::Namespace;
use xtask::shell;

use crate::site::{PORT, Setup, Site};
use crate::{UDP, XDP};
use branch::Branch;
use ownership::{GRACE, Ownership, Prefix};

/// The port of all inner packets.
const INNER_PORT: u16 = 7100;
/// The hub's own addresses in the tunnel.
const HUB_ADDRESSES: [&str; 2] = ["10.7.0.1", "fd00:7::1"];
/// Packets that are sent at once.
const BURST: usize = 32;
const BURST_EVERY: Duration = Duration::from_millis(4);
/// Between two changes.
const CHANGE_EVERY: Duration = Duration::from_millis(20);
/// Addresses for each branch.
const ADDRESSES_EACH: usize = 4;
/// Those that were removed and go on trying, at least.
const REMOVED_MIN: usize = 16;
const ROUNDS: usize = 3;
/// Peers that are added and removed in each round without ever coming.
const IDLE_PEERS: usize = 2000;
/// What a peer that came and went may leave behind, a quarter of what one takes.
const LEFT_BYTES_MAX: usize = 1024;
/// In front of a packet's number.
const MARK: [u8; 8] = *b"linegate";
const HEAD_BYTES: usize = 16;

/// A packet that was sent.
struct Sent {
    /// The branch; without one the hub's host.
    from: Option<usize>,
    source: IpAddr,
    destination: IpAddr,
    at: Instant,
    len: usize,
    delivered: bool,
}

/// Where packets went, so that the test cannot pass without them.
#[derive(Debug, Default)]
struct Tally {
    branch_to_branch: u64,
    branch_to_host: u64,
    host_to_branch: u64,
    errors: u64,
    changes: u64,
    created: usize,
}

struct Churn {
    site: Site,
    hub_key: PublicKey,
    rng: StdRng,
    /// All that ever were; those whom the hub knew last go on trying.
    branches: Vec<Branch>,
    live: Vec<usize>,
    /// Since when the hub does not know them.
    removed: Vec<(usize, Instant)>,
    ownership: Ownership,
    host: [UdpSocket; 2],
    sent: Vec<Sent>,
    tally: Tally,
    begun: Instant,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// A socket in a namespace, where it stays.
fn socket(namespace: &Namespace, address: SocketAddr) -> UdpSocket {
    let open = || {
        let file = std::fs::File::open(format!("/run/netns/{}", namespace.name())).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        UdpSocket::bind(address).unwrap()
    };
    let socket = std::thread::scope(|scope| scope.spawn(open).join().unwrap());
    socket.set_nonblocking(true).unwrap();
    socket
}

/// What the packet of this number carries behind its head.
fn filler(number: usize, len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(move |at| (number.wrapping_mul(31) + at).to_le_bytes()[0])
}

impl Churn {
    fn new(settings: &'static str, branches: usize, seed: u64) -> Self {
        let site = Site::new(Setup { settings, queues: 2, ..Setup::default() }).unwrap();
        assert!(site.await_ping(&site.theirs, "10.7.0.1", 10));
        let interface = &site.our_interface;
        site.ours.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1").unwrap();
        site.ours.ip(&format!("route add 10.60.0.0/16 dev {interface}")).unwrap();
        site.ours.ip(&format!("route add fd00:60::/32 dev {interface}")).unwrap();
        // Each branch has an address of its own, so that nobody's limits are shared.
        site.theirs.ip("route add local 172.16.0.0/12 dev lo").unwrap();
        site.ours.ip("route add 172.16.0.0/12 via 192.0.2.2").unwrap();
        let chosen = || site.status()["hairpin"]["chosen"] == "worker";
        assert!(shell::wait_for(10, chosen), "{}", site.status()["hairpin"]);
        let key = site.ours.run(&format!("wg show {interface} public-key")).unwrap();
        let key: [u8; 32] = BASE64_STANDARD.decode(key.trim()).unwrap().try_into().unwrap();
        let host = HUB_ADDRESSES.map(|ip| socket(&site.ours, SocketAddr::new(ip.parse().unwrap(), INNER_PORT)));
        Self {
            site,
            hub_key: PublicKey::from_bytes(key),
            rng: StdRng::seed_from_u64(seed),
            branches: Vec::new(),
            live: Vec::new(),
            removed: Vec::new(),
            ownership: Ownership::new(branches * ADDRESSES_EACH),
            host,
            sent: Vec::new(),
            tally: Tally::default(),
            begun: Clock.now(),
        }
    }

    /// Tells the hub, over the user-space interface, and notes who has which prefix now.
    fn tell(&mut self, lines: &str, changes: &[(Prefix, Option<usize>)]) {
        let begun = Clock.now();
        let mut stream = UnixStream::connect(format!("/var/run/wireguard/{}.sock", self.site.our_interface)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(format!("set=1\n{lines}\n").as_bytes()).unwrap();
        let mut answer = [0; 64];
        let len = stream.read(&mut answer).unwrap();
        assert_eq!(&answer[..len], b"errno=0\n\n", "{lines}");
        self.ownership.change(changes, begun, Clock.now());
        self.tally.changes += 1;
    }

    fn branch_socket(&mut self, branch: usize) -> UdpSocket {
        let place = u32::try_from(branch % 65_000).unwrap() + 1 + 65_536 * self.rng.random_range(0..8);
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + place);
        socket(&self.site.theirs, SocketAddr::new(address.into(), 0))
    }

    /// A branch with a new key, whom the hub does not know yet.
    fn create(&mut self) -> usize {
        let branch = self.branches.len();
        let socket = self.branch_socket(branch);
        let hub = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), PORT);
        self.branches.push(Branch::new(self.hub_key, hub, socket, &mut self.rng));
        self.tally.created += 1;
        branch
    }

    fn random_prefix(&mut self) -> Prefix {
        match self.rng.random_range(0..4) {
            0 => Prefix::Block(self.rng.random_range(0..self.ownership.blocks())),
            _ => Prefix::Address(self.rng.random_range(0..self.ownership.len())),
        }
    }

    fn some_prefixes(&mut self) -> Vec<Prefix> {
        (0..self.rng.random_range(1..4)).map(|_| self.random_prefix()).collect()
    }

    /// The lines that give a branch prefixes, and what they change.
    fn give(&self, branch: usize, prefixes: &[Prefix]) -> (String, Vec<(Prefix, Option<usize>)>) {
        let mut lines = format!("public_key={}\n", self.branches[branch].key);
        for &prefix in prefixes {
            let _ = writeln!(lines, "allowed_ip={}", Ownership::text(prefix));
        }
        (lines, prefixes.iter().map(|&prefix| (prefix, Some(branch))).collect())
    }

    /// The lines that remove a branch, and what they change.
    fn take(&self, branch: usize) -> (String, Vec<(Prefix, Option<usize>)>) {
        let lines = format!("public_key={}\nremove=true\n", self.branches[branch].key);
        (lines, self.ownership.prefixes_of(branch).into_iter().map(|prefix| (prefix, None)).collect())
    }

    fn add(&mut self, branch: usize) {
        let prefixes = self.some_prefixes();
        let (mut lines, changes) = self.give(branch, &prefixes);
        let _ = writeln!(lines, "preshared_key={}", hex::encode(self.branches[branch].preshared_key));
        self.removed.retain(|(removed, _)| *removed != branch);
        self.tell(&lines, &changes);
        self.live.push(branch);
        self.branches[branch].wants_session = true;
    }

    fn pick(&mut self) -> usize {
        let at = self.rng.random_range(0..self.live.len());
        self.live[at]
    }

    /// One change of the hub's configuration, or of a branch.
    fn change(&mut self, branches: usize) {
        if self.live.len() < branches / 2 {
            let branch = self.create();
            return self.add(branch);
        }
        let branch = self.pick();
        match self.rng.random_range(0..12) {
            0 if self.live.len() < branches => {
                let branch = self.create();
                self.add(branch);
            }
            // One that is gone comes back, with its old key.
            1 if self.live.len() < branches && !self.removed.is_empty() => {
                let at = self.rng.random_range(0..self.removed.len());
                self.add(self.removed[at].0);
            }
            2 => {
                let (lines, changes) = self.take(branch);
                self.tell(&lines, &changes);
                self.gone(branch);
            }
            // A new key for the same prefixes, in one request.
            3 => {
                let new = self.create();
                let (mut lines, mut changes) = self.take(branch);
                let (more, given) = self.give(new, &self.ownership.prefixes_of(branch));
                lines += &more;
                changes.extend(given);
                self.tell(&lines, &changes);
                self.gone(branch);
                self.live.push(new);
            }
            4 => {
                let mut key = [0; 32];
                self.rng.fill_bytes(&mut key);
                let lines = format!("public_key={}\npreshared_key={}\n", self.branches[branch].key, hex::encode(key));
                self.tell(&lines, &[]);
                self.branches[branch].set_preshared_key(key);
            }
            5 => {
                let socket = self.branch_socket(branch);
                self.branches[branch].roam(socket);
            }
            6 | 7 => {
                let prefixes = self.some_prefixes();
                let (given, added) = self.give(branch, &prefixes);
                let lines = given.replacen('\n', "\nreplace_allowed_ips=true\n", 1);
                let (_, mut changes) = self.take(branch);
                // What stays is never taken away in between.
                changes.retain(|(prefix, _)| !prefixes.contains(prefix));
                changes.extend(added);
                self.tell(&lines, &changes);
            }
            _ => {
                let prefix = self.random_prefix();
                let (lines, changes) = self.give(branch, &[prefix]);
                self.tell(&lines, &changes);
            }
        }
    }

    fn gone(&mut self, branch: usize) {
        self.live.retain(|live| *live != branch);
        self.removed.push((branch, Clock.now()));
        let many = self.removed.len().saturating_sub(self.live.len().max(REMOVED_MIN));
        for (branch, _) in self.removed.drain(..many) {
            self.branches[branch].leave();
        }
    }

    /// Those who still send: all that live, and those that went last.
    fn actors(&self) -> Vec<usize> {
        self.live.iter().copied().chain(self.removed.iter().map(|(branch, _)| *branch)).collect()
    }

    /// Sends a packet between two addresses, of which one may be the host's.
    fn send(&mut self, from: Option<usize>, source: IpAddr, destination: IpAddr) -> Option<usize> {
        let len = HEAD_BYTES + self.rng.random_range(0..1200);
        let number = self.sent.len();
        let (source_at, destination_at) =
            (SocketAddr::new(source, INNER_PORT), SocketAddr::new(destination, INNER_PORT));
        let front = headers_len(destination);
        let mut frame = vec![0; front];
        frame.extend(MARK);
        frame.extend(number.to_le_bytes());
        frame.extend(filler(number, len - HEAD_BYTES));
        let at = Clock.now();
        let gone = match from {
            Some(branch) => {
                let (macs, class) = ([0; 6], 0);
                let (source, destination) = (source_at, destination_at);
                let headers = UnderlayHeaders {
                    source_mac: macs,
                    destination_mac: macs,
                    source,
                    destination,
                    traffic_class: class,
                };
                write_underlay_headers(&mut frame, &headers).unwrap();
                self.branches[branch].send(&frame[ETHERNET_HEADER_BYTES..])
            }
            // The host may know by now that the address is nobody's.
            None => self.host[usize::from(source.is_ipv6())].send_to(&frame[front..], destination_at).is_ok(),
        };
        self.sent.push(Sent { from, source, destination, at, len, delivered: false });
        gone.then_some(number)
    }

    fn random_packet(&mut self, actors: &[usize]) {
        let address = |at: usize| (Ownership::ip(at), self.ownership.owner(at));
        let count = self.ownership.len();
        let (source, owner) = address(self.rng.random_range(0..count));
        let other = (0..16)
            .map(|_| self.rng.random_range(0..count))
            .find(|at| Ownership::ip(*at).is_ipv4() == source.is_ipv4());
        let Some((other, _)) = other.map(address) else { return };
        let host: IpAddr = HUB_ADDRESSES[usize::from(source.is_ipv6())].parse().unwrap();
        // Some lie about their source, or have not heard yet that it is another's.
        let liar = actors[self.rng.random_range(0..actors.len())];
        let from = owner.filter(|_| self.rng.random_range(0..5) > 0).unwrap_or(liar);
        match self.rng.random_range(0..4) {
            0 => self.send(None, host, other),
            1 => self.send(Some(from), source, host),
            _ => self.send(Some(from), source, other),
        };
    }

    /// Random changes under traffic.
    fn storm(&mut self, branches: usize, duration: Duration) {
        let end = Clock.now() + duration;
        let (mut next_change, mut next_burst) = (Clock.now(), Clock.now());
        while Clock.now() < end {
            if Clock.now() >= next_change {
                self.change(branches);
                next_change = Clock.now() + CHANGE_EVERY;
            }
            let actors = self.actors();
            if Clock.now() >= next_burst {
                (0..BURST).for_each(|_| self.random_packet(&actors));
                next_burst = Clock.now() + BURST_EVERY;
            }
            std::thread::yield_now();
            self.receive(&actors);
            self.check_removed();
        }
    }

    /// Without further changes every address that has an owner is reached, from another branch.
    fn settle(&mut self) {
        let mut waiting: BTreeSet<usize> =
            (0..self.ownership.len()).filter(|at| self.ownership.owner(*at).is_some()).collect();
        let owned: Vec<usize> = waiting.iter().copied().collect();
        let settled = Clock.now() + GRACE;
        let done = shell::wait_for(90, || {
            let actors = self.actors();
            let mut arrived = self.receive(&actors);
            for &to in waiting.iter().filter(|_| Clock.now() >= settled) {
                let from = owned[self.rng.random_range(0..owned.len())];
                if Ownership::is_v4(from) == Ownership::is_v4(to) {
                    self.send(self.ownership.owner(from), Ownership::ip(from), Ownership::ip(to));
                }
            }
            arrived.extend(self.receive(&actors));
            for number in arrived {
                let Sent { at, destination, from, .. } = self.sent[number];
                if at >= settled && from.is_some() {
                    waiting.remove(&self.ownership.number(destination).unwrap());
                }
            }
            waiting.is_empty()
        });
        assert!(done, "addresses {waiting:?} are not reached: {}", self.site.status());
        self.check_removed();
        self.site.ping_sizes(&self.site.theirs, "10.7.0.1", [56].into_iter());
    }

    /// Removes everybody, after many more who never came; gives the gateway's memory.
    fn clear(&mut self) -> usize {
        let mut keys: Vec<String> = Vec::new();
        let mut lines = String::new();
        for number in 0..IDLE_PEERS {
            let mut key = [0; 32];
            self.rng.fill_bytes(&mut key);
            let _ = write!(
                lines,
                "public_key={}\nallowed_ip=10.61.{}.{}/32\n",
                hex::encode(key),
                number / 256,
                number % 256
            );
            keys.push(hex::encode(key));
        }
        self.tell(&lines, &[]);
        assert_eq!(self.peers(), 1 + self.live.len() + IDLE_PEERS);
        keys.extend(self.live.iter().map(|branch| self.branches[*branch].key.clone()));
        let changes: Vec<_> = self
            .live
            .iter()
            .flat_map(|branch| self.ownership.prefixes_of(*branch))
            .map(|prefix| (prefix, None))
            .collect();
        let lines: String = keys.iter().map(|key| format!("public_key={key}\nremove=true\n")).collect();
        self.tell(&lines, &changes);
        for branch in self.live.clone() {
            self.gone(branch);
        }
        self.tally.created += IDLE_PEERS;
        assert_eq!(self.peers(), 1);
        self.memory()
    }

    fn peers(&self) -> usize {
        self.site.status()["peers"].as_array().unwrap().len()
    }

    /// The gateway's resident bytes.
    fn memory(&self) -> usize {
        let pid = self.site.gateway.as_ref().unwrap().pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }
}

#[expect(clippy::print_stderr, reason = "a failure is repeated by its seed")]
fn churn(settings: &'static str) {
    let branches = usize::try_from(number("LINEGATE_CHURN_BRANCHES", 48)).unwrap();
    let seconds = number("LINEGATE_CHURN_SECONDS", 8);
    let seed = number("LINEGATE_CHURN_SEED", 7);
    // Each branch has a socket.
    let (_, sockets) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, sockets, sockets).unwrap();
    let mut churn = Churn::new(settings, branches, seed);
    let mut first = None;
    for _ in 0..ROUNDS {
        churn.storm(branches, Duration::from_secs(seconds));
        churn.settle();
        let memory = churn.clear();
        first.get_or_insert((memory, churn.tally.created));
    }
    let (memory, created) = first.unwrap();
    let allowed = memory + (churn.tally.created - created) * LEFT_BYTES_MAX;
    assert!(shell::wait_for(10, || churn.memory() <= allowed), "{} bytes, from {memory}", churn.memory());
    let Tally { branch_to_branch, branch_to_host, host_to_branch, .. } = churn.tally;
    eprintln!("seed {seed}, {} sent, {:?}, memory {memory} then {}", churn.sent.len(), churn.tally, churn.memory());
    assert!(branch_to_branch.min(branch_to_host).min(host_to_branch) > 1000, "{:?}", churn.tally);
    assert!(churn.site.counter("counters", "hairpinned") > 1000, "{}", churn.site.status());
    assert!(churn.site.counter("drops", "source_not_allowed") > 100, "{}", churn.site.status());
    let gateway = churn.site.gateway.as_mut().unwrap();
    assert!(!gateway.has_ended() && !gateway.log().contains("panicked"), "{}", gateway.log());
}

#[test]
fn peers_change_at_random_under_traffic_on_udp() {
    churn(UDP);
}

#[test]
fn peers_change_at_random_under_traffic_on_xdp() {
    churn(XDP);
}
