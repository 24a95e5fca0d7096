//! Work done in another network namespace: its sockets stay there, whoever uses them later.

use std::fs::File;

use anyhow::Context;
use nix::sched::{CloneFlags, setns};

/// Takes the calling thread into a namespace of `ip netns`; without a name it stays where it is.
///
/// # Errors
/// When there is no such namespace, or root is missing.
pub(crate) fn enter(name: Option<&str>) -> anyhow::Result<()> {
    let Some(name) = name else { return Ok(()) };
    let path = format!("/run/netns/{name}");
    let file = File::open(&path).with_context(|| format!("{path}: no such network namespace (ip netns list)"))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering network namespace {name} needs root"))
}

/// Does something in a namespace, on a thread of its own.
///
/// # Errors
/// As [`enter`], or what the work says.
pub(crate) fn within<T: Send>(
    name: Option<&str>,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            enter(name)?;
            work()
        });
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
    })
}
