//! A storm: all peers but the first initiate at once, as after a restart of the hub, while the first one's traffic goes on.

use anyhow::Context as _;

use super::Bed;
use crate::interrupt::Interrupt;
use crate::load::{Established, Io, Sessions, Trial};

/// What came of it.
pub(super) struct Storm {
    pub(super) established: Established,
    /// The first peer's traffic meanwhile.
    pub(super) probe: Trial,
}

/// Raises one, and watches the first peer for `seconds`.
///
/// # Errors
/// When the device ends or answers nobody.
pub(super) fn raise(bed: &Bed, seconds: f64, interrupt: &Interrupt) -> anyhow::Result<Storm> {
    let (_, others) = bed.peers.split_first().context("a storm needs peers")?;
    let mut probe = bed.probe(interrupt)?;
    std::thread::scope(|scope| {
        let probe = scope.spawn(|| probe.run(seconds, interrupt));
        let established = bed.generate(Io::Udp, |port| {
            let mut sessions = Sessions::new(others, bed.testbed.public_key, bed.testbed.target())?;
            sessions.establish_at_once(others.len(), port, || interrupt.is_set())
        });
        let probe = probe.join().map_err(|_| anyhow::anyhow!("the probe panicked"))??;
        Ok(Storm { established: established?, probe })
    })
}
