"""Writes handshake.json by an implementation of its own: hashlib's BLAKE2s and the `cryptography` package.

Follows the WireGuard paper, section 5.4, line by line, and shares no code with linegate. Run: python3 generate.py
"""

import hashlib
import hmac
import json
import pathlib
import struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def h(*parts):
    return hashlib.blake2s(b"".join(parts)).digest()


def hm(key, data):
    return hmac.new(key, data, hashlib.blake2s).digest()


def kdf(key, data, n):
    prk, out, last = hm(key, data), [], b""
    for i in range(1, n + 1):
        last = hm(prk, last + bytes([i]))
        out.append(last)
    return out


def public(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def dh(private, pub):
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(pub))


def seal(key, text, aad):
    return ChaCha20Poly1305(key).encrypt(bytes(12), text, aad)


def handshake(seed, psk):
    si, sr, ei, er = (hashlib.sha256(f"{seed}{name}".encode()).digest() for name in ("si", "sr", "ei", "er"))
    timestamp = bytes.fromhex("400000005fbb1e8a00000000")
    index_i, index_r = 0x01020304, 0xAABBCCDD
    c = h(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
    hh = h(h(c, b"WireGuard v1 zx2c4 Jason@zx2c4.com"), public(sr))
    msg = struct.pack("<II", 1, index_i) + public(ei)
    (c,) = kdf(c, public(ei), 1)
    hh = h(hh, public(ei))
    c, k = kdf(c, dh(ei, public(sr)), 2)
    sealed = seal(k, public(si), hh)
    msg, hh = msg + sealed, h(hh, sealed)
    c, k = kdf(c, dh(si, public(sr)), 2)
    sealed = seal(k, timestamp, hh)
    msg, hh = msg + sealed, h(hh, sealed)
    mac1 = hashlib.blake2s(msg, key=h(b"mac1----", public(sr)), digest_size=16).digest()
    initiation = msg + mac1 + bytes(16)
    msg = struct.pack("<III", 2, index_r, index_i) + public(er)
    (c,) = kdf(c, public(er), 1)
    hh = h(hh, public(er))
    (c,) = kdf(c, dh(er, public(ei)), 1)
    (c,) = kdf(c, dh(er, public(si)), 1)
    c, tau, k = kdf(c, psk, 3)
    hh = h(hh, tau)
    msg += seal(k, b"", hh)
    mac1 = hashlib.blake2s(msg, key=h(b"mac1----", public(si)), digest_size=16).digest()
    response = msg + mac1 + bytes(16)
    send, receive = kdf(c, b"", 2)
    return {
        name: value.hex()
        for name, value in {
            "initiator_private": si, "responder_private": sr, "initiator_ephemeral": ei, "responder_ephemeral": er,
            "preshared_key": psk, "timestamp": timestamp, "initiation": initiation, "response": response,
            "initiator_send_key": send, "initiator_receive_key": receive,
        }.items()
    } | {"initiator_index": index_i, "responder_index": index_r}


vectors = [handshake("one", bytes(32)), handshake("two", bytes(range(32)))]
pathlib.Path(__file__).with_name("handshake.json").write_text(json.dumps(vectors, indent=1) + "\n")
