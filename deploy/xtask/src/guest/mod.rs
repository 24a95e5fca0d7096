//! `cargo xtask guest-test`: linegate on NICs with zero-copy, against the kernel's own WireGuard, in an emulated machine.
//!
//! The machine is QEMU's without hardware virtualisation, so that it runs wherever QEMU does; how fast anything goes in it
//! means nothing. Its NICs are wired to each other and to nothing else.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks to its user")]

mod cpio;
mod fetch;
mod image;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use xtask::shell;

use crate::{interrupt, setup};

/// The whole run of one guest; far beyond what it takes, so that only one that hangs is ended.
const SECONDS_MAX: u32 = 900;
/// Guests that share a kernel's scenarios.
const GUESTS_A_KERNEL: usize = 2;
/// A guest says something sooner than this after its start, or it hangs in its boot, as emulated ones rarely do,
/// and is started again.
const BOOT_SECONDS_MAX: u32 = 90;
const BOOT_TRIES: usize = 3;
/// What the runner in the guest prints when all is done.
pub(crate) const END_MARK: &str = "guest: end";

/// How to run.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// An interactive shell in the guest instead of the scenarios.
    #[arg(long)]
    shell: bool,
    /// Only on this kernel: recent or oldest.
    #[arg(long)]
    kernel: Option<String>,
    /// Only scenarios whose name contains this, or one of several parts separated by commas; without spaces.
    scenario: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// Where everything of the guest's is kept.
fn directory() -> PathBuf {
    root().join("target/guest")
}

/// Builds linegate and runs every scenario on every kernel.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    setup::run()?;
    shell::run(Command::new("cargo").args(["build", "--quiet", "--package", "linegate"]).current_dir(root()))?;
    interrupt::catch();
    let wanted = |name: &str| options.kernel.as_deref().is_none_or(|kernel| kernel == name);
    let kernels: Vec<_> = fetch::kernels().into_iter().filter(|kernel| wanted(kernel.name)).collect();
    ensure!(!kernels.is_empty(), "--kernel is recent or oldest");
    std::fs::create_dir_all(directory())?;
    let parts = fetch::qemu().and_then(|mut qemu| {
        shell::output(qemu.arg("-version"))?;
        kernels.iter().try_for_each(fetch::Kernel::fetch)
    });
    if let Err(error) = parts {
        eprintln!(
            "\n*** SKIPPED: guest-test. QEMU or a kernel for it cannot be had on this machine, so NOTHING was tested with\n\
             *** zero-copy NICs and with the kernel's WireGuard: {error:#}\n"
        );
        return Ok(());
    }
    if options.shell {
        return boot(kernels.first().context("no kernel")?, options, 0).map(drop);
    }
    for kernel in &kernels {
        image::write(kernel, &target_directory().join("debug/linegate"), &archive(kernel))?;
    }
    // Scenarios wait more than they compute, so several guests share them.
    let guests = kernels.iter().flat_map(|kernel| (0..GUESTS_A_KERNEL).map(move |guest| (kernel, guest)));
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let running: Vec<_> =
            guests.map(|(kernel, guest)| (kernel, scope.spawn(move || boot(kernel, options, guest)))).collect();
        let failed = running.into_iter().filter_map(|(kernel, thread)| match thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                eprintln!("kernel {}: {error:#}", kernel.name);
                Some(kernel.name)
            }
            Err(_) => Some(kernel.name),
        });
        failed.collect()
    });
    interrupt::check()?;
    ensure!(
        failed.is_empty(),
        "guest-test failed on: {} (a shell in the same guest: cargo xtask guest-test --shell --kernel {})",
        failed.join(", "),
        failed.first().unwrap_or(&"recent")
    );
    Ok(())
}

fn target_directory() -> PathBuf {
    // We were built into it: target/debug/xtask.
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).map_or_else(|| root().join("target"), Path::to_owned)
}

fn archive(kernel: &fetch::Kernel) -> PathBuf {
    directory().join(format!("{}.cpio", kernel.name))
}

