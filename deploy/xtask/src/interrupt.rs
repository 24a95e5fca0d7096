//! Ctrl-C: the flag is looked at between steps, and the guards clean up on the way out.
#![expect(unsafe_code, reason = "signal(2) has no safe wrapper among this crate's few dependencies")]

use std::sync::atomic::{AtomicBool, Ordering};

static STOPPED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    STOPPED.store(true, Ordering::Relaxed);
}

pub(crate) fn catch() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

pub(crate) fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!STOPPED.load(Ordering::Relaxed), "interrupted; everything was taken away again");
    Ok(())
}
