//! The tunnel interface, whichever way it is made.

use linegate_dataplane::kernel_port::KernelPort;
use linegate_dataplane::kernel_port::tun::{TunDevice, TunPort, TunQueue};
use linegate_dataplane::kernel_port::veth::VethPort;
use linegate_dataplane::memory::Arena;

use super::EngineError;
use crate::netlink::Netlink;
use crate::veth_device::VethDevice;

/// The interface; it goes with this value.
pub(super) enum Tunnel {
    /// The device and a descriptor of each of its queues, so that other workers may follow the first.
    Tun(TunDevice, Vec<TunQueue>),
    /// A veth pair.
    Veth(VethDevice),
}

impl Tunnel {
    /// Makes the interface, down.
    pub(super) async fn create(
        kernel_port: &str,
        name: &str,
        queues: usize,
        mtu: u16,
        netlink: &Netlink,
    ) -> Result<Self, EngineError> {
        if kernel_port == "veth" {
            return Ok(Self::Veth(VethDevice::create(name, queues, mtu, netlink).await?));
        }
        let (device, queues) = TunDevice::create(name, queues, mtu)?;
        Ok(Self::Tun(device, queues))
    }

    /// Its interface index.
    pub(super) fn ifindex(&self) -> u32 {
        match self {
            Self::Tun(device, _) => device.ifindex,
            Self::Veth(device) => device.ifindex,
        }
    }

    /// Bytes of arena a worker's kernel port needs.
    pub(super) const fn arena_bytes(&self) -> usize {
        match self {
            Self::Tun(..) => TunPort::arena_bytes(),
            Self::Veth(_) => VethPort::arena_bytes(),
        }
    }

    /// The kernel port of one worker.
    pub(super) fn port(&mut self, index: usize, arena: &mut Arena) -> Result<Box<dyn KernelPort>, EngineError> {
        let fail = |source| EngineError::Worker { index, source };
        match self {
            Self::Tun(_, queues) => {
                let queue = queues.get(index).ok_or_else(|| fail(std::io::ErrorKind::NotFound.into()))?;
                Ok(Box::new(queue.try_clone().and_then(|queue| TunPort::new(queue, arena)).map_err(fail)?))
            }
            Self::Veth(device) => Ok(Box::new(device.port(index, arena)?)),
        }
    }
}
