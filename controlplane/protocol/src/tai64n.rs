//! TAI64N timestamps, coarsened as the kernel does so that they say little about our clock (paper, section 5.4.2).

use std::time::Duration;

/// Bytes of a timestamp.
pub(crate) const TIMESTAMP_BYTES: usize = 12;

/// The label's offset of TAI64: 2^62, and the ten seconds between TAI and UTC in 1970.
const EPOCH: u64 = 0x4000_0000_0000_000a;

/// Two initiations a peer accepts are this far apart at least, so nothing is lost by rounding down to a power of two
/// below it (the kernel's rule: the largest one under a fiftieth of a second).
const WHITENER: u32 = 0x1_000_000 - 1;

/// A timestamp: compares as the moments do.
pub(crate) fn timestamp(wall: Duration) -> [u8; TIMESTAMP_BYTES] {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = EPOCH.wrapping_add(wall.as_secs()).to_be_bytes();
    let [n0, n1, n2, n3] = (wall.subsec_nanos() & !WHITENER).to_be_bytes();
    [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_rise_with_time_and_hide_the_low_bits() {
        let at = |millis| timestamp(Duration::from_millis(millis));
        assert!(at(1_000) < at(1_020) && at(1_980) < at(2_000) && at(2_000) < at(1_000_000_000_000));
        assert_eq!(timestamp(Duration::new(1, 5)), timestamp(Duration::new(1, 16_000_000)));
        assert_eq!(timestamp(Duration::ZERO)[..8], EPOCH.to_be_bytes());
    }
}
