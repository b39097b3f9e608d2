"""What our web servers share: the headers of every response, and files that browsers may keep for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles


def security_headers(*, images: str = "'self'", forms: str = "'self'") -> Mapping[str, str]:
    """The headers of every response, errors and images too; from where images may come, and where forms may go."""
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {images}; "
        f"connect-src 'self'; form-action {forms}; frame-ancestors 'none'; base-uri 'none'"
    )
    return MappingProxyType(
        {
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",  # addresses may carry what is personal
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
            "X-Robots-Tag": "noindex, nofollow",
        }
    )


def static_version(folder: Path) -> str:
    """Return a name that changes with the files in a folder, so that browsers may keep them for ever."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class LastingFiles(StaticFiles):
    """Files whose address changes with what is in them (`static_version`)."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """Say that it may be kept."""
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response
