//! What the user says of a load and of where it goes, checked before anything is opened.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use linegate_protocol::PublicKey;
use serde::Serialize;

use super::port::Io;
use super::traffic::{Direction, Popularity, Sizes};
use crate::testbed::{self, Testbed};

/// Peers at most.
pub(crate) const PEERS_MAX: usize = 100_000;
/// Flows at most, of all peers together.
const FLOWS_MAX: usize = 1 << 20;
/// Packets of a trial at most: their book takes a bit each.
const PACKETS_MAX: f64 = 4e9;

/// Where probes arrive on the plaintext side.
const LAN_PORT: u16 = 7070;

/// Where the load goes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// The device under test: its UDP address and port.
    #[arg(long, required_unless_present = "dut", conflicts_with = "dut")]
    pub(crate) target: Option<SocketAddr>,
    /// The device's public key, in base64.
    #[arg(long, required_unless_present_any = ["plain", "dut"])]
    pub(crate) public_key: Option<Base64Key>,
    /// Send the probes themselves instead of sealing them: for a device that only forwards.
    #[arg(long)]
    pub(crate) plain: bool,
    /// The interface that leads to the device.
    #[arg(long, default_value = "eth0")]
    pub(crate) interface: String,
    /// The network namespace (of `ip netns`) of the simulated peers.
    #[arg(long)]
    pub(crate) netns: Option<String>,
    /// The first of as many outer addresses as there are peers; without it all have this host's. They must be local
    /// (`ip route add local 172.16.0.0/12 dev lo`), and the device must have a route back.
    #[arg(long)]
    pub(crate) outer: Option<Ipv4Addr>,
    /// The address of the host behind the device, on which plaintext is received and sent.
    #[arg(long)]
    pub(crate) lan_address: Option<IpAddr>,
    /// Its interface.
    #[arg(long, default_value = "eth0")]
    pub(crate) lan_interface: String,
    /// Its network namespace.
    #[arg(long)]
    pub(crate) lan_netns: Option<String>,
    /// The device's address there.
    #[arg(long)]
    pub(crate) lan_gateway: Option<IpAddr>,
    /// UDP port of probes on the plaintext side.
    #[arg(long, default_value_t = LAN_PORT)]
    pub(crate) lan_port: u16,
    /// How sealed packets leave and arrive.
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub(crate) io: Io,
    /// How plain packets leave; they always arrive by UDP socket.
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub(crate) lan_io: Io,
    /// linegate's status socket, for its drop counters.
    #[arg(long)]
    pub(crate) status: Option<PathBuf>,
}

/// What the load is.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub(crate) struct Shape {
    /// Simulated peers.
    #[arg(long, default_value_t = 100)]
    pub(crate) peers: usize,
    /// Flows of each peer.
    #[arg(long, default_value_t = 1)]
    pub(crate) flows: usize,
    /// Which way packets go.
    #[arg(long, value_enum, default_value_t = Direction::BranchToHub)]
    pub(crate) direction: Direction,
    /// Bytes of inner packets: one size, a list like 64,576,1420, or imix.
    #[arg(long, default_value = "64")]
    pub(crate) size: Sizes,
    /// How often flows have their turn: uniform, zipf or zipf:EXPONENT.
    #[arg(long, default_value = "uniform")]
    pub(crate) popularity: Popularity,
    /// Milliseconds that packets may take after the last one was sent.
    #[arg(long, default_value_t = 500)]
    pub(crate) drain_ms: u64,
    /// How late the last packet may leave, as a share of the duration and beside 10 ms, before it counts as not sent.
    #[arg(long, default_value_t = 0.005)]
    pub(crate) tolerance: f64,
    /// The tunnel's MTU.
    #[arg(long, default_value_t = 1420)]
    pub(crate) mtu: usize,
    /// Where the peers' keys, and all that is chosen at random, come from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// A public key as WireGuard writes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base64Key(pub(crate) PublicKey);

impl FromStr for Base64Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = BASE64_STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        let bytes = bytes.ok_or("expected 32 bytes in base64, as `wg pubkey` prints them")?;
        Ok(Self(PublicKey::from_bytes(bytes)))
    }
}

