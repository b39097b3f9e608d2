"""What tells one scorer from another in an answer."""

from __future__ import annotations

import hashlib


def identity_hash(identity: str | None) -> str | None:
    """The first 16 hex digits of the SHA-256 of a `Scorer.identity`; None where there is none."""
    return hashlib.sha256(identity.encode()).hexdigest()[:16] if identity else None
