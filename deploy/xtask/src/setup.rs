//! `cargo xtask setup`: what a bare Debian machine lacks.
#![expect(clippy::print_stderr, reason = "the user is told what is installed")]

use std::path::Path;
use std::process::Command;

use anyhow::bail;
use xtask::shell;

/// A package, and something it brings by which it is known to be there.
const PACKAGES: &[(&str, &str)] = &[
    ("clang", "/usr/bin/clang"),
    ("libbpf-dev", "/usr/include/bpf/bpf_helpers.h"),
    ("linux-libc-dev", "/usr/include/linux/bpf.h"),
    ("iproute2", "/usr/sbin/ip"),
    ("wireguard-tools", "/usr/bin/wg"),
    ("ethtool", "/usr/sbin/ethtool"),
    ("busybox", "/usr/bin/busybox"),
    ("kmod", "/usr/sbin/depmod"),
    ("iperf3", "/usr/bin/iperf3"),
    ("iputils-ping", "/usr/bin/ping"),
    ("procps", "/usr/sbin/sysctl"),
    ("dpkg-dev", "/usr/bin/dpkg-shlibdeps"),
    ("binutils", "/usr/bin/strip"),
    ("debootstrap", "/usr/sbin/debootstrap"),
    ("python3", "/usr/bin/python3"),
    ("chromium", "/usr/bin/chromium"),
];

/// Installs what is missing; does nothing when all is there.
pub(crate) fn run() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, witness)| !Path::new(witness).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        eprintln!("setup: everything needed is installed");
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("setup installs by apt-get, which is not here. Install these (Debian's names): {}", missing.join(" "));
    }
    if shell::output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("setup must install packages; as root, run: apt-get install {}", missing.join(" "));
    }
    eprintln!("setup: installing {}", missing.join(" "));
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq").args(words);
        shell::output(&mut command)
    };
    apt(&["update"])?;
    let mut words = vec!["install", "-y", "--no-install-recommends"];
    words.extend(&missing);
    apt(&words)?;
    eprintln!("setup: done");
    Ok(())
}
