"""The server's web application: MONAI Label's, behind a guard. uvicorn loads it by name."""

from __future__ import annotations

import os

from monailabel.config import settings

from mixseg.apps.label.access import OriginGuard
from mixseg.apps.label.server import HOST_VARIABLE

# Taken from MONAI Label, which compares them with a slash at their end that no browser sends. With
# none it answers all that pass the guard.
_origins = [str(origin) for origin in settings.MONAI_LABEL_CORS_ORIGINS]
settings.MONAI_LABEL_CORS_ORIGINS = []

from monailabel.app import app as _application  # noqa: E402 (reads the settings)

_host = os.environ.get(HOST_VARIABLE)
app = OriginGuard(_application, _origins, [_host] if _host else None)
