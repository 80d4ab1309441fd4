"""Seeds that are functions of what they are for, and of nothing that happened before."""

import hashlib


def derived_seed(*parts: object) -> int:
    """A 63-bit seed that is a function of `parts` alone, the same on every machine."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
