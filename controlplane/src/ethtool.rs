//! What a NIC's driver says of itself: SIOCETHTOOL, asked through any socket of the network namespace (sysfs shows the
//! namespace it was mounted in, which need not be ours).
#![expect(unsafe_code, reason = "ioctl(2) takes a pointer to a structure of the command's own shape")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// The offloads that join received packets before a generic-mode XDP program sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiveOffloads {
    /// Generic receive offload (`gro`).
    pub gro: bool,
    /// Large receive offload (`lro`).
    pub lro: bool,
}

#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// The driver's name.
///
/// # Errors
/// What ioctl(2) says: ENODEV for no such interface, EOPNOTSUPP for drivers that do not tell.
pub fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ioctl(interface, &mut info)?;
    let name: Vec<u8> = info.driver.iter().copied().take_while(|&byte| byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// The number of receive queues in use.
///
/// # Errors
/// What ioctl(2) says; drivers with one queue often do not answer.
pub fn receive_queues(interface: &str) -> io::Result<u32> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    ioctl(interface, &mut channels)?;
    Ok((channels.combined + channels.rx).max(1))
}

/// Which receive offloads are on.
///
/// # Errors
/// What ioctl(2) says.
pub fn receive_offloads(interface: &str) -> io::Result<ReceiveOffloads> {
    let mut gro = Value { command: ETHTOOL_GGRO, data: 0 };
    ioctl(interface, &mut gro)?;
    let mut flags = Value { command: ETHTOOL_GFLAGS, data: 0 };
    ioctl(interface, &mut flags)?;
    Ok(ReceiveOffloads { gro: gro.data != 0, lro: flags.data & ETH_FLAG_LRO != 0 })
}

/// Has the host complete the checksums of what it sends through the interface.
///
/// # Errors
/// What ioctl(2) says.
pub fn disable_transmit_checksums(interface: &str) -> io::Result<()> {
    ioctl(interface, &mut Value { command: ETHTOOL_STXCSUM, data: 0 })
}

/// Has the host join received packets of one flow.
///
/// # Errors
/// What ioctl(2) says.
pub fn enable_gro(interface: &str) -> io::Result<()> {
    ioctl(interface, &mut Value { command: ETHTOOL_SGRO, data: 1 })
}

fn ioctl<T>(interface: &str, command: &mut T) -> io::Result<()> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: std::ptr::from_mut(command).cast() },
    };
    // SAFETY: SIOCETHTOOL reads and writes the structure that `ifru_data` points to, of the shape its command names;
    // `command` is such a structure and outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_is_an_error() {
        assert!(driver("linegate-none").is_err());
        assert!(driver("a-name-much-longer-than-the-kernel-allows").is_err());
        assert!(receive_queues("linegate-none").is_err());
    }

    #[test]
    fn the_loopback_has_offloads_to_ask_for() {
        assert!(receive_offloads("lo").is_ok());
    }
}
