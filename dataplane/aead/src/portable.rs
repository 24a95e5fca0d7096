//! The backend for every CPU: packet by packet through `ring`, whose assembly is constant-time and verifies a tag before
//! it gives out plaintext.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::{Packet, TAG_BYTES, Verdict, nonce};

pub(crate) fn open(packet: &mut Packet<'_>) {
    packet.verdict = try_open(packet).unwrap_or(Verdict::BadLength);
}

pub(crate) fn seal(packet: &mut Packet<'_>) {
    packet.verdict = try_seal(packet).unwrap_or(Verdict::BadLength);
}

fn try_open(packet: &mut Packet<'_>) -> Option<Verdict> {
    let key = key(packet)?;
    let end = packet.start.checked_add(packet.len)?;
    let text = packet.frame.get_mut(packet.start..end).filter(|text| text.len() >= TAG_BYTES)?;
    let nonce = Nonce::assume_unique_for_key(nonce(packet.counter));
    if key.open_in_place(nonce, Aad::empty(), text).is_ok() {
        return Some(Verdict::Ok);
    }
    // ring decrypts while it authenticates: on failure nothing of what it wrote may stay.
    text.fill(0);
    Some(Verdict::BadTag)
}

fn try_seal(packet: &mut Packet<'_>) -> Option<Verdict> {
    let key = key(packet)?;
    let end = packet.start.checked_add(packet.len)?;
    let text = packet.frame.get_mut(packet.start..end.checked_add(TAG_BYTES)?)?;
    let (plaintext, tag) = text.split_at_mut_checked(packet.len)?;
    let nonce = Nonce::assume_unique_for_key(nonce(packet.counter));
    let sealed = key.seal_in_place_separate_tag(nonce, Aad::empty(), plaintext).ok()?;
    tag.copy_from_slice(sealed.as_ref());
    Some(Verdict::Ok)
}

/// Making ring's key is a copy of 32 bytes.
fn key(packet: &Packet<'_>) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, packet.key.bytes()).ok()?))
}
