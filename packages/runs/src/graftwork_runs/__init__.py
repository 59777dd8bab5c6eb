"""Run folders, records, reports and the local page that every Graftwork application shares.

Names load on first use, so that a command line can import this package before it knows whether it
needs any of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork_runs.folder import RunFolder as RunFolder
    from graftwork_runs.folder import runs as runs
    from graftwork_runs.forms import Field as Field
    from graftwork_runs.forms import Form as Form
    from graftwork_runs.forms import Upload as Upload
    from graftwork_runs.page import Answer as Answer
    from graftwork_runs.page import Page as Page
    from graftwork_runs.page import Pages as Pages
    from graftwork_runs.page import serve as serve
    from graftwork_runs.record import Record as Record
    from graftwork_runs.record import Row as Row
    from graftwork_runs.record import record_schema as record_schema
    from graftwork_runs.record import validate_record as validate_record
    from graftwork_runs.report import Case as Case
    from graftwork_runs.report import Figure as Figure
    from graftwork_runs.report import Measure as Measure
    from graftwork_runs.report import Picture as Picture
    from graftwork_runs.report import Report as Report
    from graftwork_runs.report import Text as Text
    from graftwork_runs.report import Tree as Tree
    from graftwork_runs.report import Volume as Volume
    from graftwork_runs.report import side_by_side as side_by_side
    from graftwork_runs.surroundings import environment as environment

_HOME = {
    "surroundings": ["environment"],
    "folder": ["RunFolder", "runs"],
    "forms": ["Field", "Form", "Upload"],
    "page": ["Answer", "Page", "Pages", "serve"],
    "record": ["Record", "Row", "record_schema", "validate_record"],
    "report": [
        "Case",
        "Figure",
        "Measure",
        "Picture",
        "Report",
        "Text",
        "Tree",
        "Volume",
        "side_by_side",
    ],
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
