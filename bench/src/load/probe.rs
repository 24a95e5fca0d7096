//! The packets that a load is made of: UDP datagrams whose payload says which trial, flow and place in the trial's
//! sequence they have and when they were due, so that the receiving side needs to know nothing else.
//!
//! ```text
//!  0       4       8               16              24      28
//!  ├ trial ┼ flow ─┼── sequence ───┼── due (ns) ───┼ crc32 ┼─ filling ...
//! ```
//! All little-endian. The CRC covers what is in front of it; the filling is always the same, and compared.

use linegate_wire::time::Instant;

/// Bytes of a probe without filling.
pub(crate) const PROBE_BYTES: usize = 28;
const CHECKED_BYTES: usize = PROBE_BYTES - 4;

/// The most payload a probe has.
const PAYLOAD_MAX: usize = 2048;

static FILLING: [u8; PAYLOAD_MAX] = filling();

const fn filling() -> [u8; PAYLOAD_MAX] {
    let mut bytes = [0; PAYLOAD_MAX];
    let mut state: u32 = 1;
    let mut rest: &mut [u8] = &mut bytes;
    while let [byte, more @ ..] = rest {
        // A linear congruential generator: no run of it looks like another.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [high, ..] = state.to_be_bytes();
        *byte = high;
        rest = more;
    }
    bytes
}

/// What a packet of a load says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Which trial it belongs to.
    pub(crate) trial: u32,
    /// Whose it is.
    pub(crate) flow: u32,
    /// Its place among all packets of the trial and direction.
    pub(crate) sequence: u64,
    /// When it was to be sent, by the schedule.
    pub(crate) due: Instant,
}

impl Probe {
    /// Fills a payload of at least [`PROBE_BYTES`]; shorter ones stay as they are.
    pub(crate) fn write(&self, payload: &mut [u8]) {
        let Some((head, rest)) = payload.split_first_chunk_mut::<PROBE_BYTES>() else { return };
        let (checked, crc) = head.split_at_mut(CHECKED_BYTES);
        let fields = self.trial.to_le_bytes().into_iter().chain(self.flow.to_le_bytes());
        let fields = fields.chain(self.sequence.to_le_bytes()).chain(self.due.as_nanos().to_le_bytes());
        checked.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        crc.copy_from_slice(&crc32fast::hash(checked).to_le_bytes());
        let len = rest.len().min(PAYLOAD_MAX);
        if let (Some(to), Some(from)) = (rest.get_mut(..len), FILLING.get(..len)) {
            to.copy_from_slice(from);
        }
    }

    /// Reads a payload; nothing if a single byte is not as it was written.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (head, rest) = payload.split_first_chunk::<PROBE_BYTES>()?;
        let (checked, crc) = head.split_first_chunk::<CHECKED_BYTES>()?;
        if crc != crc32fast::hash(checked).to_le_bytes() || FILLING.get(..rest.len())? != rest {
            return None;
        }
        let (trial, rest) = checked.split_first_chunk()?;
        let (flow, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let due = rest.first_chunk()?;
        Some(Self {
            trial: u32::from_le_bytes(*trial),
            flow: u32::from_le_bytes(*flow),
            sequence: u64::from_le_bytes(*sequence),
            due: Instant::from_nanos(u64::from_le_bytes(*due)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_reads_as_written_and_no_byte_may_change() {
        let probe = Probe { trial: 7, flow: 99_999, sequence: 1 << 40, due: Instant::from_nanos(u64::MAX / 3) };
        for len in [PROBE_BYTES, 36, 300, 1392] {
            let mut payload = vec![0; len];
            probe.write(&mut payload);
            assert_eq!(Probe::read(&payload), Some(probe));
            for at in 0..len {
                payload[at] ^= 0x10;
                assert_eq!(Probe::read(&payload), None, "byte {at} of {len}");
                payload[at] ^= 0x10;
            }
        }
        assert_eq!(Probe::read(&[0; PROBE_BYTES - 1]), None);
        assert_eq!(Probe::read(&vec![0; 4000]), None);
    }
}
