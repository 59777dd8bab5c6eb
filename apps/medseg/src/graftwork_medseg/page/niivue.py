"""Where NiiVue's JavaScript lies: inside the installed package `ipyniivue`, which is never imported.

ipyniivue (BSD-2-Clause) is a Jupyter widget; its `widget.js` is one ES module with NiiVue inside. The
page serves that file from where pip put it. `page.js` plays the part of the notebook.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

PACKAGE = "ipyniivue"
WIDGET = "ipyniivue/static/widget.js"
REMEDY = (
    "NiiVue is not installed, so only single slices are shown: "
    "pip install 'graftwork-medseg[viewer]' adds it."
)


def find() -> Path | None:
    """The installed widget module, or None without the extra `viewer`."""
    try:
        found = [f for f in files(PACKAGE) or () if f.as_posix() == WIDGET]
    except PackageNotFoundError:
        return None
    path = Path(str(found[0].locate())) if found else None
    return path if path is not None and path.is_file() else None


def name() -> str:
    """What is installed, with its version, for the page's list of what is in use."""
    return f"NiiVue, from {PACKAGE} {version(PACKAGE)}"
