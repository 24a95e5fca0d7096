//! Compiles the BPF programs by clang. Objects are built, so that the crate needs no clang where it runs.
#![expect(clippy::panic, reason = "this is how a build script speaks")]

use std::path::PathBuf;
use std::process::Command;

const ADVICE: &str = "linegate's BPF programs are compiled by clang with libbpf's headers: run `cargo xtask setup`, or \
                      install them (Debian: clang libbpf-dev; Fedora: clang libbpf-devel; Arch: clang libbpf)";

fn main() {
    println!("cargo::rerun-if-changed=bpf/blake2s.h");
    for name in ["steer", "port"] {
        compile(name);
    }
}

fn compile(name: &str) {
    let source = format!("bpf/{name}.bpf.c");
    println!("cargo::rerun-if-changed={source}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join(format!("{name}.bpf.o"));
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c", &source, "-o"]).arg(&out);
    // Debian keeps asm/ in a folder of the architecture's name, which clang does not look into for this target.
    let triple = Command::new("clang")
        .arg("-print-multiarch")
        .output()
        .or_else(|_| Command::new("gcc").arg("-print-multiarch").output());
    let printed = triple.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    for folder in [printed, format!("{arch}-linux-gnu")].into_iter().filter(|folder| !folder.is_empty()) {
        clang.arg("-idirafter").arg(format!("/usr/include/{folder}"));
    }
    match clang.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("clang ended with {status} on {source}. {ADVICE}"),
        Err(error) => panic!("clang could not be run: {error}. {ADVICE}"),
    }
}
