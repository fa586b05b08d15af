"""Second implementations of what secagg computes, from the documents and slow: oracles for its tests.

Nothing here imports secagg. Only the AES block and SHA-256 come from a library. Run as a program, it prints the
contents of `vectors/derived.json`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

FIELD_25519 = 2**255 - 19
SHAMIR_FIELD = 2**256 + 297
PROTOCOL = b"fedpdpo/secagg/v2/"

VECTORS = Path(__file__).with_name("vectors")

Projective = tuple[int, int]  # X and Z of a point of a Montgomery curve, u = X / Z; Z = 0 is the neutral element


def vectors(name: str) -> Any:
    """The contents of `vectors/<name>.json`; its README names the sources."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def ladder(scalar: int, u: int) -> Projective:
    """`scalar` times the point with this u, on curve25519 or its twist: Montgomery 1987, section 10.3.1."""
    p, a24 = FIELD_25519, 121665

    def double(point: Projective) -> Projective:
        plus, minus = (point[0] + point[1]) ** 2 % p, (point[0] - point[1]) ** 2 % p
        return plus * minus % p, (plus - minus) * (plus + a24 * (plus - minus)) % p

    def add(one: Projective, other: Projective) -> Projective:  # the difference of the two has this u
        left, right = (one[0] - one[1]) * (other[0] + other[1]), (one[0] + one[1]) * (other[0] - other[1])
        return (left + right) ** 2 % p, u * (left - right) ** 2 % p

    low, high = (1, 0), (u % p, 1)
    for bit in bin(scalar)[2:]:
        low, high = (double(low), add(low, high)) if bit == "0" else (add(low, high), double(high))
    return low


def x25519(secret: bytes, public: bytes) -> bytes:
    """RFC 7748, section 5: the scalar is clamped, the high bit of the u coordinate is ignored."""
    scalar = int.from_bytes(secret, "little") % 2**255 // 8 * 8 | 2**254
    x, z = ladder(scalar, int.from_bytes(public, "little") % 2**255)
    return (x * pow(z, FIELD_25519 - 2, FIELD_25519) % FIELD_25519).to_bytes(32, "little")


