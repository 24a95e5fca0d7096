//! Loading, attaching and talking to the program.
#![expect(unsafe_code, reason = "map values must be declared plain old data")]

use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::{fmt, io};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use aya::programs::links::FdLink;
use aya::{Ebpf, include_bytes_aligned};
use zeroize::Zeroize;

use crate::loader::{self, AttachMode, LoadError, ModeChoice, chain, map_failed};
use crate::verdict::Verdict;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

const PROGRAM: &str = "linegate_steer";
const FRAGS_PROGRAM: &str = "linegate_steer_frags";
/// Set beside an index to tell index 0 from none; as in the program.
const LIVE: u64 = 1 << 32;
const SLOT_MASK: u32 = (1 << 20) - 1;

/// What the program needs to know.
#[derive(Debug, Clone, Copy)]
pub struct SteeringConfig {
    /// Our UDP port.
    pub port: u16,
    /// Take any destination address for ours.
    pub any_address: bool,
    /// Receive queues of the interface.
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

/// As `struct guard` of the program.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawGuard {
    mac1_key: [u8; 32],
    cookie_secret: [u8; 32],
    has_secret: u32,
    /// The program's own, from here on.
    hashed: u32,
    states: [u32; 16],
}

// SAFETY: bytes and words that follow 64 of them: no padding.
unsafe impl aya::Pod for RawGuard {}

/// An address as the program has it: IPv4 as `::ffff:a.b.c.d`.
fn as_v6(address: &IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The only key of the map of guards.
const GUARD: u32 = 0;

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

impl Steering {
    /// Loads the program; it is not attached yet.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(config: &SteeringConfig) -> Result<Self, LoadError> {
        let mut ebpf = loader::load(OBJECT, config.queues)?;
        loader::verify(&mut ebpf, PROGRAM)?;
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
            ModeChoice::Native => self.attach_native(ifindex, interface)?,
            ModeChoice::Generic => self.attach_as(PROGRAM, ifindex, interface, AttachMode::Generic)?,
            ModeChoice::Auto => match self.attach_native(ifindex, interface) {
                Err(error @ LoadError::Refused { .. }) => {
                    tracing::warn!(%error, "generic mode instead, which is slower");
                    self.attach_as(PROGRAM, ifindex, interface, AttachMode::Generic)?
                }
                other => other?,
            },
        };
        tracing::info!(interface, %mode, "XDP program attached");
        Ok(mode)
    }

    /// In the driver; with a large MTU it takes only the program that knows of frames in several buffers.
    fn attach_native(&mut self, ifindex: u32, interface: &str) -> Result<AttachMode, LoadError> {
        match self.attach_as(PROGRAM, ifindex, interface, AttachMode::Native) {
            Err(refused @ LoadError::Refused { .. }) => {
                // Older kernels know no such program: then the first refusal is the one that matters.
                loader::verify(&mut self.ebpf, FRAGS_PROGRAM).map_err(|_| refused)?;
                let mode = self.attach_as(FRAGS_PROGRAM, ifindex, interface, AttachMode::Native)?;
                tracing::info!(interface, "frames beyond one buffer are served by the kernel's UDP socket");
                Ok(mode)
            }
            other => other,
        }
    }

    fn attach_as(
        &mut self,
        name: &'static str,
        ifindex: u32,
        interface: &str,
        mode: AttachMode,
    ) -> Result<AttachMode, LoadError> {
        self.link = Some(loader::attach(&mut self.ebpf, name, ifindex, interface, mode)?);
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
        loader::set_socket(&mut self.ebpf, queue, socket)
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

    /// Sets what handshake messages are looked at with: the key of their mac1 (paper, section 5.4.4), and the secret that
    /// cookies are made of (section 5.4.7), if there is one yet. Without keys, all of them pass.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn set_guard(&mut self, keys: Option<(&[u8; 32], Option<&[u8; 32]>)>) -> Result<(), LoadError> {
        let mut map: HashMap<&mut MapData, u32, RawGuard> =
            HashMap::try_from(self.map_mut("GUARD")?).map_err(map_failed("GUARD"))?;
        match keys {
            Some((mac1_key, secret)) => {
                let cookie_secret = secret.copied().unwrap_or_default();
                let has_secret = secret.is_some().into();
                let mut guard = RawGuard { mac1_key: *mac1_key, cookie_secret, has_secret, hashed: 0, states: [0; 16] };
                let result = map.insert(GUARD, guard, 0).map_err(map_failed("GUARD"));
                guard.cookie_secret.zeroize();
                result
            }
            None if map.get(&GUARD, 0).is_ok() => map.remove(&GUARD).map_err(map_failed("GUARD")),
            None => Ok(()),
        }
    }

    /// Sets which destination addresses are ours; IPv6 link-local ones among them.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), LoadError> {
        let mut wanted: Vec<[u8; 16]> = addresses.iter().map(as_v6).collect();
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

    /// A peer receives at this address: in a flood of noise its handshake messages are read all the same, a few a second.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn note_source(&mut self, address: IpAddr) -> Result<(), LoadError> {
        /// Whoever is known already has used up some of its messages, and keeps that.
        const BPF_NOEXIST: u64 = 1;
        let mut key = as_v6(&address);
        if address.is_ipv6() {
            // A /64 is one source.
            key[8..].fill(0);
        }
        let mut map: HashMap<&mut MapData, [u8; 16], u64> =
            HashMap::try_from(self.map_mut("SOURCES_MAP")?).map_err(map_failed("SOURCES_MAP"))?;
        match map.insert(key, 0, BPF_NOEXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(map_failed("SOURCES_MAP")),
        }
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
        let program = loader::program(&mut self.ebpf, PROGRAM)?;
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

/// Attaches the program for a moment, on no port of ours, to see in which mode the interface takes it; meanwhile
/// `look` looks at what else there is, by the interface's index.
///
/// # Errors
/// [`LoadError`] if it takes it in none.
pub fn probe<T>(interface: &str, look: impl FnOnce(u32) -> T) -> Result<(AttachMode, T), LoadError> {
    let mut steering = Steering::load(&SteeringConfig { port: 0, any_address: false, queues: 1 })?;
    let path = format!("/sys/class/net/{interface}/ifindex");
    let ifindex = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    let ifindex = ifindex.ok_or_else(|| LoadError::NoSuchInterface { interface: interface.to_owned() })?;
    let mode = steering.attach(ifindex, interface, ModeChoice::Auto)?;
    Ok((mode, look(ifindex)))
}
