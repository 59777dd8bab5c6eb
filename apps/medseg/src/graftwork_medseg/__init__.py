"""medseg: 3D medical segmentation networks adapted to a new scanner or structure by small grafts."""

from __future__ import annotations

__version__ = "0.1.0"
