//! WireGuard messages (paper, section 5.4). All integers are little-endian.

use crate::ids::ReceiverIndex;

/// Bytes of an authentication tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of a handshake initiation.
pub const INITIATION_BYTES: usize = 148;
/// Bytes of a handshake response.
pub const RESPONSE_BYTES: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY_BYTES: usize = 64;
/// Bytes in front of a transport message's ciphertext.
pub const TRANSPORT_HEADER_BYTES: usize = 16;
/// Bytes of the smallest transport message, a keepalive.
pub const TRANSPORT_MIN_BYTES: usize = TRANSPORT_HEADER_BYTES + TAG_BYTES;

/// Type 1.
pub const TYPE_INITIATION: u32 = 1;
/// Type 2.
pub const TYPE_RESPONSE: u32 = 2;
/// Type 3.
pub const TYPE_COOKIE_REPLY: u32 = 3;
/// Type 4.
pub const TYPE_TRANSPORT: u32 = 4;

/// What a datagram is, by its first bytes and its length. Nothing is authenticated yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A handshake initiation.
    Initiation,
    /// A handshake response.
    Response,
    /// A cookie reply.
    CookieReply,
    /// Transport data.
    Transport {
        /// The session it claims.
        receiver: ReceiverIndex,
        /// Its counter.
        counter: u64,
    },
}

/// Why a datagram is not a WireGuard message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The first four bytes are none of the types with three zero bytes behind it.
    Type,
    /// The length does not fit the type.
    Length,
}

impl Message {
    /// Tells the messages apart.
    ///
    /// # Errors
    /// [`Malformed`].
    #[inline]
    pub fn classify(datagram: &[u8]) -> Result<Self, Malformed> {
        let len = datagram.len();
        let exactly = |bytes, message| if len == bytes { Ok(message) } else { Err(Malformed::Length) };
        match word(datagram, 0).ok_or(Malformed::Length)? {
            TYPE_TRANSPORT if len >= TRANSPORT_MIN_BYTES => {
                let receiver = ReceiverIndex(word(datagram, 4).ok_or(Malformed::Length)?);
                let counter = datagram.get(8..).and_then(<[u8]>::first_chunk).ok_or(Malformed::Length)?;
                Ok(Self::Transport { receiver, counter: u64::from_le_bytes(*counter) })
            }
            TYPE_TRANSPORT => Err(Malformed::Length),
            TYPE_INITIATION => exactly(INITIATION_BYTES, Self::Initiation),
            TYPE_RESPONSE => exactly(RESPONSE_BYTES, Self::Response),
            TYPE_COOKIE_REPLY => exactly(COOKIE_REPLY_BYTES, Self::CookieReply),
            _ => Err(Malformed::Type),
        }
    }
}

/// Writes the header of a transport message.
#[inline]
pub fn write_transport_header(header: &mut [u8; TRANSPORT_HEADER_BYTES], receiver: u32, counter: u64) {
    let [t0, t1, t2, t3] = TYPE_TRANSPORT.to_le_bytes();
    let [r0, r1, r2, r3] = receiver.to_le_bytes();
    let [c0, c1, c2, c3, c4, c5, c6, c7] = counter.to_le_bytes();
    *header = [t0, t1, t2, t3, r0, r1, r2, r3, c0, c1, c2, c3, c4, c5, c6, c7];
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|&word| u32::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        let at = len.min(4);
        bytes[..at].copy_from_slice(&kind.to_le_bytes()[..at]);
        bytes
    }

    #[test]
    fn each_type_has_its_exact_length() {
        for (kind, right, want) in [
            (1, INITIATION_BYTES, Message::Initiation),
            (2, RESPONSE_BYTES, Message::Response),
            (3, COOKIE_REPLY_BYTES, Message::CookieReply),
        ] {
            for len in 0..300 {
                let got = Message::classify(&message(kind, len));
                assert_eq!(got, if len == right { Ok(want) } else { Err(Malformed::Length) }, "type {kind}, {len} B");
            }
        }
        assert_eq!(Message::classify(&message(4, 31)), Err(Malformed::Length));
        assert_eq!(Message::classify(&message(5, 32)), Err(Malformed::Type));
        assert_eq!(Message::classify(&message(0x0100_0004, 32)), Err(Malformed::Type), "reserved bytes");
    }

    #[test]
    fn a_transport_header_reads_as_it_was_written() {
        let mut bytes = [0; 32];
        write_transport_header(bytes.first_chunk_mut().unwrap(), 0x8765_4321, u64::MAX - 5);
        let want = Message::Transport { receiver: ReceiverIndex(0x8765_4321), counter: u64::MAX - 5 };
        assert_eq!(Message::classify(&bytes), Ok(want));
    }
}
