"""Signatures against published vectors and forgers, rosters against every malformed file, keys against other eyes."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secagg_harness import fixed_entropy

from secagg.errors import PeerMisbehaved
from secagg.identity import (
    IDENTITY_BYTES,
    SIGNATURE_BYTES,
    Roster,
    SigningKey,
    check_identity,
    fingerprint,
    verify,
)
from secagg.identity_files import (
    MAX_ROSTER_BYTES,
    format_roster,
    parse_roster,
    read_roster,
    read_signing_key,
    write_roster,
    write_signing_key,
)

# RFC 8032, section 7.1: TEST 1, 2, 3 and SHA(abc): secret, public, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]  # fmt: skip
PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, PRIME) % PRIME

KEYS = [SigningKey.from_secret(bytes([i]) * 32) for i in range(1, 6)]
KEY, OTHER = KEYS[0], KEYS[1]
MESSAGE = b"keys of round 7"
ROSTER = Roster((2, 3, 7), tuple(key.public for key in KEYS[:3]))


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032, ids=["1", "2", "3", "sha(abc)"])
def test_the_vectors_of_rfc_8032_come_out(secret: str, public: str, message: str, signature: str) -> None:
    key = SigningKey.from_secret(bytes.fromhex(secret))
    assert key.public.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    verify(key.public, bytes.fromhex(signature), bytes.fromhex(message), signer=1, what="keys")


def refused(identity: bytes, signature: bytes, message: bytes = MESSAGE) -> str:
    with pytest.raises(PeerMisbehaved) as caught:
        verify(identity, signature, message, signer=17, what="public keys")
    text = str(caught.value)
    assert text.startswith("client 17: ")
    assert "public keys" in text
    assert "\n" not in text
    return text


def flipped(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(data))


def test_one_flipped_bit_anywhere_is_refused_by_name() -> None:
    signature = KEY.sign(MESSAGE)
    verify(KEY.public, signature, MESSAGE, signer=17, what="public keys")
    for bit in range(8 * SIGNATURE_BYTES):
        refused(KEY.public, flipped(signature, bit))
    for bit in range(8 * IDENTITY_BYTES):
        refused(flipped(KEY.public, bit), signature)
    for bit in range(8 * len(MESSAGE)):
        refused(KEY.public, signature, flipped(MESSAGE, bit))


def test_a_signature_of_another_client_or_of_another_length_is_refused() -> None:
    signature = KEY.sign(MESSAGE)
    refused(OTHER.public, signature)
    for other in (b"", signature[:-1], signature + b"\0", signature * 2):
        refused(KEY.public, other)
    for identity in (b"", KEY.public[:-1], KEY.public + b"\0"):
        assert "identity must have 32 bytes" in refused(identity, signature)


def test_no_second_signature_is_made_out_of_one() -> None:
    signature = KEY.sign(MESSAGE)
    scalar = int.from_bytes(signature[32:], "little")
    for multiple in range(1, 15):
        again = scalar + multiple * ORDER
        refused(KEY.public, signature[:32] + again.to_bytes(32, "little"))


def add_points(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    """The sum on the twisted Edwards curve of RFC 8032, section 5.1, in affine coordinates."""
    (x1, y1), (x2, y2) = p, q
    common = D * x1 * x2 * y1 * y2 % PRIME
    x = (x1 * y2 + x2 * y1) * pow(1 + common, -1, PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - common, -1, PRIME)
    return x % PRIME, y % PRIME


def times(scalar: int, point: tuple[int, int]) -> tuple[int, int]:
    total = (0, 1)
    while scalar:
        total = add_points(total, point) if scalar & 1 else total
        point, scalar = add_points(point, point), scalar >> 1
    return total


def point_with(y: int) -> tuple[int, int] | None:
    """A point of the curve with this y, if there is one (a square root modulo a prime that is 5 modulo 8)."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    root = pow(square, (PRIME + 3) // 8, PRIME)
    for x in (root, root * pow(2, (PRIME - 1) // 4, PRIME) % PRIME):
        if x * x % PRIME == square:
            return x, y
    return None


def encoded(point: tuple[int, int]) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def small_order_points() -> set[tuple[int, int]]:
    """All multiples of the points that are left when the large prime order is multiplied away."""
    found: set[tuple[int, int]] = set()
    for y in range(2, 40):
        if (point := point_with(y)) is not None:
            rest = times(ORDER, point)
            found |= {times(scalar, rest) for scalar in range(8)}
    return found


def test_every_identity_of_small_order_is_refused() -> None:
    points = small_order_points()
    assert len(points) == 8
    nothing = (1).to_bytes(32, "little")  # the neutral element: signature (neutral, 0) fits every message under it
    assert nothing in {encoded(point) for point in points}
    assert "small order" in refused(nothing, nothing + bytes(32), b"anything")
    for point in points:
        for identity in (encoded(point), flipped(encoded(point), 255)):
            assert "small order" in refused(identity, nothing + bytes(32))
            with pytest.raises(ValueError, match="small order"):
                check_identity(identity)


def test_an_identity_in_a_second_encoding_or_off_the_curve_is_refused() -> None:
    for y in range(PRIME, 2**255):
        for identity in (y.to_bytes(32, "little"), (y | 1 << 255).to_bytes(32, "little")):
            assert "one encoding" in refused(identity, bytes(64))
    for y in range(2, 60):
        identity = y.to_bytes(32, "little")
        if point_with(y) is None:
            with pytest.raises(ValueError, match="not a point of the curve"):
                check_identity(identity)
            refused(identity, KEY.sign(MESSAGE))
        else:
            check_identity(identity)


def test_a_signing_key_shows_no_secret_and_makes_no_copies() -> None:
    for text in (repr(KEY), str(KEY), f"{KEY!r}"):
        assert repr(KEY.secret) not in text
        assert KEY.secret.hex() not in text
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            attempt(KEY)
    with pytest.raises(AttributeError):
        KEY.secret = bytes(32)  # type: ignore[misc]


def test_a_generated_key_is_the_entropy_it_was_given() -> None:
    assert SigningKey.generate(fixed_entropy()) == SigningKey.from_secret(fixed_entropy()(32))
    assert SigningKey.generate().public != SigningKey.generate().public
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        SigningKey.from_secret(bytes(31))


def test_a_fingerprint_is_of_the_identity_alone() -> None:
    shown = {fingerprint(key.public) for key in KEYS}
    assert len(shown) == len(KEYS)
    assert all(len(text.split()) == 8 and len(text) == 39 for text in shown)
    assert fingerprint(flipped(KEY.public, 0)) not in shown


SMALL = (1).to_bytes(32, "little")


@pytest.mark.parametrize(
    ("clients", "identities", "text"),
    [
        ((2, 3), ROSTER.identities[:2], "clients: 2 given, at least 3 needed"),
        ((2, 3, 7), ROSTER.identities[:2], "identities: 2 given for 3 clients"),
        ((2, 7, 3), ROSTER.identities, "clients: id 3 does not follow 7 in ascending order"),
        ((2, 3, 3), ROSTER.identities, "clients: id 3 does not follow 3"),
        ((-1, 3, 7), ROSTER.identities, "clients: id -1 does not lie in"),
        ((2, 3, 2**32), ROSTER.identities, "clients: id 4294967296 does not lie in"),
        ((2, 3, 7), (*ROSTER.identities[:2], ROSTER.identities[0]), "client 7: identity is that of client 2"),
        ((2, 3, 7), (*ROSTER.identities[:2], bytes(31)), "client 7: identity must have 32 bytes, not 31"),
        ((2, 3, 7), (SMALL, *ROSTER.identities[1:]), "client 2: identity is a point of small order"),
    ],
)
def test_a_roster_that_is_none_is_refused_by_field(
    clients: tuple[int, ...], identities: tuple[bytes, ...], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Roster(clients, identities)


def test_a_rosters_digest_changes_with_every_member() -> None:
    others = [
        Roster((2, 3, 8), ROSTER.identities),
        Roster((2, 3, 7), (ROSTER.identities[1], ROSTER.identities[0], ROSTER.identities[2])),
        Roster((2, 3, 7), (*ROSTER.identities[:2], KEYS[4].public)),
        Roster((2, 3, 7, 9), (*ROSTER.identities, KEYS[4].public)),
    ]
    assert len({ROSTER.digest(), *(other.digest() for other in others)}) == 5
    assert Roster(ROSTER.clients, ROSTER.identities).digest() == ROSTER.digest()


def test_a_roster_finds_its_members_and_no_others() -> None:
    found = [ROSTER.identity(client) for client in (-1, 1, 2, 3, 4, 7, 8)]
    a, b, c = ROSTER.identities
    assert found == [None, None, a, b, None, c, None]


def test_a_roster_comes_back_from_its_file_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    write_roster(path, ROSTER)
    assert read_roster(path) == ROSTER
    assert json.loads(path.read_text())["clients"][2] == {"id": 7, "identity": ROSTER.identities[2].hex()}
    with pytest.raises(FileExistsError, match=r"roster\.json: exists already"):
        write_roster(path, Roster((1, 2, 3), ROSTER.identities))
    assert read_roster(path) == ROSTER


FIRST = format_roster(ROSTER)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"version": 1', '"version": 2', "version must be 1, not 2"),
        ('"version": 1', '"version": 1.0', "version must be 1, not 1.0"),
        ('"version": 1', '"version": true', "version must be 1, not True"),
        ('"version": 1, ', "", "the roster: field version is missing"),
        ('"version": 1', '"version": 1, "note": 0', "the roster: unknown field 'note'"),
        ('"version": 1', '"version": 1, "version": 1', "a field is given twice"),
        ('"id": 3', '"id": 3, "id": 3', "a field is given twice"),
        ('"id": 3', '"id": "3"', r"clients\[1\].id must be an integer, not '3'"),
        ('"id": 3', '"id": 3.0', r"clients\[1\].id must be an integer, not 3.0"),
        ('"id": 2', '"id": true', r"clients\[0\].id must be an integer, not True"),
        ('"id": 7', '"id": 1', "id 1 does not follow 3"),
        ('"id": 7', '"id": 7, "weight": 2', r"clients\[2\]: unknown field 'weight'"),
        ('"id": 7, ', "", r"clients\[2\]: field id is missing"),
        (KEYS[1].public.hex(), KEYS[1].public.hex().upper(), r"clients\[1\].identity must be 64 lower-case"),
        (KEYS[1].public.hex(), KEYS[1].public.hex()[:-1], r"clients\[1\].identity must be 64 lower-case"),
        (KEYS[1].public.hex(), KEYS[1].public.hex() + r"\n", r"clients\[1\].identity must be 64 lower-case"),
        (KEYS[1].public.hex(), KEYS[0].public.hex(), "client 3: identity is that of client 2"),
        (KEYS[1].public.hex(), SMALL.hex(), "client 3: identity is a point of small order"),
        ("]}", "]", "is not JSON"),
        (FIRST, "[" * 100_000, "is not JSON"),
        (FIRST, "[]", "the roster must be an object"),
        (FIRST, '{"version": 1, "clients": {}}', "clients must be a list"),
        (FIRST, '{"version": 1, "clients": [1]}', r"clients\[0\] must be an object"),
        (FIRST, '{"version": 1, "clients": []}', "clients: 0 given, at least 3"),
        (FIRST, "\ufeff" + FIRST, "is not JSON"),
        ('"id": 7', '"id": ' + "7" * 5000, "Exceeds the limit"),
    ],
)
def test_a_malformed_roster_file_is_refused_in_one_line_by_field(tmp_path: Path, old: str, new: str, text: str) -> None:
    assert old in FIRST
    path = tmp_path / "roster.json"
    path.write_text(FIRST.replace(old, new, 1))
    with pytest.raises(ValueError, match=text) as caught:
        read_roster(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


@given(st.binary(max_size=200))
def test_any_bytes_are_a_roster_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # no 200 bytes are a roster
        parse_roster(data)


@given(st.integers(0, len(FIRST) - 1), st.binary(min_size=1, max_size=1))
def test_one_changed_byte_gives_the_same_roster_another_or_a_value_error(place: int, byte: bytes) -> None:
    text = FIRST.encode()
    try:
        found = parse_roster(text[:place] + byte + text[place + 1 :])
    except ValueError:
        return
    assert isinstance(found, Roster)
    assert (found == ROSTER) == (found.digest() == ROSTER.digest())


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    with path.open("wb") as file:
        file.truncate(MAX_ROSTER_BYTES + 1)
    with pytest.raises(ValueError, match="is longer than"):
        read_roster(path)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="is not a file"):
            read_roster(path)
        with pytest.raises(ValueError, match="is not a file"):
            read_signing_key(path)
    with pytest.raises(FileNotFoundError):
        read_roster(tmp_path / "none")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_signing_key_file_is_its_owners_alone_and_never_overwritten(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "client.key"
    before = os.umask(umask)
    try:
        write_signing_key(path, KEY)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_signing_key(path) == KEY
    with pytest.raises(FileExistsError, match=r"client\.key: exists already"):
        write_signing_key(path, OTHER)
    assert read_signing_key(path) == KEY


def test_a_signing_key_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_signing_key(tmp_path / "link.key", KEY)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "client.key"
    write_signing_key(path, KEY)
    path.chmod(mode)
    with pytest.raises(ValueError, match=f"mode {mode:04o} lets others read or change this secret, make it 0600"):
        read_signing_key(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("key 1", "key 2"),
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: text.upper(),
        lambda text: text[:-3] + "zz\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.splitlines()[1],
        lambda text: "",
    ],
)
def test_a_damaged_key_file_is_refused_without_showing_what_it_holds(tmp_path: Path, change: object) -> None:
    path = tmp_path / "client.key"
    write_signing_key(path, KEY)
    path.write_text(change(path.read_text()), newline="")  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"client\.key: ") as caught:
        read_signing_key(path)
    assert KEY.secret.hex()[:8] not in str(caught.value).lower()
    assert "\n" not in str(caught.value)
