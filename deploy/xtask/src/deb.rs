//! `cargo xtask deb`: the Debian package, by dpkg's own tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use xtask::shell;

/// Where a file of the tree goes in the package, and whether it may be run.
const FILES: &[(&str, &str, bool)] = &[
    ("deploy/linegate-quick", "usr/bin/linegate-quick", true),
    ("deploy/debian/linegate@.service", "usr/lib/systemd/system/linegate@.service", false),
    ("deploy/debian/default", "etc/default/linegate", false),
    ("deploy/linegate.toml.example", "usr/share/doc/linegate/examples/linegate.toml", false),
    ("deploy/debian/sysctl.conf", "usr/share/doc/linegate/examples/sysctl.conf", false),
    ("deploy/grafana/linegate.json", "usr/share/doc/linegate/examples/grafana.json", false),
    ("deploy/authoriser.py", "usr/share/doc/linegate/examples/authoriser.py", false),
    ("deploy/debian/copyright", "usr/share/doc/linegate/copyright", false),
    ("LICENSE-MIT", "usr/share/doc/linegate/LICENSE-MIT", false),
    ("LICENSE-APACHE", "usr/share/doc/linegate/LICENSE-APACHE", false),
    ("CHANGELOG.md", "usr/share/doc/linegate/CHANGELOG.md", false),
    ("docs/operations.md", "usr/share/doc/linegate/operations.md", false),
    ("docs/hub.md", "usr/share/doc/linegate/hub.md", false),
    ("docs/security.md", "usr/share/doc/linegate/security.md", false),
    ("deploy/debian/postinst", "DEBIAN/postinst", true),
    ("deploy/debian/prerm", "DEBIAN/prerm", true),
    ("deploy/debian/postrm", "DEBIAN/postrm", true),
];

/// How the binary is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Release,
    /// Built fast, for tests of the package.
    Dev,
}

/// Builds the package of this tree; `revision` goes behind the version. Returns its path.
pub(crate) fn build(profile: Profile, revision: &str) -> anyhow::Result<PathBuf> {
    // What is only for tests must not be taken for what is to be installed.
    let (profile, folder, out) = match profile {
        Profile::Release => ("release", "release", "target/deb"),
        Profile::Dev => ("dev", "debug", "target/package-test"),
    };
    let root = root();
    let cargo = |words: &[&str]| shell::run(Command::new("cargo").args(words).current_dir(&root));
    cargo(&["build", "--quiet", "--package", "linegate", "--profile", profile])?;
    let work = root.join(out).join("work");
    let package_folder = root.join(out);
    let pages = work.join("pages");
    remove(&pages)?;
    let pages_word = pages.to_str().context("a path that is not UTF-8")?;
    cargo(&["run", "--quiet", "--package", "linegate", "--example", "pages", "--", pages_word])?;
    let tree = work.join("tree");
    remove(&tree)?;
    for (from, to, runs) in FILES {
        install(&root.join(from), &tree.join(to), *runs)?;
    }
    let binary = tree.join("usr/bin/linegate");
    install(&root.join("target").join(folder).join("linegate"), &binary, true)?;
    shell::run(Command::new("strip").arg("--strip-unneeded").arg(&binary))?;
    install_pages(&pages, &tree)?;
    make_folder(&tree.join("etc/linegate"), 0o700)?;
    let architecture = shell::output(Command::new("dpkg").arg("--print-architecture"))?;
    let version = format!("{}{revision}", env!("CARGO_PKG_VERSION"));
    let control = control(&version, architecture.trim(), &libraries(&work, &binary)?, kilobytes(&tree)?);
    fs::write(tree.join("DEBIAN/control"), control)?;
    fs::write(tree.join("DEBIAN/conffiles"), "/etc/default/linegate\n")?;
    let package = package_folder.join(format!("linegate_{version}_{}.deb", architecture.trim()));
    shell::output(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(&package))?;
    Ok(package)
}

/// The tree's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Makes a folder whose mode does not depend on the umask, as those of a package must not.
fn make_folder(folder: &Path, mode: u32) -> anyhow::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|above| !above.exists()).collect();
    for above in missing.into_iter().rev() {
        fs::create_dir(above).with_context(|| above.display().to_string())?;
        fs::set_permissions(above, fs::Permissions::from_mode(if above == folder { mode } else { 0o755 }))?;
    }
    Ok(())
}

fn install(from: &Path, to: &Path, runs: bool) -> anyhow::Result<()> {
    make_folder(to.parent().context("a file without a folder")?, 0o755)?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    fs::set_permissions(to, fs::Permissions::from_mode(if runs { 0o755 } else { 0o644 }))?;
    Ok(())
}

/// Puts the man pages, packed as Debian wants them, and the completions where each reader looks.
fn install_pages(pages: &Path, tree: &Path) -> anyhow::Result<()> {
    let mut manuals = 0;
    for entry in fs::read_dir(pages)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a page's name")?.to_owned();
        let to = match name.as_str() {
            "linegate.bash" => "usr/share/bash-completion/completions/linegate".to_owned(),
            "_linegate" => "usr/share/zsh/vendor-completions/_linegate".to_owned(),
            "linegate.fish" => "usr/share/fish/vendor_completions.d/linegate.fish".to_owned(),
            manual => {
                manuals += 1;
                format!("usr/share/man/man1/{manual}")
            }
        };
        let to = tree.join(to);
        install(&path, &to, false)?;
        if name.ends_with(".1") {
            shell::run(Command::new("gzip").arg("-9n").arg(&to))?;
        }
    }
    ensure!(manuals > 0, "no man page was made in {}", pages.display());
    Ok(())
}

/// What the binary links to, as package names with versions.
fn libraries(work: &Path, binary: &Path) -> anyhow::Result<String> {
    // The tool reads nothing of this file, but does not start without it.
    make_folder(&work.join("debian"), 0o755)?;
    fs::write(work.join("debian/control"), "Source: linegate\n\nPackage: linegate\nArchitecture: any\n")?;
    let text = shell::output(Command::new("dpkg-shlibdeps").arg("-O").arg(binary).current_dir(work))?;
    let line = text.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(line.context("dpkg-shlibdeps named no libraries")?.to_owned())
}

fn kilobytes(tree: &Path) -> anyhow::Result<u64> {
    let text = shell::output(Command::new("du").args(["-sk", "--exclude=DEBIAN"]).arg(tree))?;
    text.split_whitespace().next().and_then(|word| word.parse().ok()).context("du gave no size")
}

fn control(version: &str, architecture: &str, libraries: &str, kilobytes: u64) -> String {
    format!(
        "Package: linegate\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: The linegate authors <linegate@localhost>\n\
         Section: net\nPriority: optional\nInstalled-Size: {kilobytes}\nDepends: {libraries}\n\
         Recommends: wireguard-tools\nSuggests: ethtool\n\
         Description: kernel-bypass WireGuard gateway\n \
         An XDP program steers WireGuard into AF_XDP sockets; pinned workers open and seal whole batches. For VPN\n \
         concentrators and hubs of many branch sites. Peers run stock WireGuard; wg, wg-quick and existing\n \
         configuration files work unchanged.\n"
    )
}
