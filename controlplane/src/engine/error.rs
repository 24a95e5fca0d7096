//! Why the engine could not be put together.

use std::io;

use linegate_dataplane::kernel_port::tun::TunError;
use linegate_dataplane::underlay::udp::UdpError;
use linegate_dataplane::underlay::xdp::XskError;
use linegate_ebpf::LoadError;

use super::plan::PlanError;
use crate::netlink::NetlinkError;
use crate::veth_device::VethError;

/// Why the gateway could not be put together. Whatever had been made was undone.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No plan fits.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The listen port.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// The tunnel interface.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The tunnel interface on a veth pair.
    #[error(transparent)]
    Veth(#[from] VethError),
    /// The XDP program.
    #[error("the XDP program on {nic}: {source}")]
    Program {
        /// The NIC.
        nic: String,
        /// What was refused.
        #[source]
        source: LoadError,
    },
    /// An AF_XDP socket.
    #[error("AF_XDP on {nic}, queue {queue}: {source}")]
    Socket {
        /// The NIC.
        nic: String,
        /// Its queue.
        queue: u32,
        /// What was refused.
        #[source]
        source: XskError,
    },
    /// The host could not be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A worker.
    #[error("worker {index}: {source}")]
    Worker {
        /// Its number.
        index: usize,
        /// The step that failed.
        #[source]
        source: io::Error,
    },
}

impl EngineError {
    /// The error number for the user-space interface.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Udp(error) => error.errno(),
            Self::Worker { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::Plan(_)
            | Self::Tun(_)
            | Self::Veth(_)
            | Self::Program { .. }
            | Self::Socket { .. }
            | Self::Netlink(_) => libc::EIO,
        }
    }
}
