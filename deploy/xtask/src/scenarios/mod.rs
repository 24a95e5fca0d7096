//! What runs inside the guest of `cargo xtask guest-test`: every scenario with fresh namespaces, one line each, and for
//! one that failed all there is to look at.
#![expect(clippy::print_stdout, reason = "the host reads what is printed")]

mod bed;
mod disturb;
mod host;
mod serve;
mod starve;
mod transfer;
mod tunnel;

use anyhow::{Context, bail};
use bed::Bed;
use tunnel::{Setup, Tunnel};
use xtask::shell;

use crate::guest::END_MARK;

/// linegate's igb NIC and two branches.
const IGB: u8 = 1;
/// virtio-net as most machines have it.
const VIRTIO: u8 = 2;
/// virtio-net behind the platform's DMA.
const VIRTIO_PLATFORM: u8 = 3;
/// A NIC whose driver takes no XDP program.
const E1000E: u8 = 4;
/// An igb NIC and one branch, for what lives as long as the suite.
const IGB_RENEWAL: u8 = 5;

/// What the kernel that runs makes of the NICs.
#[derive(Debug, Clone, Copy)]
struct Kernel {
    version: (u32, u32),
}

impl Kernel {
    /// igb has zero-copy since Linux 6.14.
    fn igb_zero_copy(self) -> bool {
        self.version >= (6, 14)
    }

    /// virtio-net has it both ways since Linux 6.14.
    fn virtio_zero_copy(self) -> bool {
        self.version >= (6, 14)
    }
}

/// Beyond this a scenario is taken to hang.
const SCENARIO_MAX: std::time::Duration = std::time::Duration::from_secs(150);

/// A name and what it does.
type Scenario = (&'static str, fn(Kernel) -> anyhow::Result<()>);

/// Runs the scenarios whose names contain `only`, or one of the parts of it that commas separate; of these every
/// `share.1`th from `share.0` on.
pub(crate) fn run(only: Option<&str>, share: (usize, usize)) -> anyhow::Result<()> {
    let kernel = Kernel { version: bed::kernel_version()? };
    let mut failed = 0;
    println!("guest: begin");
    let all = [serve::SCENARIOS, disturb::SCENARIOS, starve::SCENARIOS, host::SCENARIOS].concat();
    let wanted = |name: &str| only.is_none_or(|only| only.split(',').any(|part| name.contains(part)));
    let renewal = (share.0 == 0 && wanted(serve::RENEWAL)).then(serve::Renewal::begin);
    let mut report = |name: &str, result: anyhow::Result<()>| match result {
        Ok(()) => println!("ok      {name} (at {} s)", uptime()),
        Err(error) => {
            failed += 1;
            println!("FAILED  {name}: {error:#}");
        }
    };
    for (name, scenario) in all.iter().filter(|(name, _)| wanted(name)).skip(share.0).step_by(share.1.max(1)) {
        let watched = Watchdog::start(name);
        report(name, scenario(kernel));
        drop(watched);
    }
    if let Some(renewal) = renewal {
        report(serve::RENEWAL, renewal.and_then(serve::Renewal::end));
    }
    println!("{END_MARK}, {failed} failed");
    if failed > 0 {
        bail!("{failed} scenarios failed");
    }
    Ok(())
}

/// Seconds since the guest's boot.
fn uptime() -> String {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().unwrap_or_default().to_owned()
}

/// Ends the guest if a scenario stands still, and says where.
struct Watchdog(std::sync::mpsc::Sender<()>);

impl Watchdog {
    fn start(name: &'static str) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if receiver.recv_timeout(SCENARIO_MAX) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            println!("FAILED  {name}: it stands still");
            let look = "for t in /proc/[0-9]*/task/*; do tr '\\0' ' ' < $t/cmdline | grep -qE 'linegate|xtask' && \
                        { tr '\\0' ' ' < $t/cmdline; cat $t/comm $t/wchan $t/syscall $t/stack; echo; }; done; dmesg | tail -n 20; \
                        poweroff -f";
            let _ = shell::run(std::process::Command::new("sh").args(["-c", look]));
        });
        Self(sender)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// Runs something with a tunnel over a wire; what went wrong comes with logs and counters.
fn with(
    wire: u8,
    branches: u8,
    setup: Setup,
    work: impl FnOnce(&mut Tunnel<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let bed = Bed::new(wire, branches)?;
    on(&bed, setup, work)
}

/// The same over a wire that is there.
fn on(bed: &Bed, setup: Setup, work: impl FnOnce(&mut Tunnel<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let shown = format!("{setup:?}");
    let mut tunnel = Tunnel::new(bed, setup).with_context(|| shown.clone())?;
    let result = work(&mut tunnel);
    result.map_err(|error| anyhow::anyhow!("{error:#}\nwith {shown}\n{}", tunnel.describe()))
}
