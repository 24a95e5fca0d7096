//! What the process must be allowed to do, named before anything fails for want of it.

use caps::{CapSet, Capability};

/// A capability that is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{list} missing: {purpose}; run as root, or grant it (systemd: AmbientCapabilities={list})", list = .names.join(" "))]
pub struct MissingPrivilege {
    /// The capabilities' names.
    pub names: Vec<String>,
    /// What they are for.
    pub purpose: &'static str,
}

/// Whether this process has a capability at present.
#[must_use]
pub fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// What every gateway needs: to make an interface and to mark packets.
///
/// # Errors
/// The capabilities that are missing.
pub fn check_basic() -> Result<(), MissingPrivilege> {
    check(&[Capability::CAP_NET_ADMIN], "needed to make the tunnel interface")
}

/// What `AF_XDP` needs besides: raw sockets and loading programs. Without `CAP_PERFMON` the kernel refuses a program that
/// reckons with addresses of packets, as ours must.
///
/// # Errors
/// The capabilities that are missing.
pub fn check_xdp() -> Result<(), MissingPrivilege> {
    check(
        &[Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF, Capability::CAP_PERFMON],
        "needed for the XDP program and AF_XDP sockets (io = \"udp\" needs CAP_NET_ADMIN alone)",
    )
}

fn check(needed: &[Capability], purpose: &'static str) -> Result<(), MissingPrivilege> {
    let missing = |capability: &&Capability| {
        // Before these two there was CAP_SYS_ADMIN, which still includes them.
        let split_off = matches!(**capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
        let stands_in = split_off && has(Capability::CAP_SYS_ADMIN);
        !has(**capability) && !stands_in
    };
    let names: Vec<String> = needed.iter().filter(missing).map(ToString::to_string).collect();
    if names.is_empty() { Ok(()) } else { Err(MissingPrivilege { names, purpose }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_capability_and_what_to_do() {
        let error = MissingPrivilege { names: vec!["CAP_NET_ADMIN".into()], purpose: "needed here" };
        let text = error.to_string();
        assert!(text.contains("CAP_NET_ADMIN missing") && text.contains("AmbientCapabilities"), "{text}");
    }
}
