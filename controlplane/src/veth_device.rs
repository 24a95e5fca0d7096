//! The tunnel interface as one end of a veth pair whose other end is in a network namespace without a name, where nobody
//! sees it and no rule of the host's touches it.
//!
//! Everything hangs on the namespace's descriptor: when the process ends, however it ends, the kernel takes the namespace
//! with the hidden end, and with that the interface.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use linegate_dataplane::kernel_port::veth::{VETH_MTU_MAX, VethConfig, VethPort};
use linegate_dataplane::memory::Arena;
use linegate_dataplane::underlay::xdp::XskError;
use linegate_ebpf::{LoadError, PortRedirect};
use nix::sched::{CloneFlags, setns, unshare};

use crate::ethtool;
use crate::netlink::{Netlink, NetlinkError};

/// The hidden end's name in its own namespace.
const HIDDEN: &str = "port";

/// Why there is no veth tunnel interface.
#[derive(Debug, thiserror::Error)]
pub enum VethError {
    /// The MTU is too large for a veth with an XDP program.
    #[error("MTU {0} is above {VETH_MTU_MAX}, the most that kernel_port = \"veth\" takes: use kernel_port = \"tun\"")]
    MtuTooLarge(u16),
    /// The name is taken.
    #[error("interface {0} exists already: end the program that made it, or take another name")]
    Busy(String),
    /// No namespace could be had.
    #[error("a network namespace for the hidden end of the veth pair (needs CAP_SYS_ADMIN): {0}")]
    Namespace(#[source] io::Error),
    /// The interfaces could not be made.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// An interface that was just made is not there.
    #[error("interface {0} vanished while it was set up")]
    Vanished(String),
    /// Offloads could not be set.
    #[error("setting the offloads of {0}: {1}")]
    Offloads(String, #[source] io::Error),
    /// The program on the hidden end.
    #[error("the XDP program of the veth kernel port: {0}")]
    Program(#[from] LoadError),
    /// A queue's socket.
    #[error("the AF_XDP socket of the veth kernel port: {0}")]
    Socket(#[from] XskError),
}

/// A network namespace without a name.
#[derive(Debug)]
struct Namespace(OwnedFd);

impl Namespace {
    fn new() -> io::Result<Self> {
        let make = || -> io::Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        };
        on_thread(make).map(Self)
    }

    /// Runs `work` on a thread that is in the namespace.
    fn enter<T: Send, E: Send + From<io::Error>>(&self, work: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E> {
        on_thread(|| {
            setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            work()
        })
    }
}

/// A thread's namespace ends with the thread: the caller's is never touched.
fn on_thread<T: Send, E: Send + From<io::Error>>(work: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("linegate-netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked").into()))
    })
}

impl From<io::Error> for VethError {
    fn from(error: io::Error) -> Self {
        Self::Namespace(error)
    }
}

/// The pair, with the program on its hidden end.
#[derive(Debug)]
pub struct VethDevice {
    /// The index of the end that the host sees.
    pub ifindex: u32,
    mac: [u8; 6],
    hidden: u32,
    redirect: PortRedirect,
    namespace: Namespace,
}

impl VethDevice {
    /// Makes the interface, down, with its MTU in bytes set, in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`VethError`]; nothing is left behind.
    pub async fn create(name: &str, queues: usize, mtu: u16, netlink: &Netlink) -> Result<Self, VethError> {
        if mtu > VETH_MTU_MAX {
            return Err(VethError::MtuTooLarge(mtu));
        }
        let queues = u32::try_from(queues).unwrap_or(1);
        let namespace = Namespace::new()?;
        if !netlink.add_hidden_veth(name, HIDDEN, queues, mtu.into(), namespace.0.as_raw_fd()).await? {
            return Err(VethError::Busy(name.to_owned()));
        }
        let link = netlink.link(name).await?.ok_or_else(|| VethError::Vanished(name.to_owned()))?;
        let mac = link.mac.ok_or_else(|| VethError::Vanished(name.to_owned()))?;
        // A host without IPv6 gives none anyway.
        let _ = netlink.disable_link_local(link.index).await;
        let (hidden, redirect) = namespace.enter(|| set_up_hidden_end(queues))?;
        // The program cannot see which checksums are still to be completed.
        let offloads = |result: io::Result<()>| result.map_err(|error| VethError::Offloads(name.to_owned(), error));
        offloads(ethtool::disable_transmit_checksums(name))?;
        offloads(ethtool::enable_gro(name))?;
        Ok(Self { ifindex: link.index, mac, hidden, redirect, namespace })
    }

    /// The kernel port of one worker, which takes over the queue of its number.
    ///
    /// # Errors
    /// [`VethError::Socket`], [`VethError::Program`].
    pub fn port(&mut self, queue: usize, arena: &mut Arena) -> Result<VethPort, VethError> {
        let queue = u32::try_from(queue).unwrap_or(u32::MAX);
        let config = VethConfig { ifindex: self.hidden, queue, host_mac: self.mac };
        let port = self.namespace.enter(|| VethPort::new(&config, arena).map_err(VethError::Socket))?;
        self.redirect.set_socket(queue, port.socket_fd())?;
        Ok(port)
    }
}

/// In the namespace: up, with an MTU that no packet of the host exceeds, the program attached.
fn set_up_hidden_end(queues: u32) -> Result<(u32, PortRedirect), VethError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (netlink, _events) = Netlink::open()?;
        let link = netlink.link(HIDDEN).await?.ok_or_else(|| VethError::Vanished(HIDDEN.to_owned()))?;
        let redirect = PortRedirect::attach(link.index, HIDDEN, queues)?;
        netlink.set_mtu(link.index, VETH_MTU_MAX.into()).await?;
        netlink.set_up(link.index).await?;
        Ok((link.index, redirect))
    })
}
