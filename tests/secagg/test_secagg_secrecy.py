"""What the server never holds: a walk through everything it can reach, and through everything it was sent."""

import ast
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from secagg_harness import Federation, fixed_entropy, make_config, random_vectors, run_local
from secagg_walk import Words, forbidden, holds, masked_forms, traces

import secagg
from secagg import LocalRound, Mode, RoundConfig, Stage, to_ring
from secagg.channel import unseal
from secagg.client import AwaitDelivery, AwaitPeerKeys, AwaitVector
from secagg.client_steps import mask_keys_of
from secagg.errors import PeerMisbehaved
from secagg.keys import channel_keys
from secagg.local import SERVER
from secagg.messages import MaskedVector, Message
from secagg.prg import apply_masks
from secagg.ring import add_packed, pack, word_dtype
from secagg.server import Server
from secagg.wire import encode

PACKAGE = Path(secagg.__file__).parent
MALICIOUS = Mode.MALICIOUS_SERVER


def unpacked(packed: bytes, config: RoundConfig) -> Words:
    words = np.zeros(config.dim, word_dtype(config.bits))
    add_packed(words, packed, config.bits)
    return words


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_nothing_that_the_server_reaches_or_receives_holds_an_unmasked_word(bits: int) -> None:
    config = make_config(6, dim=64, bits=bits, threshold=4)
    lost = config.clients[2]
    received: list[Message] = []
    local = LocalRound(
        config,
        {lost: Stage.AFTER_SHARES, config.clients[4]: Stage.AFTER_MASKED},
        tap=lambda source, destination, message, _: received.append(message) if destination == SERVER else None,
    )
    expected = local.open()
    vectors = {client: vector for client, vector in random_vectors(config).items() if client in expected}
    words = {client: to_ring(vector, bits) for client, vector in vectors.items()}
    states = {client: local._clients[client]._state for client in expected}
    assert all(isinstance(state, AwaitVector) for state in states.values())
    needles = forbidden(config, states, words)  # type: ignore[arg-type]
    server = local._server
    for client, vector in vectors.items():
        local.submit(client, vector)
        assert not holds(server, needles, bits)
    result = local.finish()
    assert np.array_equal(result.vector, sum(vectors.values()))
    assert not holds(server, needles, bits)
    assert not holds(received, needles, bits)
    assert not holds([encode(message, config) for message in received], needles, bits)
    assert holds(server, traces(to_ring(result.vector, bits), bits), bits)  # the sum is there to be found


def server_keeps_a_masked_vector(bits: int) -> bool:
    """Whether the server of a round can reach, once a second one has been added, any form of a masked vector."""
    config = make_config(5, dim=64, bits=bits)
    masked: list[Words] = []

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        if isinstance(message, MaskedVector):
            masked.append(unpacked(message.packed, config))

    local = LocalRound(config, {config.clients[1]: Stage.AFTER_MASKED}, tap=tap)
    vectors = random_vectors(config)
    kept = False
    for client in local.open():
        local.submit(client, vectors[client])
        if len(masked) == 1:  # the accumulator is the first masked vector
            assert holds(local._server, traces(masked[0], bits), bits)
        else:
            kept |= holds(local._server, masked_forms(masked, bits), bits)
    local.finish()
    return kept | holds(local._server, masked_forms(masked, bits), bits)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_the_server_keeps_nothing_of_a_masked_vector_but_the_accumulator(bits: int) -> None:
    assert not server_keeps_a_masked_vector(bits)


HOARDS: dict[str, Callable[[MaskedVector, Words], object]] = {
    "message": lambda message, accumulator: message,
    "packed": lambda message, accumulator: memoryview(message.packed),
    "closure": lambda message, accumulator: lambda: message,
    "default": lambda message, accumulator: lambda kept=message: kept,
    "builtin method": lambda message, accumulator: [message].append,
    "history of the accumulator": lambda message, accumulator: accumulator.copy(),
}


