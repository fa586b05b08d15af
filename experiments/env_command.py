"""`fedpdpo env`: versions, device, and whether the cryptographic keystream answers as published."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import click

from experiments.output import EXIT_VERIFICATION, CommandError, Output, output_options
from experiments.tables import print_table

PACKAGES = (
    "fedpdpo",
    "torch",
    "opacus",
    "transformers",
    "peft",
    "datasets",
    "numpy",
    "scipy",
    "cryptography",
    "dp-accounting",
    "pydantic",
)
# NIST SP 800-38A, F.5.5 (CTR-AES256.Encrypt), blocks 1 and 2.
AES_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
AES_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
AES_PLAINTEXT = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
AES_CIPHERTEXT = bytes.fromhex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5")


@click.command()
@output_options
def env(output: Output) -> None:
    """Show versions and device, and test the keystream.

    The keystream is compared with a published AES-256 answer; exit 6 if it differs.
    """
    versions = {name: _version(name) for name in PACKAGES}
    machine = {"python": platform.python_version(), "platform": platform.platform(), "device": _device()}
    csprng = "ok" if keystream_is_right() else "failed"
    if not output.quiet:
        rows = [[name, value] for name, value in machine.items()]
        rows += [[name, version or "not installed"] for name, version in versions.items()]
        rows.append(["AES-256-CTR keystream", f"{csprng} (NIST SP 800-38A, F.5.5)"])
        print_table(["what", "value"], rows)
    values = {**machine, "versions": versions, "csprng": csprng}
    if csprng != "ok":
        raise CommandError("csprng: the AES-256-CTR keystream differs from NIST SP 800-38A", EXIT_VERIFICATION, values)
    output.finish(values)


def keystream_is_right() -> bool:
    """Whether the keystream that masks come from gives the published ciphertext, whole and in pieces."""
    from secagg.prg import open_stream

    whole = open_stream(AES_KEY, AES_COUNTER).update(AES_PLAINTEXT)
    stream = open_stream(AES_KEY, AES_COUNTER)
    pieces = b"".join(stream.update(AES_PLAINTEXT[start : start + 5]) for start in range(0, len(AES_PLAINTEXT), 5))
    return whole == pieces == AES_CIPHERTEXT


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    try:
        import torch
    except ImportError:
        return "no torch"
    threads = torch.get_num_threads()
    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name(0)})"
    return f"cpu ({threads} threads, {sys.byteorder}-endian)"
