"""A report: one HTML file that a person reads, offline, and that can be e-mailed."""

from graftwork_runs.report.cases import Case
from graftwork_runs.report.cells import Figure, Measure
from graftwork_runs.report.pictures import Picture, Volume, side_by_side
from graftwork_runs.report.report import Report
from graftwork_runs.report.texts import Text, Tree

__all__ = [
    "Case",
    "Figure",
    "Measure",
    "Picture",
    "Report",
    "Text",
    "Tree",
    "Volume",
    "side_by_side",
]
