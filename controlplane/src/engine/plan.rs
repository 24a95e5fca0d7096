//! Which way packets go on this host, and why: from the settings and what the NIC says of itself, to a [`Plan`].
//!
//! `auto` takes AF_XDP only where the driver has zero-copy: in copy mode plain UDP sockets with GRO and GSO are faster
//! (docs/performance.md has the figures). `xdp` forces it on any device, or says what stands in the way.

use std::io;
use std::thread::available_parallelism;

use crate::config::{IoChoice, KernelPortChoice, Settings, XdpMode};
use crate::ethtool;
use crate::netlink::{Netlink, NetlinkError};
use crate::privileges::{self, MissingPrivilege};
use crate::status::Choice;

/// Workers that `auto` starts at most over UDP sockets: more pay only when many peers are busy at once.
const UDP_WORKERS_AUTO_MAX: usize = 4;

/// The largest MTU whose frames fit a UMEM frame of 4096 bytes with XDP's headroom, an Ethernet header and a tag.
const GENERIC_MTU_MAX: u32 = 4096 - 256 - 18;

/// Drivers with AF_XDP zero-copy in the kernels this is made for (Linux 6.1 and later). `auto` attaches the XDP
/// program to no others.
const ZERO_COPY_DRIVERS: &[&str] =
    &["i40e", "ice", "idpf", "igb", "igc", "ixgbe", "ixgbevf", "mlx5_core", "nfp", "st_gmac", "stmmaceth", "tsnep"];

/// One queue of one NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicQueue {
    /// Its place in [`Plan::nics`].
    pub nic: usize,
    /// The queue's number.
    pub queue: u32,
}

/// A NIC that is to carry the XDP program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its receive queues.
    pub queues: u32,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How packets go on the underlay, and why.
    pub io: Choice,
    /// The NICs for XDP; none for plain UDP.
    pub nics: Vec<Nic>,
    /// One entry a worker: the queue it serves, if XDP is used.
    pub workers: Vec<Option<NicQueue>>,
    /// The kernel port, and why.
    pub kernel_port: Choice,
    /// Zero-copy is the reason to use XDP: without it, UDP is to be taken instead.
    pub needs_zero_copy: bool,
}

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A NIC that was named is not there.
    #[error("underlay {0:?}: no such interface (ip link shows what there is)")]
    NoSuchNic(String),
    /// XDP is forced, and there is no NIC to take.
    #[error("io = \"xdp\" needs a NIC: name it by underlay = \"eth0\" (there is no default route to find it by)")]
    NoNic,
    /// A NIC without Ethernet addresses.
    #[error("underlay {0:?} is no Ethernet device: AF_XDP needs one (io = \"udp\" works on any)")]
    NotEthernet(String),
    /// Generic mode would lose packets.
    #[error(
        "generic-mode XDP on {nic} would lose packets that the host joins before the program sees them; \
         run: ethtool -K {nic} gro off lro off (or use xdp.mode = \"native\")"
    )]
    OffloadsOn {
        /// The NIC.
        nic: String,
    },
    /// Generic mode would drop large frames unseen.
    #[error(
        "generic-mode XDP on {nic} drops frames larger than a buffer, and its MTU is {mtu}; \
         run: ip link set {nic} mtu {GENERIC_MTU_MAX} (or use io = \"udp\")"
    )]
    MtuTooLarge {
        /// The NIC.
        nic: String,
        /// Its MTU.
        mtu: u32,
    },
    /// A capability is missing.
    #[error(transparent)]
    Privilege(#[from] MissingPrivilege),
    /// The host could not be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Decides.
///
/// # Errors
/// [`PlanError`] when what is forced cannot be had; `auto` always finds a way.
pub async fn make(settings: &Settings, netlink: &Netlink) -> Result<Plan, PlanError> {
    let kernel_port = kernel_port(settings);
    let forced = settings.io == IoChoice::Xdp;
    let chosen = match settings.io {
        IoChoice::Udp => Err("asked for".to_owned()),
        IoChoice::Xdp => {
            privileges::check_xdp()?;
            let nics = find_nics(settings, netlink).await?;
            if nics.is_empty() {
                return Err(PlanError::NoNic);
            }
            Ok(nics)
        }
        IoChoice::Auto => automatic(settings, netlink).await?,
    };
    match chosen {
        Ok(nics) => {
            if settings.xdp.mode == XdpMode::Generic {
                check_generic(&nics)?;
            }
            let reason = if forced { "asked for" } else { "the driver has zero-copy" };
            let io = choice(setting_name(settings.io), "xdp", reason);
            Ok(Plan { io, workers: queues(&nics, settings.workers), nics, kernel_port, needs_zero_copy: !forced })
        }
        Err(reason) => Ok(udp(settings, kernel_port, &reason)),
    }
}

/// The plan without XDP.
#[must_use]
pub fn udp(settings: &Settings, kernel_port: Choice, reason: &str) -> Plan {
    let workers = settings.workers.unwrap_or_else(|| cores().min(UDP_WORKERS_AUTO_MAX)).max(1);
    Plan {
        io: choice(setting_name(settings.io), "udp", reason),
        nics: Vec::new(),
        workers: vec![None; workers],
        kernel_port,
        needs_zero_copy: false,
    }
}

/// Refuses generic mode where the host joins packets before the program sees them, or frames may not fit a buffer.
///
/// # Errors
/// [`PlanError::OffloadsOn`], [`PlanError::MtuTooLarge`].
pub fn check_generic(nics: &[Nic]) -> Result<(), PlanError> {
    for nic in nics {
        // Devices that cannot be asked have no such offloads.
        let offloads = ethtool::receive_offloads(&nic.name).unwrap_or_default();
        if offloads.gro || offloads.lro {
            return Err(PlanError::OffloadsOn { nic: nic.name.clone() });
        }
        if nic.mtu > GENERIC_MTU_MAX {
            return Err(PlanError::MtuTooLarge { nic: nic.name.clone(), mtu: nic.mtu });
        }
    }
    Ok(())
}

async fn automatic(settings: &Settings, netlink: &Netlink) -> Result<Result<Vec<Nic>, String>, PlanError> {
    if let Err(missing) = privileges::check_xdp() {
        return Ok(Err(missing.to_string()));
    }
    let nics = match find_nics(settings, netlink).await {
        Ok(nics) => nics,
        // What was named must exist; what was merely found must only be usable.
        Err(PlanError::NotEthernet(name)) => return Ok(Err(format!("{name} is no Ethernet device"))),
        Err(error) => return Err(error),
    };
    if nics.is_empty() {
        return Ok(Err("no underlay named, and no default route to find one by".into()));
    }
    for nic in &nics {
        let driver = ethtool::driver(&nic.name).unwrap_or_else(|_| "an unknown driver".into());
        if !ZERO_COPY_DRIVERS.contains(&driver.as_str()) {
            return Ok(Err(format!(
                "{} ({driver}) has no zero-copy, and in copy mode UDP sockets are faster",
                nic.name
            )));
        }
    }
    Ok(Ok(nics))
}

async fn find_nics(settings: &Settings, netlink: &Netlink) -> Result<Vec<Nic>, PlanError> {
    let mut links = Vec::new();
    for name in &settings.underlay {
        links.push(netlink.link(name).await?.ok_or_else(|| PlanError::NoSuchNic(name.clone()))?);
    }
    if links.is_empty()
        && let Some(index) = netlink.default_route_interface().await?
    {
        links.extend(netlink.link_by_index(index).await?);
    }
    let nic = |link: crate::netlink::Link| {
        let mac = link.mac.filter(|mac| *mac != [0; 6]).ok_or_else(|| PlanError::NotEthernet(link.name.clone()))?;
        let queues = receive_queues(&link.name).unwrap_or(1);
        Ok(Nic { name: link.name, ifindex: link.index, queues, mac, mtu: link.mtu })
    };
    links.into_iter().map(nic).collect()
}

/// The number of receive queues of a NIC, by ethtool or else by sysfs.
///
/// # Errors
/// What sysfs says when ethtool does not know either.
pub fn receive_queues(nic: &str) -> io::Result<u32> {
    ethtool::receive_queues(nic).or_else(|_| {
        let entries = std::fs::read_dir(format!("/sys/class/net/{nic}/queues"))?;
        let count = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).count();
        u32::try_from(count.max(1)).map_err(io::Error::other)
    })
}