def is_on_twist(u: int) -> bool:
    """Whether no point of curve25519 itself has this u coordinate (Euler's criterion)."""
    return pow(u**3 + 486662 * u**2 + u, (FIELD_25519 - 1) // 2, FIELD_25519) == FIELD_25519 - 1


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """RFC 2104."""
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\x00")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).digest()


def hkdf_extract(secret: bytes, salt: bytes) -> bytes:
    """RFC 5869, section 2.2."""
    return hmac_sha256(salt, secret)


def hkdf(secret: bytes, salt: bytes, info: bytes, size: int = 32) -> bytes:
    """RFC 5869, section 2.3."""
    key, block, output = hkdf_extract(secret, salt), b"", b""
    while len(output) < size:
        block = hmac_sha256(key, block + info + bytes([len(output) // 32 + 1]))
        output += block
    return output[:size]


def aes_block(key: bytes, block: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(block) + encryptor.finalize()


def ctr_keystream(key: bytes, counter: int, blocks: int) -> bytes:
    """SP 800-38A, section 6.5, with all 128 bits of the block as the counter."""
    return b"".join(aes_block(key, ((counter + i) % 2**128).to_bytes(16, "big")) for i in range(blocks))


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=False))


def ghash(key: int, data: bytes) -> int:
    """SP 800-38D, section 6.4: bit 0 is the most significant one."""
    state = 0
    for start in range(0, len(data), 16):
        state ^= int.from_bytes(data[start : start + 16], "big")
        product, factor = 0, key
        for position in range(127, -1, -1):
            product ^= factor * (state >> position & 1)
            factor = factor >> 1 ^ (0xE1 << 120) * (factor & 1)
        state = product
    return state


def gcm_seal(key: bytes, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
    """SP 800-38D, section 7.1, for a nonce of 12 bytes: the ciphertext and the tag of 16 bytes."""
    first = int.from_bytes(nonce + bytes(3) + b"\x01", "big")
    sealed = xor(plain, ctr_keystream(key, first + 1, -(-len(plain) // 16)))
    padded = b"".join(part + bytes(-len(part) % 16) for part in (associated, sealed))
    lengths = struct.pack(">QQ", 8 * len(associated), 8 * len(sealed))
    tag = ghash(int.from_bytes(aes_block(key, bytes(16)), "big"), padded + lengths)
    return sealed + xor(tag.to_bytes(16, "big"), ctr_keystream(key, first, 1))


def interpolate(points: Mapping[int, int], modulus: int) -> list[int]:
    """The coefficients, constant term first, of the polynomial of least length through the points, modulo a prime.

    Gaussian elimination on the Vandermonde system.
    """
    size = len(points)
    rows = [[pow(x, k, modulus) for k in range(size)] + [y] for x, y in points.items()]
    for column in range(size):
        pivot = next(i for i in range(column, size) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], modulus - 2, modulus)
        rows[column] = [value * inverse % modulus for value in rows[column]]
        for i in set(range(size)) - {column}:
            rows[i] = [(a - rows[i][column] * b) % modulus for a, b in zip(rows[i], rows[column], strict=True)]
    return [row[-1] for row in rows]


def shamir_shares(secret: bytes, threshold: int, points: Sequence[int], drawn: bytes) -> list[int]:
    """Shares of Shamir 1979 as secagg lays its coefficients out: 48 drawn bytes each, the highest power first."""
    powers = [int.from_bytes(drawn[48 * i : 48 * i + 48], "big") for i in range(threshold - 1)]
    coefficients = [int.from_bytes(secret, "big"), *reversed(powers)]
    return [sum(c * x**k for k, c in enumerate(coefficients)) % SHAMIR_FIELD for x in points]


# What follows is specific to the protocol: each tag and each order of fields is written out once more.


def pair_mask_key(secret: bytes, own_id: int, peer_id: int, peer_public: bytes, digest: bytes) -> bytes:
    own_public = x25519(secret, (9).to_bytes(32, "little"))
    ordered = [own_public, peer_public] if own_id < peer_id else [peer_public, own_public]
    ids = struct.pack(">II", min(own_id, peer_id), max(own_id, peer_id))
    return hkdf(x25519(secret, peer_public), digest, PROTOCOL + b"mask" + ids + b"".join(ordered))


def channel_key(secret: bytes, own_id: int, peer_id: int, peer_public: bytes, digest: bytes) -> bytes:
    """The key for what is sent to the peer."""
    own_public = x25519(secret, (9).to_bytes(32, "little"))
    info = PROTOCOL + b"share" + struct.pack(">II", own_id, peer_id) + own_public + peer_public
    return hkdf(x25519(secret, peer_public), digest, info)


def included_tag(secret: bytes, own_id: int, peer_id: int, peer_public: bytes, digest: bytes) -> bytes:
    """The tag for the peer."""
    own_public = x25519(secret, (9).to_bytes(32, "little"))
    info = PROTOCOL + b"included" + struct.pack(">II", own_id, peer_id) + own_public + peer_public
    return hkdf(x25519(secret, peer_public), digest, info)[:16]


def self_mask_key(seed: bytes, client: int, digest: bytes) -> bytes:
    return hkdf(seed, digest, PROTOCOL + b"self" + struct.pack(">I", client))


def seed_commitment(seed: bytes, client: int, digest: bytes) -> bytes:
    return hashlib.sha256(PROTOCOL + b"commit" + digest + struct.pack(">I", client) + seed).digest()


def sealed_shares(key: bytes, shares: tuple[int, int], digest: bytes, sender: int, recipient: int) -> bytes:
    plain = b"".join(share.to_bytes(33, "big") for share in shares)
    return gcm_seal(key, bytes(12), plain, share_header(digest, sender, recipient))


def share_header(digest: bytes, sender: int, recipient: int) -> bytes:
    return PROTOCOL + b"share" + digest + struct.pack(">II", sender, recipient)


def fixed_bytes(name: str, size: int = 32) -> bytes:
    """Inputs of the derived vectors."""
    return hashlib.shake_256(b"secagg vectors: " + name.encode()).digest(size)


def derived() -> dict[str, object]:
    """Answers that belong to this protocol alone, from the functions above and from inputs made by `fixed_bytes`."""
    digest, secret, seed = fixed_bytes("digest"), fixed_bytes("secret"), fixed_bytes("seed")
    peer = x25519(fixed_bytes("peer secret"), (9).to_bytes(32, "little"))
    mask_key = pair_mask_key(secret, 10, 13, peer, digest)
    to_peer = channel_key(secret, 10, 13, peer, digest)
    shares = (SHAMIR_FIELD - 1, int.from_bytes(fixed_bytes("share"), "big"))
    return {
        "protocol": PROTOCOL.decode(),
        "pair_mask_key": mask_key.hex(),
        "pair_mask_keystream": ctr_keystream(mask_key, 0, 5).hex(),
        "channel_key_to_peer": to_peer.hex(),
        "included_tag_to_peer": included_tag(secret, 10, 13, peer, digest).hex(),
        "self_mask_key": self_mask_key(seed, 10, digest).hex(),
        "seed_commitment": seed_commitment(seed, 10, digest).hex(),
        "sealed_shares": sealed_shares(to_peer, shares, digest, 10, 13).hex(),
        "shamir": [_derived_sharing(t, n) for t, n in ((1, 3), (2, 3), (3, 5), (7, 10), (20, 30))],
    }


def _derived_sharing(threshold: int, holders: int) -> dict[str, object]:
    name = f"{threshold} of {holders}"
    points = [3 * i + 1 for i in range(holders)]
    drawn = fixed_bytes(f"coefficients {name}", 48 * (threshold - 1))
    shares = shamir_shares(fixed_bytes(f"secret {name}"), threshold, points, drawn)
    return {"name": name, "threshold": threshold, "points": points, "shares": [f"{share:066x}" for share in shares]}


if __name__ == "__main__":
    print(json.dumps(derived(), indent=1))
