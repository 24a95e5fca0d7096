//! `linegate check`: what this host and its NIC offer, and what to change. Nothing is changed by looking; the probe of
//! a NIC attaches the XDP program for a moment only if that NIC was named.

use std::fs;
use std::path::Path;

use caps::Capability;
use comfy_table::Table;
use linegate_aead::Aead;
use linegate_dataplane::memory::Arena;
use linegate_dataplane::xsk::{CopyChoice, XskError, XskSettings, XskSocket};
use serde::Serialize;

use crate::engine::plan;
use crate::{ethtool, privileges};

/// The oldest kernel this is made for.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// How a finding bears on running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, and could be better.
    Fair,
    /// Something will not work.
    Bad,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to change, if anything.
    pub advice: Option<String>,
}

/// All findings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which they matter.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether a gateway can run here in some way.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Bad)
    }

    fn add(&mut self, what: &str, verdict: Verdict, found: impl Into<String>, advice: Option<&str>) {
        let advice = advice.map(str::to_owned);
        self.findings.push(Finding { what: what.into(), verdict, found: found.into(), advice });
    }
}

/// Looks at the host, and at a NIC if one is named.
#[must_use]
pub fn host(nic: Option<&str>) -> Report {
    let mut report = Report::default();
    kernel(&mut report);
    capabilities(&mut report);
    devices(&mut report);
    huge_pages(&mut report);
    let backend = Aead::detect().backend();
    report.add("packet cipher", Verdict::Good, format!("{backend:?}").to_lowercase(), None);
    match nic {
        Some(nic) => interface(&mut report, nic),
        None => report.add("NIC", Verdict::Fair, "none named", Some("linegate check INTERFACE looks at one")),
    }
    report
}

/// The findings as a table for a terminal.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.set_header(["", "what", "found", "what to change"]);
    for finding in &report.findings {
        let mark = match finding.verdict {
            Verdict::Good => "ok",
            Verdict::Fair => "--",
            Verdict::Bad => "NO",
        };
        let advice = finding.advice.as_deref().unwrap_or("");
        table.add_row([mark, &finding.what, &finding.found, advice]);
    }
    table.to_string()
}

fn kernel(report: &mut Report) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let verdict =
        if parse_version(release).is_some_and(|version| version >= KERNEL_MIN) { Verdict::Good } else { Verdict::Fair };
    let advice = (verdict != Verdict::Good).then_some("Linux 6.1 or later is what linegate is tested on");
    report.add("kernel", verdict, release, advice);
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let found = if btf { "present" } else { "absent" };
    report.add(
        "BTF",
        if btf { Verdict::Good } else { Verdict::Fair },
        found,
        (!btf).then_some("not needed by linegate; tools like bpftool want CONFIG_DEBUG_INFO_BTF"),
    );
    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default();
    let on = matches!(jit.trim(), "1" | "2");
    let found = if on { "on" } else { "off or unknown" };
    report.add(
        "BPF JIT",
        if on { Verdict::Good } else { Verdict::Fair },
        found,
        (!on).then_some("sysctl net.core.bpf_jit_enable=1"),
    );
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn capabilities(report: &mut Report) {
    for (capability, needed) in [
        (Capability::CAP_NET_ADMIN, true),
        (Capability::CAP_NET_RAW, false),
        (Capability::CAP_BPF, false),
        (Capability::CAP_PERFMON, false),
    ] {
        let has = privileges::has(capability);
        let (verdict, found) = match (has, needed) {
            (true, _) => (Verdict::Good, "held"),
            (false, true) => (Verdict::Bad, "missing"),
            (false, false) => (Verdict::Fair, "missing"),
        };
        let advice = (!has).then_some(if needed {
            "run as root, or grant it"
        } else {
            "AF_XDP needs it; io = \"udp\" does not"
        });
        report.add(&capability.to_string(), verdict, found, advice);
    }
}

fn devices(report: &mut Report) {
    let tun = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    match tun {
        Ok(_) => report.add("/dev/net/tun", Verdict::Good, "usable", None),
        Err(error) => report.add(
            "/dev/net/tun",
            Verdict::Bad,
            error.to_string(),
            Some("modprobe tun, or give the container the device"),
        ),
    }
    let socket = socket2::Socket::new(socket2::Domain::from(libc::AF_XDP), socket2::Type::RAW, None);
    match socket {
        Ok(_) => report.add("AF_XDP sockets", Verdict::Good, "can be made", None),
        Err(error) => report.add(
            "AF_XDP sockets",
            Verdict::Fair,
            error.to_string(),
            Some("needs CONFIG_XDP_SOCKETS and CAP_NET_RAW; io = \"udp\" does without"),
        ),
    }
}

