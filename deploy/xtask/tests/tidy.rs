//! The house rules that a machine can check.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, MetadataCommand};

const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn tracked_files() -> Vec<PathBuf> {
    let listed =
        Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root()).output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    names.lines().map(|name| root().join(name)).filter(|path| path.is_file()).collect()
}

#[test]
fn every_rust_file_says_what_it_is_and_is_short() {
    let mut wrong = Vec::new();
    for path in tracked_files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs")) {
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.starts_with("//!") {
            wrong.push(format!("{} does not open with //!", path.display()));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{} has {lines} lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME"), concat!("#[ign", "ore")];
    for path in tracked_files() {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for mark in marks {
            assert!(!text.contains(mark), "{}: {mark}", path.display());
        }
    }
}

/// Who may depend on whom; tests and build scripts aside.
const RULE: &[(&str, &[&str])] = &[
    ("linegate-wire", &[]),
    ("linegate-aead", &[]),
    ("linegate-ebpf", &[]),
    ("linegate-x25519", &[]),
    ("linegate-protocol", &["linegate-wire", "linegate-x25519"]),
    ("linegate-dataplane", &["linegate-wire", "linegate-aead"]),
    ("linegate", &["linegate-protocol", "linegate-dataplane", "linegate-ebpf", "linegate-wire", "linegate-aead"]),
    (
        "linegate-bench",
        &[
            "linegate-protocol",
            "linegate-x25519",
            "linegate-dataplane",
            "linegate-ebpf",
            "linegate-wire",
            "linegate-aead",
            "xtask",
        ],
    ),
    ("xtask", &[]),
];

#[test]
fn dependencies_point_the_right_way() {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap();
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(ours, RULE.iter().map(|(name, _)| *name).collect(), "every crate has its rule");
    for package in &metadata.packages {
        let (_, allowed) = RULE.iter().find(|(name, _)| *name == package.name.as_str()).unwrap();
        for dependency in package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal) {
            let name = dependency.name.as_str();
            assert!(!ours.contains(name) || allowed.contains(&name), "{} must not depend on {name}", package.name);
        }
    }
}

/// Licences that MIT OR Apache-2.0 programs may be built from, and that ask no more than to be named.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[test]
fn every_dependency_has_a_licence_we_may_use() {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).exec().unwrap();
    assert!(metadata.packages.len() > 100, "all that is linked in, not only what is named");
    let allowed = |text: &str| {
        let expression = spdx::Expression::parse_mode(text, spdx::ParseMode::LAX).unwrap();
        expression.evaluate(|wanted| wanted.license.id().is_some_and(|id| LICENCES.contains(&id.name)))
    };
    let wrong: Vec<String> = metadata
        .packages
        .iter()
        .filter(|package| !package.license.as_deref().is_some_and(allowed))
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_names_a_package_registry() {
    let hosts =
        [["crates", "io/"], ["pypi", "org"], ["registry.npmjs", "org"], ["deb.debian", "org"], ["static.crates", "io"]];
    let lock = root().join("Cargo.lock");
    for path in tracked_files().into_iter().filter(|path| *path != lock) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for host in hosts.map(|parts| parts.join(".")) {
            assert!(!text.contains(&host), "{}: {host}", path.display());
        }
    }
}
