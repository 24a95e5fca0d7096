//! `cargo xtask package-test`: the Debian package in a bare Debian: installed, started, upgraded, removed, purged.
//!
//! The bare Debian is debootstrap's, kept under `target/`, and copied for each run. What runs in it runs in a network
//! namespace, with the command, the capabilities and the environment that the unit gives it; systemd itself does not run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use xtask::netns::{Daemon, Link, Namespace};
use xtask::{debian, shell};

use crate::deb::{self, Profile};

/// What the unit file may be exposed to at most, as `systemd-analyze security` counts, times ten.
const EXPOSURE_MAX: &str = "--threshold=30";
/// What the package needs that every Debian has, and systemd to judge the unit.
const INCLUDE: &str = "--include=init-system-helpers,iproute2,systemd,man-db,groff";
const UNIT: &str = "usr/lib/systemd/system/linegate@.service";
const SETTINGS: &str = "io = \"xdp\"\nunderlay = \"eth0\"\n";

/// Builds the package twice, an older and a newer version, and takes them through a package's life.
pub(crate) fn run() -> anyhow::Result<()> {
    let old = deb::build(Profile::Dev, "~old")?;
    let new = deb::build(Profile::Dev, "")?;
    let machine = Machine::new()?;
    say("install");
    machine.dpkg_install(&old)?;
    machine.run("dpkg --verify linegate")?;
    machine.inspect()?;
    say("start");
    machine.configure()?;
    let mut gateway = machine.start()?;
    say("upgrade");
    machine.append("etc/default/linegate", "LINEGATE_LOG=debug\n")?;
    machine.dpkg_install(&new)?;
    ensure!(machine.read("etc/default/linegate")?.contains("\nLINEGATE_LOG=debug\n"), "the upgrade lost an edit");
    machine.run("linegate status wg0")?;
    gateway.stop();
    ensure!(machine.ours.ip("link show wg0").is_err(), "the interface outlived its gateway");
    machine.start()?.stop();
    say("remove");
    machine.run("dpkg --remove linegate")?;
    machine.expect(&["etc/default/linegate", "etc/wireguard/wg0.conf", "etc/linegate/wg0.toml"], true)?;
    machine.expect(&["usr/bin/linegate", UNIT, "usr/share/doc/linegate"], false)?;
    say("purge");
    machine.run("dpkg --purge linegate")?;
    machine.expect(&["etc/default/linegate"], false)?;
    machine.expect(&["etc/wireguard/wg0.conf", "etc/linegate/wg0.toml"], true)?;
    ensure!(machine.run("dpkg --status linegate").is_err(), "dpkg still knows the purged package");
    say("installed, started, upgraded, removed and purged");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the user waits for this")]
fn say(what: &str) {
    println!("package: {what}");
}

/// A bare Debian with two network namespaces, one its own, one for what is at the other end of its cable.
struct Machine {
    root: PathBuf,
    ours: Namespace,
    _theirs: Namespace,
}

impl Machine {
    fn new() -> anyhow::Result<Self> {
        let folder = deb::root().join("target/package-test");
        let base = base(&folder)?;
        let (ours, theirs) = (Namespace::new("deb")?, Namespace::new("wire")?);
        let link = |addresses| Link { name: "eth0", addresses };
        ours.join(&theirs, &link(&["192.0.2.1/24"]), &link(&["192.0.2.2/24"]), 1)?;
        let machine = Self { root: folder.join(format!("root-{}", std::process::id())), ours, _theirs: theirs };
        shell::output(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(&base).arg(&machine.root))?;
        Ok(machine)
    }

    /// A shell line in the machine. Its mounts are those of this one process, and go with it.
    fn command(&self, line: &str) -> Command {
        const ENTER: &str = "mount -t proc proc \"$0/proc\" && mount -t sysfs sysfs \"$0/sys\" && \
                             mount --bind /dev \"$0/dev\" && exec chroot \"$0\" /bin/sh -ec \"$1\"";
        let mut command = self.ours.command("/bin/sh");
        command.args(["-c", ENTER]).arg(&self.root).arg(line);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").env_remove("LINEGATE_LOG");
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    fn run(&self, line: &str) -> anyhow::Result<String> {
        shell::output(&mut self.command(line))
    }

    fn read(&self, path: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.root.join(path)).with_context(|| path.to_owned())
    }

    fn append(&self, path: &str, text: &str) -> anyhow::Result<()> {
        fs::write(self.root.join(path), self.read(path)? + text).with_context(|| path.to_owned())
    }

    fn expect(&self, paths: &[&str], there: bool) -> anyhow::Result<()> {
        for path in paths {
            ensure!(
                self.root.join(path).exists() == there,
                "/{path} should {}be there",
                if there { "" } else { "not " }
            );
        }
        Ok(())
    }

    fn dpkg_install(&self, package: &Path) -> anyhow::Result<()> {
        fs::copy(package, self.root.join("linegate.deb"))?;
        self.run("dpkg --install /linegate.deb; rm /linegate.deb").map(drop)
    }

    /// What lies there and is not run: the unit, man pages, completions.
    fn inspect(&self) -> anyhow::Result<()> {
        self.run("systemd-analyze verify linegate@wg0.service")?;
        let analysis =
            self.run(&format!("systemd-analyze security --no-pager --offline=true {EXPOSURE_MAX} /{UNIT}"))?;
        say(analysis.lines().rev().find(|line| line.contains("exposure")).unwrap_or("").trim());
        self.run("bash -n /usr/share/bash-completion/completions/linegate")?;
        let complaints = self.run("MANROFFSEQ= man --warnings -l /usr/share/man/man1/linegate.1.gz 2>&1 >/dev/null")?;
        ensure!(complaints.trim().is_empty(), "man page: {complaints}");
        self.run("linegate --version")?;
        self.expect(&["usr/share/zsh/vendor-completions/_linegate", "usr/share/fish/vendor_completions.d"], true)
    }

    fn configure(&self) -> anyhow::Result<()> {
        let key = shell::output(Command::new("wg").arg("genkey"))?;
        let wg = format!("[Interface]\nPrivateKey = {}\nListenPort = 51820\nAddress = 10.60.0.1/16\n", key.trim());
        for (path, text) in [("etc/wireguard/wg0.conf", wg.as_str()), ("etc/linegate/wg0.toml", SETTINGS)] {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }

    /// Starts what the unit starts, with no capability but the unit's, and waits for what systemd waits for.
    fn start(&self) -> anyhow::Result<Daemon> {
        let unit = self.read(UNIT)?;
        let value = |key: &str| {
            unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).with_context(|| format!("no {key}"))
        };
        let capabilities = value("CapabilityBoundingSet")?.to_lowercase().replace("cap_", "+").replace(' ', ",");
        let command = value("ExecStart")?.replace("%i", "wg0");
        let socket = self.root.join("run/notify");
        let _ = fs::remove_file(&socket);
        let inbox = UnixDatagram::bind(&socket).with_context(|| socket.display().to_string())?;
        inbox.set_read_timeout(Some(Duration::from_secs(20)))?;
        // LimitMEMLOCK= where this machine may lift the limit, and what stands in for it where not (in a container).
        let line = format!(
            "lock=; ulimit -l unlimited 2>/dev/null || lock=,+ipc_lock; ulimit -c 0
             exec setpriv --bounding-set=-all,{capabilities}$lock --no-new-privs {command}"
        );
        let mut command = self.command(&line);
        command.env("NOTIFY_SOCKET", "/run/notify").env("WATCHDOG_USEC", "500000");
        let log = self.root.join("gateway.log");
        let daemon = self.ours.spawn(&mut command, &log)?;
        for wanted in ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
            let mut buffer = [0; 64];
            let told = inbox.recv(&mut buffer).with_context(|| format!("no {wanted}: {}", daemon.log()))?;
            let told = String::from_utf8_lossy(buffer.get(..told).unwrap_or_default()).into_owned();
            ensure!(told.trim() == wanted, "told {told:?}, not {wanted}");
        }
        let status: serde_json::Value = serde_json::from_str(&self.run("linegate status wg0 --json")?)?;
        ensure!(status.pointer("/workers/0/io").is_some_and(|io| io == "xdp"), "AF_XDP is not in use: {status}");
        Ok(daemon)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// debootstrap's folder, made at the first run (some minutes) from where this machine has its own packages.
fn base(folder: &Path) -> anyhow::Result<PathBuf> {
    let suite = debian::codename()?;
    let base = folder.join(format!("base-{suite}"));
    if base.exists() {
        return Ok(base);
    }
    say("fetching a bare Debian (some minutes, once)");
    let unfinished = folder.join("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(folder)?;
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", INCLUDE, &suite]).arg(&unfinished).arg(debian::source()?);
    shell::output(&mut command)?;
    fs::rename(&unfinished, &base)?;
    Ok(base)
}
