"""Records: strict, finite, round trip, and errors that name the file and the field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftwork import GraftError
from graftwork_runs import Record, Row, environment, record_schema, validate_record
from graftwork_runs.surroundings import commit, device_name, memory_bytes, peak_memory_bytes

GOOD: dict[str, Any] = {
    "record": "speed/lora-step",
    "claim": "one sentence",
    "command": "python -m benchmarks.speed",
    "commit": "abc",
    "date": "2026-11-23T10:00:00Z",
    "device": "AMD EPYC",
    "versions": {"torch": "2.14.1"},
    "seeds": [0, 1, 2],
    "rows": [
        {
            "case": "llama-1b 4x2048 bf16",
            "variant": "graftwork lora r16 eager",
            "metric": "ratio_to_floor",
            "value": 1.12,
            "lo": 1.10,
            "hi": 1.14,
            "n": 12,
        }
    ],
    "verdict": "seen: in all three seeds",
}


def written(folder: Path, record: object) -> Path:
    path = folder / "record.json"
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return path


def test_the_designs_example_is_a_record_and_survives_the_round_trip(tmp_path: Path) -> None:
    record = validate_record(written(tmp_path, GOOD))
    assert record.find(metric="ratio_to_floor")[0].value == 1.12
    assert record.find(metric="other") == []
    again = validate_record(record.write(tmp_path / "deep" / "er" / "record.json"))
    assert again == record
    assert json.loads(again.to_json()) == GOOD


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("claim", {"claim": ""}),
        ("seeds.1", {"seeds": [0, "one"]}),
        ("rows.0.value", {"rows": [{**GOOD["rows"][0], "value": "high"}]}),
        ("rows.0", {"rows": [{**GOOD["rows"][0], "lo": 2.0}]}),
        ("rows.0", {"rows": [{**GOOD["rows"][0], "hi": None}]}),
        ("rows.0", {"rows": [{**GOOD["rows"][0], "value": None}]}),
        ("rows.0.valeu", {"rows": [{**GOOD["rows"][0], "valeu": 1}]}),
        ("verdict", {"verdict": "great"}),
        ("date", {"date": "yesterday"}),
        ("record", {"record": "../outside"}),
        ("data", {"data": {"a.nii.gz": "123"}}),
        ("colour", {"colour": "red"}),
        ("seconds", {"seconds": -1}),
    ],
)
def test_a_wrong_field_is_named_with_its_file(
    tmp_path: Path, field: str, change: dict[str, Any]
) -> None:
    path = written(tmp_path, {**GOOD, **change})
    with pytest.raises(GraftError) as caught:
        validate_record(path)
    assert f"{path}: {field}: " in str(caught.value)


def test_missing_fields_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(GraftError) as caught:
        validate_record(written(tmp_path, {"record": "a/b"}))
    for field in ("claim", "command", "date", "device", "versions", "rows"):
        assert f"{field}: Field required" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "\xff", "[]"])
def test_what_is_not_a_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GraftError, match=r"record\.json: "):
        validate_record(path)
    with pytest.raises(GraftError, match="cannot be read"):
        validate_record(tmp_path / "none.json")


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_figure_that_is_not_finite_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(GraftError, match=r"rows\.0\.value"):
        validate_record(written(tmp_path, json.dumps(GOOD).replace("1.12", value)))


def test_the_schema_names_every_field() -> None:
    schema = record_schema()
    assert set(schema["properties"]) == set(Record.model_fields)
    assert set(schema["$defs"]["Row"]["properties"]) == set(Row.model_fields)
    assert schema["additionalProperties"] is False


def test_the_environment_fits_a_record_and_imports_nothing_heavy() -> None:
    record = Record.model_validate({**GOOD, **environment()})
    assert record.versions["python"] == sys.version.split()[0]
    assert {"torch", "graftwork-runs"} <= set(record.versions)
    assert record.cores and record.cores >= 1 and record.device
    code = (
        "import sys, graftwork_runs; graftwork_runs.environment(); "
        "print([m for m in ('torch', 'lightning', 'numpy', 'PIL', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_commit_is_that_of_the_tracked_code(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    source = tmp_path / "code.py"
    source.write_text("1")
    assert commit(source) is None  # no repository
    git("init", "-q")
    assert commit(source) is None  # not tracked
    git("add", "code.py")
    assert commit(source) is None  # no commit yet
    (tmp_path / "README.md").write_text("a")
    git("add", "README.md")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert commit(source) == head
    (tmp_path / "README.md").write_text("b")
    assert commit(source) == head
    source.write_text("2")
    assert commit(source) == f"{head}+changes"


def test_the_device_is_named() -> None:
    assert device_name("cpu") not in ("", "cpu:0")
    assert device_name("mps:0") == "mps:0"
    assert (peak_memory_bytes() or 0) > 1_000_000
    assert (memory_bytes() or 0) > (peak_memory_bytes() or 0)