/// Boots one guest, and passes on what its scenarios say.
fn boot(kernel: &fetch::Kernel, options: &Options, guest: usize) -> anyhow::Result<()> {
    let console = directory().join(format!("{}-{guest}.console.log", kernel.name));
    let mut qemu = fetch::qemu()?;
    qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"]);
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.arg("-kernel").arg(kernel.image()?).arg("-initrd").arg(archive(kernel));
    let mut words = "console=ttyS0 panic=-1 quiet loglevel=4".to_owned();
    if options.shell {
        image::write(kernel, &target_directory().join("debug/linegate"), &archive(kernel))?;
        words += " guest.shell";
        qemu.args(["-serial", "mon:stdio"]);
    } else {
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.args(["-chardev", "stdio,id=results,signal=off", "-serial", "chardev:results"]);
        let only = options.scenario.as_ref().map_or(String::new(), |only| format!("+{only}"));
        words += &format!(" guest.run=--from={guest}+--every={GUESTS_A_KERNEL}{only}");
    }
    qemu.args(["-append", &words]);
    for nic in NICS {
        nic.add_to(&mut qemu);
    }
    let title = format!("{} {guest}", kernel.name);
    println!("{title}: Linux {}", kernel.release()?);
    if options.shell {
        qemu.status().context("qemu")?;
        return Ok(());
    }
    let mut outcome = Outcome::Silent;
    for _ in 0..BOOT_TRIES {
        // QEMU warns that the wires lead nowhere; what else it says is in the file.
        let errors = File::create(console.with_extension("qemu.log"))?;
        let child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().context("qemu")?;
        outcome = follow(child, &title)?;
        if outcome != Outcome::Silent {
            break;
        }
        println!("{title}: the guest hangs in its boot");
    }
    let passed = outcome == Outcome::Passed;
    if !passed {
        for file in [console.with_extension("qemu.log"), console.clone()] {
            let log = std::fs::read_to_string(&file).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(100).collect();
            for line in tail.into_iter().rev() {
                eprintln!("{title} console: {line}");
            }
        }
    }
    ensure!(passed, "not every scenario passed; the whole console: {}", console.display());
    Ok(())
}

/// What became of a guest.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    /// It never said a word.
    Silent,
}

/// Prints what the guest says until it ends.
fn follow(mut child: Child, title: &str) -> anyhow::Result<Outcome> {
    let output = child.stdout.take().context("qemu has no output")?;
    let spoke = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut passed = false;
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                spoke.store(true, Ordering::Relaxed);
                let line = line.trim_end();
                println!("{title}: {line}");
                passed |= line == format!("{END_MARK}, 0 failed");
            }
            passed
        });
        let mut ended = || !matches!(child.try_wait(), Ok(None)) || interrupt::check().is_err();
        shell::wait_for(BOOT_SECONDS_MAX, || spoke.load(Ordering::Relaxed) || ended());
        let gone = spoke.load(Ordering::Relaxed) && shell::wait_for(SECONDS_MAX, ended);
        let _ = child.kill();
        let _ = child.wait();
        let passed = reader.join().unwrap_or(false);
        interrupt::check()?;
        if !spoke.load(Ordering::Relaxed) {
            return Ok(Outcome::Silent);
        }
        ensure!(gone, "the guest did not end within {SECONDS_MAX} s");
        Ok(if passed { Outcome::Passed } else { Outcome::Failed })
    })
}

/// A NIC of the guest: its device, and the wire it hangs on. Its Ethernet address tells both.
struct Nic {
    device: &'static str,
    wire: u8,
    number: u8,
}

const fn nic(device: &'static str, wire: u8, number: u8) -> Nic {
    Nic { device, wire, number }
}

/// The first of each wire is linegate's, the others are branches. A hub carries no offloads, so virtio-net's frames are
/// as on a real wire.
const NICS: &[Nic] = &[
    nic("igb", 1, 1),
    nic("igb", 1, 2),
    nic("igb", 1, 3),
    nic("virtio-net-pci", 2, 1),
    nic("virtio-net-pci", 2, 2),
    // Zero-copy wants the device to go through the platform's DMA, as one in a confidential guest or behind vDPA does.
    nic("virtio-net-pci,disable-legacy=on,iommu_platform=on", 3, 1),
    nic("virtio-net-pci,disable-legacy=on,iommu_platform=on", 3, 2),
    nic("e1000e", 4, 1),
    nic("e1000e", 4, 2),
    nic("igb", 5, 1),
    nic("igb", 5, 2),
];

impl Nic {
    fn add_to(&self, qemu: &mut Command) {
        let Self { device, wire, number } = self;
        let id = format!("w{wire}n{number}");
        qemu.arg("-netdev").arg(format!("hubport,hubid={wire},id={id}"));
        // A port of its own: an igb takes a whole bus for its virtual functions.
        qemu.arg("-device").arg(format!("pcie-root-port,id=port-{id},chassis={wire}{number}"));
        let mac = format!("52:54:00:00:{wire:02x}:{number:02x}");
        qemu.arg("-device").arg(format!("{device},bus=port-{id},netdev={id},mac={mac},romfile="));
    }
}
