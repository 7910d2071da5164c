"""Addresses that hold credentials, which would end up in logs, configurations, and checkpoints."""

import re

_USER = r"://[^/\s?#]*@"
_SIGNATURE = r"://\S*[?&][^=\s]*(signature|token|credential|secret|key)[^=\s]*="

REMEDY = (
    "expected an address without credentials, which would end up in logs and checkpoints, found one with a user or a "
    "signature; put credentials into the environment, as the storage's own tools read them"
)


def holds_credentials(text: str) -> bool:
    """Whether a text has an address with a user, a password, or a signature in it."""
    return bool(re.search(f"{_USER}|{_SIGNATURE}", text, re.IGNORECASE))