/// The processor cores this process may use.
#[must_use]
pub fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// One worker a queue; a queue without a worker is served by the kernel and the UDP sockets.
fn queues(nics: &[Nic], limit: Option<usize>) -> Vec<Option<NicQueue>> {
    let all = nics
        .iter()
        .enumerate()
        .flat_map(|(nic, device)| (0..device.queues).map(move |queue| Some(NicQueue { nic, queue })));
    all.take(limit.unwrap_or(usize::MAX).max(1)).collect()
}

fn kernel_port(settings: &Settings) -> Choice {
    match settings.kernel_port {
        KernelPortChoice::Auto => choice("auto", "tun", "super-packets both ways are the fastest kernel port"),
        KernelPortChoice::Tun => choice("tun", "tun", "asked for"),
        KernelPortChoice::Veth => choice("veth", "veth", "asked for"),
    }
}

fn setting_name(io: IoChoice) -> &'static str {
    match io {
        IoChoice::Auto => "auto",
        IoChoice::Xdp => "xdp",
        IoChoice::Udp => "udp",
    }
}

fn choice(setting: &str, chosen: &str, reason: &str) -> Choice {
    Choice { setting: setting.into(), chosen: chosen.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: &str, queues: u32) -> Nic {
        Nic { name: name.into(), ifindex: 1, queues, mac: [2; 6], mtu: 1500 }
    }

    #[test]
    fn one_worker_a_queue_of_every_nic() {
        let nics = [nic("a", 2), nic("b", 1)];
        let all: Vec<_> = queues(&nics, None).into_iter().flatten().map(|q| (q.nic, q.queue)).collect();
        assert_eq!(all, [(0, 0), (0, 1), (1, 0)]);
        assert_eq!(queues(&nics, Some(2)).len(), 2);
    }

    #[test]
    fn udp_workers_follow_the_setting_else_the_cores() {
        let mut settings = Settings::default();
        let port = kernel_port(&settings);
        assert_eq!(udp(&settings, port.clone(), "x").workers.len(), cores().min(4));
        settings.workers = Some(7);
        assert_eq!(udp(&settings, port, "x").workers.len(), 7);
    }

    #[test]
    fn generic_mode_is_refused_where_frames_do_not_fit() {
        let mut none = nic("linegate-none", 1);
        assert!(check_generic(std::slice::from_ref(&none)).is_ok());
        none.mtu = 9000;
        let error = check_generic(&[none]).unwrap_err().to_string();
        assert!(error.contains("9000") && error.contains("mtu 3822"), "{error}");
    }

    #[test]
    fn generic_mode_is_refused_where_packets_are_joined_first() {
        // The loopback has GRO on unless somebody turned it off.
        if ethtool::receive_offloads("lo").unwrap().gro {
            let error = check_generic(&[nic("lo", 1)]).unwrap_err().to_string();
            assert!(error.contains("ethtool -K lo gro off"), "{error}");
        }
    }
}
