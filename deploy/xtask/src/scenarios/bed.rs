//! One wire of the guest: linegate's host and its branches, each in a namespace with a NIC of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use xtask::netns::Namespace;
use xtask::shell;

/// Hosts on one wire, each with an `eth0`: `192.0.2.N/24` and `fd00:2::N/64`, linegate's host first.
pub(crate) struct Bed {
    pub(crate) hub: Namespace,
    pub(crate) branches: Vec<Namespace>,
    /// For configurations and logs.
    pub(crate) scratch: PathBuf,
    wire: u8,
}

impl Bed {
    /// The hosts of a wire with this many branches; their NICs are as after a boot.
    pub(crate) fn new(wire: u8, branches: u8) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let scratch = PathBuf::from(format!("/tmp/scenario{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&scratch)?;
        let bed = Self {
            hub: Namespace::new("hub")?,
            branches: (0..branches).map(|_| Namespace::new("branch")).collect::<anyhow::Result<_>>()?,
            scratch,
            wire,
        };
        for (number, host) in (1..).zip(std::iter::once(&bed.hub).chain(&bed.branches)) {
            place(host, wire, number).with_context(|| format!("NIC {number} of wire {wire}"))?;
        }
        Ok(bed)
    }

    /// The first branch.
    pub(crate) fn branch(&self) -> anyhow::Result<&Namespace> {
        self.branches.first().context("a wire without a branch")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // A namespace lives on while a connection in it still tries to end, and would keep its NIC.
        for (number, host) in std::iter::once(&self.hub).chain(&self.branches).enumerate() {
            let _ = host.ip(&format!("link set eth0 down netns 1 name wire{}n{number}", self.wire));
        }
    }
}

/// Moves a NIC into a host.
fn place(host: &Namespace, wire: u8, number: u8) -> anyhow::Result<()> {
    let mac = format!("52:54:00:00:{wire:02x}:{number:02x}");
    let mut name = None;
    // The kernel takes its time to bring NICs back from a namespace that is gone.
    shell::wait_for(10, || {
        name = nic(&mac);
        name.is_some()
    });
    let name = name.with_context(|| format!("no NIC has the address {mac}"))?;
    shell::output(std::process::Command::new("ip").args(["link", "set", &name, "netns", host.name(), "name", "eth0"]))?;
    host.ip("link set eth0 mtu 1500")?;
    // Not every driver has channels, or a segmentation of datagrams. That of QEMU's igb makes IP fragments of them.
    let _ = host.run("ethtool -L eth0 combined 2");
    let _ = host.run("ethtool -K eth0 tx-udp-segmentation off gro on");
    host.ip(&format!("addr add 192.0.2.{number}/24 dev eth0"))?;
    host.ip(&format!("addr add fd00:2::{number}/64 dev eth0 nodad"))?;
    host.ip("link set eth0 up")?;
    let up = || host.ip("-o link show dev eth0").is_ok_and(|text| text.contains("LOWER_UP"));
    ensure!(shell::wait_for(10, up), "the link does not come up");
    Ok(())
}

fn nic(mac: &str) -> Option<String> {
    let entries = std::fs::read_dir("/sys/class/net").ok()?;
    entries.flatten().find_map(|entry| {
        let address = std::fs::read_to_string(entry.path().join("address")).ok()?;
        (address.trim() == mac && entry.path().join("device").exists())
            .then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

/// The version of the kernel that runs.
pub(crate) fn kernel_version() -> anyhow::Result<(u32, u32)> {
    let release = std::fs::read_to_string(Path::new("/proc/sys/kernel/osrelease"))?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => anyhow::bail!("what version is {release}?"),
    }
}
