//! Intel's ipsec-mb, for comparison. It writes plaintext before the tag can be compared, so a forgery's would have to be
//! wiped behind it, which this does not count.
#![expect(unsafe_code, reason = "calls of a C library")]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use linegate_aead::{Packet, TAG_BYTES, Verdict};

unsafe extern "C" {
    fn linegate_ipsec_mb_new() -> *mut c_void;
    fn linegate_ipsec_mb_run(manager: *mut c_void, packets: *mut Job, count: u64, seal: c_int);
}

#[repr(C)]
struct Job {
    key: *const u8,
    text: *mut u8,
    bytes: u64,
    nonce: [u8; 12],
    tag: [u8; TAG_BYTES],
}

/// A manager, kept until the process ends.
pub(crate) struct IpsecMb {
    manager: NonNull<c_void>,
    jobs: Vec<Job>,
}

impl IpsecMb {
    /// The best code path for this CPU.
    pub(crate) fn new() -> anyhow::Result<Self> {
        // SAFETY: allocates and initialises a manager.
        let manager = unsafe { linegate_ipsec_mb_new() };
        let manager = NonNull::new(manager).ok_or_else(|| anyhow::anyhow!("ipsec-mb gives no manager"))?;
        Ok(Self { manager, jobs: Vec::new() })
    }

    /// Opens or seals a batch. Ranges that lie outside their frames are refused.
    pub(crate) fn run(&mut self, batch: &mut [Packet<'_>], keys: &[[u8; 32]], seal: bool) {
        self.jobs.clear();
        for (packet, key) in batch.iter_mut().zip(keys) {
            let bytes = if seal { packet.len } else { packet.len.saturating_sub(TAG_BYTES) };
            let Some(text) = packet.frame.get_mut(packet.start..packet.start + bytes + TAG_BYTES) else { return };
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&packet.counter.to_le_bytes());
            let (key, text) = (key.as_ptr(), text.as_mut_ptr());
            self.jobs.push(Job { key, text, bytes: bytes as u64, nonce, tag: [0; TAG_BYTES] });
        }
        let count = self.jobs.len() as u64;
        // SAFETY: the jobs name keys and texts that are borrowed for this call, and all are flushed before it returns.
        unsafe { linegate_ipsec_mb_run(self.manager.as_ptr(), self.jobs.as_mut_ptr(), count, c_int::from(seal)) };
        for (packet, job) in batch.iter_mut().zip(&self.jobs) {
            let end = packet.start + packet.len;
            let place = if seal { end..end + TAG_BYTES } else { end - TAG_BYTES..end };
            let Some(tag) = packet.frame.get_mut(place) else { return };
            if seal {
                tag.copy_from_slice(&job.tag);
            }
            packet.verdict = if *tag == job.tag { Verdict::Ok } else { Verdict::BadTag };
        }
    }
}
