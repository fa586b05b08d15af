"""Coverage-guided fuzzing of the wire decoders: `python tests/fuzz/fuzz_wire.py FOLDER [libFuzzer options]`.

Needs atheris. The invariant, for any bytes: a message with exactly this encoding, or BadMessage, nothing else.

The first byte of an input chooses the kind of round and whether the digest, which no fuzzer would guess, is filled in
behind version and type. FOLDER holds the corpus, and gets the messages of finished rounds if it is empty.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "secagg"), str(Path(__file__).resolve().parents[2])]
with atheris.instrument_imports(include=["secagg"]):
    from secagg_mutations import HEADER_BYTES, examples, understood

    from secagg.errors import BadMessage
    from secagg.folded import decode_folded, encode_folded, next_round

EXAMPLES = examples()
HEADERS = [{data[:2]: data[:HEADER_BYTES] for data in example.encodings()} for example in EXAMPLES]
FOLDED = 1


def try_bytes(data: bytes) -> None:
    """One input. Raises whatever is not allowed to be raised."""
    if not data:
        return
    choice, kind = divmod(data[0] // 2, len(EXAMPLES))
    config, body = EXAMPLES[kind].config, data[1:]
    if choice % 2 == FOLDED:
        folded_understood(body, kind)
        return
    if data[0] % 2:
        body = HEADERS[kind].get(body[:2], body[:2]) + body[2:]
    understood(body, config)


def folded_understood(data: bytes, kind: int) -> None:
    config = EXAMPLES[kind].config
    following = next_round(config)
    try:
        message = decode_folded(data, config, following)
    except BadMessage:
        return
    assert encode_folded(message, config, following) == data


def seeds() -> list[bytes]:
    """The messages of finished rounds, as inputs."""
    found = []
    for kind, example in enumerate(EXAMPLES):
        for data in example.encodings():
            found.append(bytes([2 * kind + 1]) + data[:2] + data[HEADER_BYTES:])
            found.append(bytes([2 * (kind + FOLDED * len(EXAMPLES))]) + len(data).to_bytes(4, "big") + data)
    return found


def main(arguments: list[str]) -> None:
    if len(arguments) < 2 or arguments[1].startswith("-"):
        sys.exit("the first argument is the folder of the corpus")
    corpus = Path(arguments[1])
    corpus.mkdir(exist_ok=True)
    if not any(corpus.iterdir()):
        for number, data in enumerate(seeds()):
            (corpus / f"seed-{number}").write_bytes(data)
    atheris.Setup(arguments, try_bytes)
    atheris.Fuzz()  # does not return


if __name__ == "__main__":
    main(sys.argv)