@pytest.mark.parametrize("hoard", HOARDS)
def test_a_server_that_keeps_masked_vectors_is_found_out(hoard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hoarder(Server):
        def receive(self, message: Message) -> None:
            super().receive(message)
            if isinstance(message, MaskedVector):
                accumulator = self._state.accumulator  # type: ignore[union-attr]
                self.__dict__.setdefault("hoard", []).append(HOARDS[hoard](message, accumulator))

    monkeypatch.setattr("secagg.local.Server", Hoarder)
    assert server_keeps_a_masked_vector(24)


def test_the_walk_finds_a_vector_that_is_hidden_anywhere_in_the_server() -> None:
    config = make_config(5, dim=64)
    words = to_ring(random_vectors(config)[config.clients[0]], 24)
    needles = traces(words, 24)
    hideouts: list[object] = [
        words,
        words[8:40],
        {"a": [(words.astype(np.int64),)]},
        pack(words, 24),
        words.reshape(8, 8)[1:],
    ]
    hideouts += [lambda: words, lambda kept=words: kept, [words].append, words.tobytes().decode]
    for hideout in (*hideouts, memoryview(words.tobytes()), words + np.uint32(2**24), secagg.from_ring(words, 24)):
        federation = Federation(config).advertise().share()
        assert not holds(federation.server, needles, 24)
        federation.server._state.submitted[(1,)] = ()  # type: ignore[union-attr, arg-type]
        federation.server.hideout = hideout  # type: ignore[attr-defined]
        assert holds(federation.server, needles, 24)


def chi_square_of_bytes(data: bytes) -> float:
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    return float(((counts - len(data) / 256) ** 2 / (len(data) / 256)).sum())


def masked_vectors(config: RoundConfig, value: int) -> dict[int, bytes]:
    sent: dict[int, bytes] = {}

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        if isinstance(message, MaskedVector):
            sent[source] = message.packed

    run_local(config, {client: np.full(config.dim, value) for client in config.clients}, tap=tap)
    return sent


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_masked_vectors_of_constant_vectors_are_uniform_bytes(bits: int) -> None:
    config = make_config(4, dim=60_000, bits=bits)
    # 255 degrees of freedom: mean 255, standard deviation 22.6; six of them on either side.
    for value in (0, -1, 77):
        for packed in masked_vectors(config, value).values():
            assert abs(chi_square_of_bytes(packed) - 255) < 6 * 22.6


def test_the_uniformity_test_rejects_a_slightly_biased_stream() -> None:
    data = np.frombuffer(next(iter(masked_vectors(make_config(4, dim=60_000), 0).values())), np.uint8).copy()
    data[::50] = 0
    assert abs(chi_square_of_bytes(data.tobytes()) - 255) > 6 * 22.6
    assert chi_square_of_bytes(bytes(180_000)) > 10**6


def test_each_kind_of_mask_alone_still_hides_the_vector() -> None:
    federation = Federation(make_config(4, dim=60_000)).advertise().share().deliver()
    state = federation.clients[13]._state
    assert isinstance(state, AwaitVector)
    added, subtracted = mask_keys_of(federation.config, 13, state)
    for add, subtract in ((added[:1], []), (added[1:2], []), ([], subtracted[:1])):
        words = np.zeros(60_000, np.uint32)
        apply_masks(words, add=add, subtract=subtract)
        assert abs(chi_square_of_bytes(pack(words, 24)) - 255) < 6 * 22.6


def mask_keys(config: RoundConfig, seed: bytes) -> list[bytes]:
    """Every key that a client masks with, each at both of its ends."""
    federation = Federation(config)
    entropy = fixed_entropy(seed)
    federation.clients = {client: secagg.Client(config, client, entropy=entropy) for client in config.clients}
    federation.advertise().share().deliver()
    keys: list[bytes] = []
    for client, machine in federation.clients.items():
        assert isinstance(machine._state, AwaitVector)
        for some in mask_keys_of(config, client, machine._state):
            keys += some
    return keys


def test_no_mask_key_serves_twice_within_or_across_rounds() -> None:
    keys: list[bytes] = []
    for round_index in (1, 2):  # the second round with the same entropy: fresh only through the configuration
        for seed in (b"one", b"two"):
            keys += mask_keys(make_config(5, round_index=round_index), seed)
    # Per round 5 self-masks, held once, and 10 pairs, held at both ends.
    assert len(keys) == 4 * 25
    assert len(set(keys)) == 4 * 15


def test_the_mask_secrets_of_all_clients_open_no_sealed_share() -> None:
    config = make_config(5)
    federation = Federation(config).advertise()
    masks = {}
    for client, machine in federation.clients.items():
        assert isinstance(machine._state, AwaitPeerKeys)
        masks[client] = machine._state.mask
    keys = {entry.client: entry for entry in federation.keys().entries}
    federation.share()
    opened = 0
    for recipient in config.clients:
        for item in federation.delivery(recipient).sealed:
            for peer_key in (keys[item.peer].mask_key, keys[item.peer].channel_key):
                ids = {"own_id": recipient, "peer_id": item.peer, "digest": config.digest()}
                for key in channel_keys(masks[recipient], peer_key, **ids):  # type: ignore[arg-type]
                    with pytest.raises(PeerMisbehaved):
                        unseal(key, item.ciphertext, digest=config.digest(), sender=item.peer, recipient=recipient)
            state = federation.clients[recipient]._state
            assert isinstance(state, AwaitDelivery)
            key = state.opening_keys[item.peer]
            unseal(key, item.ciphertext, digest=config.digest(), sender=item.peer, recipient=recipient)
            opened += 1
    assert opened == 20


def test_no_repr_shows_a_secret() -> None:
    config = make_config(4)
    federation = Federation(config).advertise()
    client = federation.clients[10]
    assert isinstance(client._state, AwaitPeerKeys)
    secrets = [client._state.mask.secret, client._state.channel.secret]
    texts = [repr(client), repr(client._state), repr(client._state.mask)]
    federation.share()
    assert isinstance(client._state, AwaitDelivery)
    secrets.append(client._state.seed)
    texts += [repr(client), repr(client._state), repr(client._state.own_shares), repr(federation.deliveries)]
    federation.deliver().mask(random_vectors(config)).reveal()
    texts += [repr(client), repr(federation.server), repr(federation.server._state), repr(federation.messages())]
    reveal = federation.sent["reveal"][10]
    values = [str(share.value) for share in reveal.self_mask_seeds]  # type: ignore[union-attr]
    shown = "\n".join(texts)
    assert not any(repr(secret)[2:-1] in shown or secret.hex() in shown for secret in secrets)
    assert not any(value in shown for value in values)


GOLDEN = {
    "complete": (make_config(5), "9713ba41c09604a360b03af95e66a32f8f79caaf72b876c369fde03e8694c050"),
    "complete, malicious server": (
        make_config(5, threshold=4, mode=MALICIOUS),
        "86ffa7d83021ca332c888e6ae068fe07a3ea7bfbf88639389a8f60f65539a0e3",
    ),
    "6-regular": (
        make_config(9, neighbors=6, threshold=3),
        "43e59395630a7d08d0e2a1069f05aec3343d2978c8e906b8d2602de42961aae1",
    ),
    "6-regular, malicious server": (
        make_config(9, neighbors=6, threshold=4, mode=MALICIOUS),
        "bc5da0d63ab9c849d20a674b3a31fe70a053a63b15a6bacb20e7206f27735462",
    ),
}


@pytest.mark.parametrize(("config", "golden"), GOLDEN.values(), ids=GOLDEN)
def test_fixed_entropy_gives_a_fixed_transcript(config: RoundConfig, golden: str) -> None:
    """A change of these values is a change of the protocol: raise the version in PROTOCOL and in wire.VERSION."""
    transcript = hashlib.sha256()

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        transcript.update(source.to_bytes(8, "big", signed=True) + destination.to_bytes(8, "big", signed=True))
        transcript.update(encode(message, config))

    drops = {config.clients[1]: Stage.AFTER_SHARES}
    run_local(config, random_vectors(config), drops, tap=tap)
    assert transcript.hexdigest() == golden


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_seedable_generator_is_reachable_from_the_mask_path() -> None:
    todo, visited = ["client", "server", "local"], set[str]()
    while todo:
        module = todo.pop()
        if module in visited:
            continue
        visited.add(module)
        path = PACKAGE / f"{module}.py"
        names = imports_of(path)
        assert not {name for name in names if name == "random" or name.startswith(("random.", "numpy.random"))}
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr in {"random", "default_rng", "RandomState"})
        todo += [
            name.split(".")[1]
            for name in names
            if name.startswith("secagg.") and (PACKAGE / f"{name.split('.')[1]}.py").exists()
        ]
    assert {"prg", "keys", "shamir", "channel", "unmask", "ring", "config", "wire"} <= visited
    assert "encoding" not in visited  # the one file that takes a numpy Generator, for rounding


def test_the_package_imports_the_standard_library_numpy_and_cryptography_alone() -> None:
    allowed = {"secagg", "numpy", "cryptography", *sys.stdlib_module_names}
    for path in PACKAGE.glob("*.py"):
        assert {name.split(".")[0] for name in imports_of(path)} <= allowed


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import secagg; print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    loaded = {name.split(".")[0] for name in modules}
    assert not loaded & {"scipy", "opacus", "transformers", "privacy", "fedpdpo_secure", "experiments"}
    assert "secagg" in loaded
