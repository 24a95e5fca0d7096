//! What all programs have in common: loading an object, attaching one of its programs by a link, what can go wrong.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{MapData, MapError, XskMap};
use aya::programs::Xdp;
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};

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

/// Why the program is not at work.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process may not.
    #[error("loading a BPF program needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN ({0})")]
    NotPermitted(String),
    /// Another program is there.
    #[error(
        "{interface} has an XDP program already: see which by `ip link show {interface}` and end the program that holds it, \
         or, if none does, run `ip link set {interface} xdp off`"
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
    /// There is no such interface.
    #[error("{interface}: no such interface (ip link shows what there is)")]
    NoSuchInterface {
        /// The interface.
        interface: String,
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

/// An error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The system call's error number at the bottom of an error, if there is one.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        next = error.source();
    }
    None
}

pub(crate) fn map_failed(map: &'static str) -> impl Fn(MapError) -> LoadError {
    move |error| LoadError::Map { map, reason: chain(&error) }
}

fn load_failed(error: &(dyn Error + 'static)) -> LoadError {
    match errno(error) {
        Some(libc::EPERM | libc::EACCES) => LoadError::NotPermitted(chain(error)),
        _ => LoadError::Load(chain(error)),
    }
}

/// Creates an object's maps, with this many sockets.
pub(crate) fn load(object: &[u8], sockets: u32) -> Result<Ebpf, LoadError> {
    EbpfLoader::new().map_max_entries("SOCKETS", sockets.max(1)).load(object).map_err(|error| load_failed(&error))
}

/// A program of an object.
pub(crate) fn program<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut Xdp, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|_| LoadError::Missing(name))
}

/// Has the kernel verify a program.
pub(crate) fn verify(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    program(ebpf, name)?.load().map_err(|error| load_failed(&error))
}

/// Attaches a program to an interface of the calling thread's network namespace.
pub(crate) fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    ifindex: u32,
    interface: &str,
    mode: AttachMode,
) -> Result<FdLink, LoadError> {
    let flags = match mode {
        AttachMode::Native => XdpMode::Driver,
        AttachMode::Generic => XdpMode::Skb,
    };
    let program = program(ebpf, name)?;
    let link = program.attach_to_if_index(ifindex, flags).map_err(|error| {
        let (interface, reason) = (interface.to_owned(), chain(&error));
        match errno(&error) {
            Some(libc::EPERM | libc::EACCES) => LoadError::NotPermitted(reason),
            Some(libc::EBUSY | libc::EEXIST) => LoadError::Occupied { interface },
            Some(libc::ENODEV) => LoadError::NoSuchInterface { interface },
            _ => LoadError::Refused { interface, mode, reason },
        }
    })?;
    // On kernels without links for XDP, aya attaches by netlink, which would outlive us: refused.
    let link = program.take_link(link).map_err(|error| LoadError::Load(chain(&error)))?;
    FdLink::try_from(link).map_err(|_| LoadError::Refused {
        interface: interface.to_owned(),
        mode,
        reason: "this kernel has no BPF links for XDP (Linux 5.9 has)".to_owned(),
    })
}

/// Gives a queue's packets to an AF_XDP socket.
pub(crate) fn set_socket(ebpf: &mut Ebpf, queue: u32, socket: RawFd) -> Result<(), LoadError> {
    let map = ebpf.map_mut("SOCKETS").ok_or(LoadError::Missing("SOCKETS"))?;
    let mut map: XskMap<&mut MapData> = XskMap::try_from(map).map_err(map_failed("SOCKETS"))?;
    map.set(queue, Fd(socket), 0).map_err(map_failed("SOCKETS"))
}

struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}
