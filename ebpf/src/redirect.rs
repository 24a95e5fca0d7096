//! The program on the hidden end of the tunnel's veth pair.

use std::fmt;
use std::os::fd::RawFd;

use aya::programs::links::FdLink;
use aya::{Ebpf, include_bytes_aligned};

use crate::loader::{self, AttachMode, LoadError};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/port.bpf.o"));

const PROGRAM: &str = "linegate_port";

/// The program at work. It goes with its value, or with the process.
pub struct PortRedirect {
    ebpf: Ebpf,
    _link: FdLink,
}

impl fmt::Debug for PortRedirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortRedirect").finish_non_exhaustive()
    }
}

impl PortRedirect {
    /// Attaches the program, in the driver, to an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach(ifindex: u32, interface: &str, queues: u32) -> Result<Self, LoadError> {
        let mut ebpf = loader::load(OBJECT, queues)?;
        loader::verify(&mut ebpf, PROGRAM)?;
        let link = loader::attach(&mut ebpf, PROGRAM, ifindex, interface, AttachMode::Native)?;
        Ok(Self { ebpf, _link: link })
    }

    /// Gives a queue's packets to this AF_XDP socket.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn set_socket(&mut self, queue: u32, socket: RawFd) -> Result<(), LoadError> {
        loader::set_socket(&mut self.ebpf, queue, socket)
    }
}