impl Shape {
    /// Whether it can be had at all.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=PEERS_MAX).contains(&self.peers), "--peers {}: expected 1 to {PEERS_MAX}", self.peers);
        let flows = self.flows.saturating_mul(self.peers);
        let most = FLOWS_MAX / self.peers;
        ensure!(
            (1..=FLOWS_MAX).contains(&flows) && self.flows <= 50_000,
            "--flows {}: expected 1 to {} for {} peers",
            self.flows,
            most.min(50_000),
            self.peers
        );
        ensure!(
            self.direction != Direction::BranchToBranch || self.peers > 1,
            "--direction branch-to-branch: one peer has nobody to talk to: expected --peers 2 or more"
        );
        ensure!((0.0..1.0).contains(&self.tolerance), "--tolerance {}: expected 0 to less than 1", self.tolerance);
        ensure!(
            self.size.max() <= self.mtu && self.mtu <= 1500,
            "--size {} does not fit --mtu {} (at most 1500)",
            self.size.max(),
            self.mtu
        );
        ensure!(self.drain_ms <= 60_000, "--drain-ms {}: expected at most 60000", self.drain_ms);
        Ok(())
    }

    /// A trial of so many packets a second.
    ///
    /// # Errors
    /// When that is no sensible rate or time.
    pub(crate) fn plan(&self, rate: f64, duration: Duration) -> anyhow::Result<super::trial::Plan> {
        let seconds = duration.as_secs_f64();
        ensure!(rate.is_finite() && (1.0..=1e9).contains(&rate), "--rate {rate}: expected 1 to 1e9 packets a second");
        ensure!((0.001..=86_400.0).contains(&seconds), "{seconds} s: expected a millisecond to a day");
        ensure!(
            rate * seconds <= PACKETS_MAX,
            "{rate} packets a second for {seconds} s are more than {PACKETS_MAX:e} packets: `linegate-bench search --soak` \
             runs for longer"
        );
        Ok(super::trial::Plan {
            direction: self.direction,
            sizes: self.size.clone(),
            popularity: self.popularity,
            flows: self.peers * self.flows,
            rate,
            duration,
            drain: Duration::from_millis(self.drain_ms),
            tolerance: self.tolerance,
            seed: self.seed,
        })
    }
}

/// What a device that we start ourselves leaves open.
impl Default for Place {
    fn default() -> Self {
        let eth0 = || "eth0".to_owned();
        Self {
            target: None,
            public_key: None,
            plain: false,
            interface: eth0(),
            netns: None,
            outer: None,
            lan_address: None,
            lan_interface: eth0(),
            lan_netns: None,
            lan_gateway: None,
            lan_port: LAN_PORT,
            io: Io::Auto,
            lan_io: Io::Auto,
            status: None,
        }
    }
}

/// The options' defaults, for commands that have none of them.
impl Default for Shape {
    fn default() -> Self {
        Self {
            peers: 100,
            flows: 1,
            direction: Direction::BranchToHub,
            size: Sizes::one(64),
            popularity: Popularity::Uniform,
            drain_ms: 500,
            tolerance: 0.005,
            mtu: 1420,
            seed: 1,
        }
    }
}

impl Place {
    /// Puts the places of a device that we started ourselves where the user named none.
    pub(crate) fn adopt(&mut self, testbed: &Testbed) {
        self.target = Some(testbed.target());
        self.public_key = Some(Base64Key(testbed.public_key));
        self.netns = Some(testbed.generator.name().to_owned());
        self.outer = Some(testbed::OUTER);
        self.lan_netns = Some(testbed.lan.name().to_owned());
        self.lan_address = Some(IpAddr::V4(testbed::LAN));
        self.lan_gateway = Some(IpAddr::V4(testbed::GATEWAY));
        self.status.clone_from(&testbed.status);
    }

    /// The plaintext side, where the direction has one.
    ///
    /// # Errors
    /// When its address is missing.
    pub(crate) fn lan(&self) -> anyhow::Result<SocketAddr> {
        let address = self.lan_address.context(
            "--lan-address: expected the address of the host behind the device, where plaintext is received and sent",
        )?;
        Ok(SocketAddr::new(address, self.lan_port))
    }
}
