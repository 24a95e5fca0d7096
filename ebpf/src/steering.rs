//! Loading, attaching and talking to the program.
#![expect(unsafe_code, reason = "map values must be declared plain old data")]

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, include_bytes_aligned};

use crate::verdict::Verdict;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

const PROGRAM: &str = "linegate_steer";
/// Set beside an index to tell index 0 from none; as in the program.
const LIVE: u64 = 1 << 32;
const SLOT_MASK: u32 = (1 << 20) - 1;

/// How the program is to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeChoice {
    /// In the driver where it can, else generic.
    Auto,
    /// In the driver.
    Native,
    /// Behind the driver.
    Generic,
}

/// How it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// Behind the driver.
    Generic,
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// What the program needs to know.
#[derive(Debug, Clone, Copy)]
pub struct SteeringConfig {
    /// Our UDP port.
    pub port: u16,
    /// Take any destination address for ours.
    pub any_address: bool,
    /// Receive queues of the interface; more than 256 are not served.
    pub queues: u32,
}

/// As `struct config` of the program.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawConfig {
    port: u32,
    any_address: u32,
    under_load: u32,
}

// SAFETY: three plain words without padding.
unsafe impl aya::Pod for RawConfig {}

/// Why the program is not at work.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process may not.
    #[error("loading a BPF program needs CAP_BPF and CAP_NET_ADMIN ({0})")]
    NotPermitted(String),
    /// Another program is there.
    #[error(
        "{interface} has an XDP program already: detach it first (ip link show {interface}; ip link set {interface} xdp off)"
    )]
    Occupied {
        /// The interface.
        interface: String,
    },
    /// The driver does not take it.
    #[error(
        "{interface} takes no XDP program in {mode} mode: {reason} (a large MTU is one cause: veth takes up to about 3498)"
    )]
    Refused {
        /// The interface.
        interface: String,
        /// The mode.
        mode: AttachMode,
        /// What the kernel said.
        reason: String,
    },
    /// The object and this loader do not fit, which is a fault of the build.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    /// A map operation failed.
    #[error("BPF map {map}: {reason}")]
    Map {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// Anything else.
    #[error("loading the BPF program: {0}")]
    Load(String),
}

/// Why an interface could not be asked.
pub type ProbeError = LoadError;

/// The program and its maps. See the crate's description.
pub struct Steering {
    ebpf: Ebpf,
    config: RawConfig,
    /// Dropping it detaches the program; the kernel drops it with the process.
    link: Option<FdLink>,
    addresses: Vec<[u8; 16]>,
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering").field("port", &self.config.port).finish_non_exhaustive()
    }
}

