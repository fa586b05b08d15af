"""Errors of the package. Each docstring says what would leak or break if the check were absent.

A caller's wrong number (a threshold, a shape) is a plain `ValueError`; everything that happens between
parties is a `SecAggError`. Any other exception out of this package is a bug in it.
"""

from __future__ import annotations


class SecAggError(Exception):
    """Base of everything that this package raises about a protocol run."""


class BadMessage(SecAggError):
    """Bytes or fields that are not a message of this round.

    Accepting them could make two parties read one message differently (a survivor list, for instance), or
    let a short message make the reader allocate a large buffer.
    """


class WrongPhase(SecAggError):
    """A message or call that the present phase does not accept; also every use of a failed or finished party.

    What the order protects: a second vector under the same masks gives the server the difference of the two
    vectors; a second unmasking answer for another survivor list gives it both secrets of one client, hence
    that client's vector; a vector that arrives after its mask key was rebuilt is protected by its self-mask
    alone and must not be added.
    """


class PeerMisbehaved(SecAggError):
    """A peer (or the server) sent something that the protocol forbids; the text names who and what.

    Altered or repeated public keys let the server sit between two clients and remove their masks. A
    small-order key makes a pairwise mask a constant that everybody knows. A survivor list outside the
    clients that shared, or without the one who is asked, is an attempt at one client's secrets. A wrong
    share would otherwise corrupt the sum without a trace.
    """


class TooFewSurvivors(SecAggError):
    """Fewer clients are left than `threshold` or `min_survivors` ask for; there is no sum.

    A sum of one client is that client's vector, a sum of two tells each of them the other's, and below the
    threshold the masks cannot be removed at all.
    """
