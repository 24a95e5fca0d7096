//! The guest's first and only file system: programs of this machine with their libraries, modules, and linegate.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use xtask::shell;

use super::cpio::Archive;
use super::fetch::Kernel;

const MODULES: &[&str] = &["virtio_pci", "virtio_net", "igb", "e1000e", "tun", "veth", "wireguard", "8021q"];

/// What only tells more of the sockets, and older kernels are built without.
const EXTRA_MODULE: &str = "xsk_diag";

const PROGRAMS: &[&str] = &["bash", "busybox", "ip", "ss", "wg", "wg-quick", "ethtool", "ping", "iperf3"];

/// Process 1: mounts what is usual, loads the modules, and runs the scenarios or a shell.
const INIT: &str = r#"#!/usr/bin/busybox sh
/usr/bin/busybox --install -s /usr/local/bin
export PATH=/usr/sbin:/usr/bin:/usr/local/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/net
ln -s /proc/self/fd /dev/fd
mount -t devpts pts /dev/pts
mount -t tmpfs run /run
mkdir -p /run/netns /run/wireguard
mount -t tmpfs tmp /tmp
mount -t debugfs debug /sys/kernel/debug
ln -s /run /var/run
for module in $(cat /modules); do insmod /lib/modules/$module || echo "init: $module: not loaded"; done
ip link set lo up
stty -F /dev/ttyS1 raw -echo
if grep -q guest.shell /proc/cmdline; then
    echo 'NICs are in the first namespace; scenarios: xtask guest-scenarios [NAME]. "exit" ends the guest.'
    setsid cttyhack bash
else
    xtask guest-scenarios $(sed -n 's/.*guest.run=\([^ ]*\).*/\1/p' /proc/cmdline | tr + ' ') >/dev/ttyS1 2>&1
fi
poweroff -f
"#;

/// Writes the archive for a kernel, with this linegate.
pub(crate) fn write(kernel: &Kernel, linegate: &Path, to: &Path) -> anyhow::Result<()> {
    let file = File::create(to).with_context(|| to.display().to_string())?;
    let mut archive = Archive::new(BufWriter::new(file));
    for folder in
        ["proc", "sys", "dev", "run", "tmp", "root", "var", "etc/wireguard", "usr/bin", "usr/sbin", "usr/local/bin"]
    {
        archive.directory(folder)?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        archive.link(name, &format!("usr/{name}"))?;
    }
    archive.file("init", INIT.as_bytes())?;
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let path = find(name)?;
        libraries.append(&mut libraries_of(&path)?);
        archive.file(&format!("usr/bin/{name}"), &std::fs::read(&path)?)?;
    }
    let quick = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("linegate-quick");
    archive.file("usr/bin/linegate-quick", &std::fs::read(&quick).with_context(|| quick.display().to_string())?)?;
    // This program itself, even if a build has put another in its place meanwhile.
    let runner = super::directory().join("runner");
    std::fs::copy("/proc/self/exe", &runner).context("copying this program")?;
    for (name, path) in [("linegate", linegate), ("xtask", &runner)] {
        libraries.append(&mut libraries_of(path)?);
        archive.file(&format!("usr/bin/{name}"), &stripped(path)?)?;
    }
    for library in libraries {
        let name = library.display().to_string();
        let path = name.trim_start_matches('/');
        let path = if path.starts_with("usr/") { path.to_owned() } else { format!("usr/{path}") };
        archive.file(&path, &std::fs::read(&library).with_context(|| name.clone())?)?;
    }
    let mut order = String::new();
    let extra = kernel.modules(&[EXTRA_MODULE]).unwrap_or_default();
    for module in kernel.modules(MODULES)?.into_iter().chain(extra) {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let plain = name.trim_end_matches(".xz").trim_end_matches(".zst");
        archive.file(&format!("usr/lib/modules/{plain}"), &decompressed(&module)?)?;
        order += &format!("{plain}\n");
    }
    archive.file("modules", order.as_bytes())?;
    archive.finish().map_err(Into::into)
}

fn find(name: &str) -> anyhow::Result<PathBuf> {
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    found.with_context(|| format!("{name} is not installed (cargo xtask setup)"))
}

/// What the dynamic linker would load.
fn libraries_of(program: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    // A script has none, and ldd says so by failing.
    let Ok(text) = shell::output(Command::new("ldd").arg(program)) else { return Ok(BTreeSet::new()) };
    if text.contains("not found") {
        bail!("{} lacks libraries: {text}", program.display());
    }
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

fn stripped(program: &Path) -> anyhow::Result<Vec<u8>> {
    let to = super::directory().join("stripped");
    shell::output(Command::new("strip").arg("-o").arg(&to).arg(program))?;
    Ok(std::fs::read(&to)?)
}

fn decompressed(module: &Path) -> anyhow::Result<Vec<u8>> {
    let program = match module.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return Ok(std::fs::read(module)?),
    };
    let output = Command::new(program).arg("-dc").arg(module).output().with_context(|| program)?;
    anyhow::ensure!(output.status.success(), "{program} -dc {}", module.display());
    Ok(output.stdout)
}