fn map_failed(map: &'static str) -> impl Fn(MapError) -> LoadError {
    move |error| LoadError::Map { map, reason: chain(&error) }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn is_permission(text: &str) -> bool {
    text.contains("os error 1)") || text.contains("os error 13)")
}

impl Steering {
    /// Loads the program; it is not attached yet.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(config: &SteeringConfig) -> Result<Self, LoadError> {
        let wrong = |text: String| {
            if is_permission(&text) { LoadError::NotPermitted(text) } else { LoadError::Load(text) }
        };
        let mut ebpf = Ebpf::load(OBJECT).map_err(|error: EbpfError| wrong(chain(&error)))?;
        let program: &mut Xdp = program(&mut ebpf)?;
        program.load().map_err(|error| wrong(chain(&error)))?;
        let config = RawConfig { port: config.port.into(), any_address: config.any_address.into(), under_load: 0 };
        let mut steering = Self { ebpf, config, link: None, addresses: Vec::new() };
        steering.write_config()?;
        Ok(steering)
    }

    /// Attaches the program to an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach(&mut self, ifindex: u32, interface: &str, choice: ModeChoice) -> Result<AttachMode, LoadError> {
        let mode = match choice {
            ModeChoice::Native => self.attach_as(ifindex, interface, AttachMode::Native)?,
            ModeChoice::Generic => self.attach_as(ifindex, interface, AttachMode::Generic)?,
            ModeChoice::Auto => match self.attach_as(ifindex, interface, AttachMode::Native) {
                Err(error @ LoadError::Refused { .. }) => {
                    tracing::warn!(%error, "generic mode instead, which is slower");
                    self.attach_as(ifindex, interface, AttachMode::Generic)?
                }
                other => other?,
            },
        };
        tracing::info!(interface, %mode, "XDP program attached");
        Ok(mode)
    }

    fn attach_as(&mut self, ifindex: u32, interface: &str, mode: AttachMode) -> Result<AttachMode, LoadError> {
        let flags = match mode {
            AttachMode::Native => XdpMode::Driver,
            AttachMode::Generic => XdpMode::Skb,
        };
        let link = program(&mut self.ebpf)?.attach_to_if_index(ifindex, flags).map_err(|error: ProgramError| {
            let (interface, reason) = (interface.to_owned(), chain(&error));
            match &reason {
                text if is_permission(text) => LoadError::NotPermitted(reason),
                text if text.contains("os error 16)") || text.contains("os error 17)") => {
                    LoadError::Occupied { interface }
                }
                _ => LoadError::Refused { interface, mode, reason },
            }
        })?;
        // On kernels without links for XDP, aya attaches by netlink, which would outlive us: refused.
        let link = program(&mut self.ebpf)?.take_link(link).map_err(|error| LoadError::Load(chain(&error)))?;
        let link = FdLink::try_from(link).map_err(|_| LoadError::Refused {
            interface: interface.to_owned(),
            mode,
            reason: "this kernel has no BPF links for XDP (Linux 5.9 has)".to_owned(),
        })?;
        self.link = Some(link);
        Ok(mode)
    }

    /// Takes the program off its interface.
    pub fn detach(&mut self) {
        self.link = None;
    }

    /// Gives a queue's packets to this AF_XDP socket.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn set_socket(&mut self, queue: u32, socket: RawFd) -> Result<(), LoadError> {
        let mut map: XskMap<&mut MapData> =
            XskMap::try_from(self.map_mut("SOCKETS")?).map_err(map_failed("SOCKETS"))?;
        map.set(queue, Fd(socket), 0).map_err(map_failed("SOCKETS"))
    }

    /// Changes our UDP port.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn set_port(&mut self, port: u16) -> Result<(), LoadError> {
        self.config.port = port.into();
        self.write_config()
    }

    /// Whether sources are limited in their handshakes.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn set_under_load(&mut self, under_load: bool) -> Result<(), LoadError> {
        self.config.under_load = under_load.into();
        self.write_config()
    }

    /// Sets which destination addresses are ours; IPv6 link-local ones among them.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), LoadError> {
        let mut wanted: Vec<[u8; 16]> = addresses
            .iter()
            .map(|address| match address {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            })
            .collect();
        // One address may stand on an interface with two prefix lengths.
        wanted.sort_unstable();
        wanted.dedup();
        let before = std::mem::take(&mut self.addresses);
        let mut present = before.clone();
        let result = self.write_addresses(&wanted, &before, &mut present);
        // Also after a failure half way, the book says what is in the map.
        self.addresses = present;
        result
    }

    fn write_addresses(
        &mut self,
        wanted: &[[u8; 16]],
        before: &[[u8; 16]],
        present: &mut Vec<[u8; 16]>,
    ) -> Result<(), LoadError> {
        let mut map: HashMap<&mut MapData, [u8; 16], u8> =
            HashMap::try_from(self.map_mut("ADDRESSES")?).map_err(map_failed("ADDRESSES"))?;
        for address in before.iter().filter(|old| !wanted.contains(old)) {
            map.remove(address).map_err(map_failed("ADDRESSES"))?;
            present.retain(|other| other != address);
        }
        for address in wanted.iter().filter(|new| !before.contains(new)) {
            map.insert(address, 1, 0).map_err(map_failed("ADDRESSES"))?;
            present.push(*address);
        }
        Ok(())
    }

    /// Transport data for this index is ours.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn add_receiver(&mut self, index: u32) -> Result<(), LoadError> {
        self.write_receiver(index, LIVE | u64::from(index))
    }

    /// It is no more.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn remove_receiver(&mut self, index: u32) -> Result<(), LoadError> {
        self.write_receiver(index, 0)
    }

    fn write_receiver(&mut self, index: u32, value: u64) -> Result<(), LoadError> {
        let mut map: Array<&mut MapData, u64> =
            Array::try_from(self.map_mut("RECEIVERS")?).map_err(map_failed("RECEIVERS"))?;
        map.set(index & SLOT_MASK, value, 0).map_err(map_failed("RECEIVERS"))
    }

    /// How many frames met which verdict, over all CPUs.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn counters(&self) -> Result<Vec<(String, u64)>, LoadError> {
        let map = self.ebpf.map("COUNTERS").ok_or(LoadError::Missing("COUNTERS"))?;
        let map: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map).map_err(map_failed("COUNTERS"))?;
        Verdict::ALL
            .iter()
            .zip(0..)
            .map(|(verdict, index)| {
                let counts = map.get(&index, 0).map_err(map_failed("COUNTERS"))?;
                Ok((verdict.name().to_owned(), counts.iter().sum()))
            })
            .collect()
    }

    /// The loaded program's descriptor, for tests that run it.
    ///
    /// # Errors
    /// [`LoadError::Missing`].
    pub fn program_fd(&mut self) -> Result<RawFd, LoadError> {
        use std::os::fd::AsFd;
        let program = program(&mut self.ebpf)?;
        let fd = program.fd().map_err(|error| LoadError::Load(chain(&error)))?;
        Ok(fd.as_fd().as_raw_fd())
    }

    fn write_config(&mut self) -> Result<(), LoadError> {
        let config = self.config;
        let mut map: Array<&mut MapData, RawConfig> =
            Array::try_from(self.map_mut("CONFIG")?).map_err(map_failed("CONFIG"))?;
        map.set(0, config, 0).map_err(map_failed("CONFIG"))
    }

    fn map_mut(&mut self, name: &'static str) -> Result<&mut aya::maps::Map, LoadError> {
        self.ebpf.map_mut(name).ok_or(LoadError::Missing(name))
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, LoadError> {
    let program = ebpf.program_mut(PROGRAM).ok_or(LoadError::Missing(PROGRAM))?;
    program.try_into().map_err(|_| LoadError::Missing(PROGRAM))
}

struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Attaches the program for a moment, on no port of ours, to see in which mode the interface takes it.
///
/// # Errors
/// [`ProbeError`] if it takes it in none.
pub fn probe(interface: &str) -> Result<AttachMode, ProbeError> {
    let mut steering = Steering::load(&SteeringConfig { port: 0, any_address: false, queues: 1 })?;
    let path = format!("/sys/class/net/{interface}/ifindex");
    let ifindex = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    let ifindex = ifindex.ok_or_else(|| LoadError::Load(format!("{interface}: no such interface")))?;
    steering.attach(ifindex, interface, ModeChoice::Auto)
}
