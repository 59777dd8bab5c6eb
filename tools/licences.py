"""Writes the table of docs/licences.md: what each pinned package says about its own licence.

    .venv/bin/python -m tools.licences

Run it after changing constraints.txt; a test names the packages that the page lacks.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata

from tools.environment import ROOT

PAGE = ROOT / "docs" / "licences.md"
BEGIN, END = "<!-- packages: begin -->\n", "<!-- packages: end -->\n"


def pins() -> dict[str, str]:
    """{name: version} of constraints.txt, in its order."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def licence(name: str) -> str:
    """A package's licence by its metadata: the expression, a short text, or the classifiers."""
    facts = metadata(name).json
    expression = facts.get("license_expression", "")
    text = str(facts.get("license", ""))
    classes = [c for c in facts.get("classifier", []) if c.startswith("License")]
    named = ", ".join(c.split(" :: ")[-1] for c in classes)
    return str(
        expression
        or (text if len(text) < 60 and text != "UNKNOWN" else "")
        or named
        or "not in its metadata"
    )


def table() -> str:
    rows = ["| package | version | licence |", "| --- | --- | --- |"]
    for name, version in pins().items():
        try:
            words = licence(name)
        except PackageNotFoundError:
            words = "not installed here"
        rows.append(f"| {name} | {version} | {words} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf8")
