//! Notes the commit that reports name, and compiles the few lines of C that reach Intel's ipsec-mb, if the feature asks for
//! it.

use std::process::Command;

fn main() {
    let git = |words: &[&str]| {
        let output = Command::new("git").args(words).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    // Every commit and checkout writes it.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    let commit = git(&["rev-parse", "--short=10", "HEAD"]).unwrap_or_else(|| "unknown commit".to_owned());
    println!("cargo::rustc-env=LINEGATE_COMMIT={commit}");
    println!("cargo::rerun-if-changed=src/ipsec_mb.c");
    #[cfg(feature = "ipsec-mb")]
    {
        cc::Build::new().file("src/ipsec_mb.c").compile("linegate_ipsec_mb");
        println!("cargo::rustc-link-lib=IPSec_MB");
    }
}
