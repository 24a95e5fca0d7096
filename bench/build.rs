//! Compiles the few lines of C that reach Intel's ipsec-mb, if the feature asks for it.

fn main() {
    println!("cargo::rerun-if-changed=src/ipsec_mb.c");
    #[cfg(feature = "ipsec-mb")]
    {
        cc::Build::new().file("src/ipsec_mb.c").compile("linegate_ipsec_mb");
        println!("cargo::rustc-link-lib=IPSec_MB");
    }
}