fn huge_pages(report: &mut Report) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:")?.trim().parse::<u64>().ok());
    let advice = Some("sysctl vm.nr_hugepages=64 (about 32 for a worker with AF_XDP)");
    match free {
        Some(free) if free > 0 => report.add("huge pages", Verdict::Good, format!("{free} free"), None),
        Some(_) | None => report.add("huge pages", Verdict::Fair, "none free: ordinary pages are used", advice),
    }
}

fn interface(report: &mut Report, nic: &str) {
    let driver = match ethtool::driver(nic) {
        Ok(driver) => driver,
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
            report.add("NIC", Verdict::Bad, format!("{nic}: no such interface"), Some("ip link shows what there is"));
            return;
        }
        Err(error) => format!("unknown ({error})"),
    };
    report.add("driver", Verdict::Good, driver, None);
    let queues = plan::receive_queues(nic).unwrap_or(1);
    let cores = plan::cores();
    let matched = usize::try_from(queues).is_ok_and(|queues| queues <= cores);
    let advice = format!("ethtool -L {nic} combined {cores}");
    report.add(
        "queues",
        if matched { Verdict::Good } else { Verdict::Fair },
        format!("{queues} receive queues, {cores} cores"),
        (!matched).then_some(advice.as_str()),
    );
    let offloads = ethtool::receive_offloads(nic).unwrap_or_default();
    let joined = offloads.gro || offloads.lro;
    let advice = format!("only for xdp.mode = \"generic\": ethtool -K {nic} gro off lro off");
    report.add(
        "receive offloads",
        Verdict::Good,
        format!("gro {}, lro {}", on_off(offloads.gro), on_off(offloads.lro)),
        joined.then_some(advice.as_str()),
    );
    probe(report, nic);
}

fn probe(report: &mut Report, nic: &str) {
    match linegate_ebpf::probe(nic, zero_copy) {
        Ok((mode, zero_copy)) => {
            let native = mode == linegate_ebpf::AttachMode::Native;
            let verdict = if native { Verdict::Good } else { Verdict::Fair };
            report.add(
                "XDP",
                verdict,
                mode.to_string(),
                (!native).then_some("the driver has no native XDP: io = \"udp\" is faster"),
            );
            match zero_copy {
                Ok(true) => report.add("AF_XDP mode", Verdict::Good, "zero-copy", None),
                Ok(false) => report.add(
                    "AF_XDP mode",
                    Verdict::Fair,
                    "copy",
                    Some("in copy mode UDP sockets are faster; io = \"auto\" takes them"),
                ),
                Err(error) => report.add("AF_XDP mode", Verdict::Fair, error.to_string(), None),
            }
        }
        Err(error) => report.add("XDP", Verdict::Fair, error.to_string(), Some("io = \"udp\" does without")),
    }
}

/// Whether queue 0 of an interface that has the program takes a socket with zero-copy, found by binding one for a moment.
fn zero_copy(ifindex: u32) -> Result<bool, XskError> {
    const FRAME_BYTES: u32 = 4096;
    const FRAMES: u32 = 64;
    let reserving = |source| XskError::System { call: "reserving the UMEM", source };
    let mut arena = Arena::new((FRAMES * FRAME_BYTES) as usize * 2).map_err(reserving)?;
    let umem = arena.reserve((FRAMES * FRAME_BYTES) as usize, FRAME_BYTES as usize).map_err(reserving)?;
    let settings = XskSettings { ifindex, queue: 0, copy: CopyChoice::Auto };
    Ok(XskSocket::bind(&settings, &arena, umem, FRAME_BYTES)?.is_zero_copy())
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_release() {
        assert_eq!(parse_version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(parse_version("5.10"), Some((5, 10)));
        assert_eq!(parse_version("weird"), None);
    }

    #[test]
    fn a_missing_nic_is_bad_and_says_so() {
        let report = host(Some("linegate-none"));
        assert!(!report.usable());
        assert!(table(&report).contains("no such interface"));
    }
}
