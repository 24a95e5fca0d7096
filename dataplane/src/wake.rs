//! Waking a sleeping worker: an eventfd that its poll() includes.
#![expect(unsafe_code, reason = "eventfd has no safe wrapper in the libraries at hand")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// Something to sleep on.
#[derive(Debug)]
pub struct Wake(File);

impl Wake {
    /// A new one, not yet woken.
    ///
    /// # Errors
    /// What eventfd(2) says.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is owned by nobody else.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Wakes the sleeper, now or when it next goes to sleep.
    pub fn wake(&self) {
        // Fails only when it has been woken 2^64 - 2 times unheard, and then it is awake anyway.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Forgets past wakes.
    pub fn clear(&self) {
        let mut count = [0; 8];
        let _ = (&self.0).read(&mut count);
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
