//! What the guest is made of, by package name, kept in `target/guest` between runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use xtask::debian::{self, Suites};
use xtask::shell;

/// A kernel to boot: where it comes from, and its files once unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// As `--kernel` names it.
    pub(crate) name: &'static str,
    suite: &'static str,
    root: PathBuf,
}

/// The newest one there is, whose igb driver has zero-copy, and the oldest that linegate is tested on.
pub(crate) fn kernels() -> [Kernel; 2] {
    [("recent", "sid"), ("oldest", "bookworm")].map(|(name, suite)| Kernel {
        name,
        suite,
        root: super::directory().join(name),
    })
}

impl Kernel {
    /// Unpacks it, unless it is there.
    pub(crate) fn fetch(&self) -> anyhow::Result<()> {
        once(&self.root, |into| {
            let suites = Suites::fetch(&super::directory().join("apt").join(self.name), &[self.suite])?;
            // The package of no version depends on that of the newest one; recent ones are split in parts.
            let of = |package: &str, prefix: &str| {
                let depends = suites.dependencies(package)?;
                let found = depends.into_iter().filter(|name| name.starts_with(prefix) && name.ends_with("-amd64"));
                anyhow::Ok(found.collect::<Vec<_>>())
            };
            let image = of("linux-image-amd64", "linux-image-")?.pop().context("linux-image-amd64 names no kernel")?;
            suites.unpack(&image, into)?;
            for prefix in ["linux-binary-", "linux-modules-", "linux-base-"] {
                of(&image, prefix)?.iter().try_for_each(|part| suites.unpack(part, into))?;
            }
            // Where the packages leave it to the system that /lib is in /usr.
            if !into.join("lib").exists() {
                std::os::unix::fs::symlink("usr/lib", into.join("lib"))?;
            }
            let version = image.trim_start_matches("linux-image-");
            shell::output(Command::new("depmod").arg("-b").arg(into).arg(version)).map(drop)
        })
    }

    /// The kernel's image, wherever its package puts it.
    pub(crate) fn image(&self) -> anyhow::Result<PathBuf> {
        let release = self.release()?;
        let places = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
        let found = places.iter().map(|place| self.root.join(place)).find(|path| path.exists());
        found.with_context(|| format!("no image of {release} in {}", self.root.display()))
    }

    /// The files of these modules and of those they need, in the order of loading.
    pub(crate) fn modules(&self, names: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let release = self.release()?;
        let mut files = Vec::new();
        for name in names {
            let mut modprobe = Command::new("modprobe");
            modprobe.arg("-d").arg(&self.root).args(["-S", &release, "--show-depends", name]);
            let text = shell::output(&mut modprobe)?;
            for path in text.lines().filter_map(|line| line.strip_prefix("insmod ")) {
                let path = PathBuf::from(path.trim());
                if !files.contains(&path) {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }

    /// Its version.
    pub(crate) fn release(&self) -> anyhow::Result<String> {
        let folder = self.root.join("lib/modules");
        let mut entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let entry = entries.next().with_context(|| format!("{} is empty", folder.display()))??;
        Ok(entry.file_name().to_string_lossy().into_owned())
    }
}

/// QEMU with what it needs, unpacked unless it is there. igb came with QEMU 8: Debian 12's own is too old.
pub(crate) fn qemu() -> anyhow::Result<Command> {
    let root = super::directory().join("qemu");
    once(&root, |into| {
        let (codename, apt) = (debian::codename()?, super::directory().join("apt/qemu"));
        let backports = format!("{codename}-backports");
        // The newest suites have no backports, and need none.
        let (suites, suite) = match Suites::fetch(&apt, &[&codename, &backports]) {
            Ok(suites) => (suites, backports),
            Err(_) => (Suites::fetch(&apt, &[&codename])?, codename),
        };
        suites.unpack_with_needs("qemu-system-x86", &suite, into)
    })?;
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| root.join(path));
    let program = root.join("usr/bin/qemu-system-x86_64");
    let mut command = Command::new(program);
    let path: Vec<String> = libraries.iter().map(|path| path.display().to_string()).collect();
    command.env("LD_LIBRARY_PATH", path.join(":"));
    for folder in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        command.arg("-L").arg(root.join(folder));
    }
    Ok(command)
}

/// Fills a folder; half-filled ones are never taken for whole.
fn once(folder: &Path, fill: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partial = folder.with_file_name(format!("{name}.partial"));
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir_all(&partial)?;
    if let Err(error) = fill(&partial) {
        // Most often the disk is full: what is left of this is no use to anyone.
        let _ = std::fs::remove_dir_all(&partial);
        return Err(error);
    }
    std::fs::rename(&partial, folder).with_context(|| folder.display().to_string())
}
