"""`check` and `stats` on files of every kind, good and bad; and how dialogues are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork_maritime import NOTICE
from graftwork_maritime.app import main
from graftwork_maritime.dialogues import (
    MAX_LINE,
    MAX_TEXT,
    Dialogue,
    Turn,
    from_json,
    read,
)
from graftwork_maritime.stats import statistics

TEXT = """\
SHIP: Mayday, Mayday, Mayday. This is Quiet Meridian, MMSI two zero one three. I am on fire. Over.

COAST: Quiet Meridian, this is Amber Rescue, received Mayday. How many persons are on board? Over.
Twelve persons on board. Over and out.
OTHER (Silver Tern): Amber Rescue, this is Silver Tern. I come to assist. Over.
"""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "call.txt"
    file.write_text(TEXT)
    return file


def dialogue(n: int, text: str = "Mayday, Mayday, Mayday. This is Quiet Meridian.") -> Dialogue:
    return Dialogue((Turn("ship", text), Turn("coast", "Received.")), id=f"d{n}", category="fire")


def jsonl(file: Path, *dialogues: Dialogue) -> Path:
    file.write_text("".join(json.dumps(d.to_json()) + "\n" for d in dialogues))
    return file


def test_labels_alternation_and_names_are_read(text: Path) -> None:
    (found,) = read(text)
    assert [(t.speaker, t.name) for t in found.turns] == [
        ("ship", None), ("coast", None), ("ship", None), ("other", "Silver Tern")]  # fmt: skip
    assert found.turns[1].text.startswith("Quiet Meridian, this is")


@given(
    st.lists(
        st.builds(
            Turn,
            st.sampled_from(["ship", "coast", "other"]),
            st.text("abc .é", min_size=1).map(lambda s: " ".join(s.split()) or "x"),
            st.none() | st.just("Tern"),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_dialogue_survives_its_json(turns: list[Turn]) -> None:
    one = Dialogue(tuple(turns), "d", None, "fire", {"seed": 1})
    assert from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one.to_json()["notice"] == NOTICE


def test_findings_name_turn_filter_and_reason(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(text)]) == 0
    out = capsys.readouterr().out
    assert "call turn 1: mmsi_form: MMSI '2013' has not nine digits" in out
    assert 'call turn 3: over_out: "over and out"' in out
    assert "1 dialogues, 1 refused" in out and out.rstrip().endswith(NOTICE)
    assert "not judged" in out and "mmsi_matches" in out
    assert main(["check", str(text), "--strict"]) == 1
    assert main(["check", str(text), "--filters", "relay", "--strict"]) == 0


def test_json_has_a_line_for_each_and_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = jsonl(tmp_path / "two.jsonl", dialogue(1), dialogue(2, "Mayday (twice)."))
    assert main(["check", str(file), "--json", "--filters", "paper", "--without", "mayday"]) == 0
    first, second, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["id"], first["line"], second["line"]) == ("d1", 1, 2)
    assert {f["filter"] for f in second["findings"]} == {"parentheses", "no_coast_guard"}
    assert last["summary"]["refused"] == 2 and last["summary"]["notice"] == NOTICE
    assert "mayday" not in {r["filter"] for r in last["summary"]["rows"]}


def test_against_and_category(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = jsonl(tmp_path / "one.jsonl", dialogue(1))
    args = ["check", str(file), "--filters", "not_unique", "--json"]
    main(args)
    main([*args, "--against", str(file)])
    alone, _, copied, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert not alone["findings"] and copied["findings"][0]["filter"] == "not_unique"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "call.txt"
    file.write_bytes("Mayday. This is Élan.\nReceived.\n".encode(encoding))
    if encoding == "cp1252":
        assert main(["check", str(file)]) == 2
        error = capsys.readouterr().err
        assert "line 1" in error and "--encoding cp1252" in error
        assert main(["check", str(file), "--encoding", encoding]) == 0
    else:
        assert main(["check", str(file)]) == 0
    assert next(read(file, encoding)).turns[0].text == "Mayday. This is Élan."


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"\n \n", "is empty"),
    "half an object": (b'{"turns": [\n', "line 1: not JSON"),
    "second line": (b'{"turns":[{"speaker":"ship","text":"x"}]}\n[1]\n', "line 2: a list"),
    "no turns": (b'{"id": "a"}\n', "line 1: turns: missing"),
    "speaker": (b'{"turns":[{"speaker":"pilot","text":"x"}]}', "turn 1: speaker 'pilot'"),
    "no text": (b'{"turns":[{"speaker":"ship"}]}', "turn 1: text is missing"),
    "scenario": (
        b'{"turns":[{"speaker":"ship","text":"x"}],"scenario":{"id":"a"}}',
        "line 1: dialogue",
    ),
    "binary": (b"\x00\x01\x02", "NUL bytes"),
    "nested": (b'{"turns":' + b"[" * 100_000, "line 1: "),
    "a long line": (b'{"turns": "' + b"x" * MAX_LINE, "line 1: longer than 1 MB"),
    "a long text": (b"Mayday.\n" * (MAX_TEXT // 8 + 1), "10.0 MB of plain text"),
    "many turns": (b"Mayday.\n" * 2000, "2000 turns"),
    "a long turn": (b"Over.\n" + b"Mayday " * 3000, "turn 2 has 20,999 characters"),
    "a long turn of a line": (
        b'{"turns":[{"speaker":"ship","text":"' + b"x" * 20_001 + b'"}]}',
        "line 1: turn 1 has 20,001 characters",
    ),
}


@pytest.mark.parametrize("text", ["7" * 5000, "1 " * 5000])  # Python reads 4,300 by itself
def test_a_turn_of_thousands_of_figures_is_judged(tmp_path: Path, text: str) -> None:
    file, before = (
        jsonl(tmp_path / "figures.jsonl", dialogue(1, text)),
        sys.get_int_max_str_digits(),
    )
    assert main(["check", str(file), "--filters", "paper,house,grammar"]) == 0
    assert sys.get_int_max_str_digits() == before


def test_an_empty_turn_of_a_model_is_judged_and_not_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "written.jsonl"
    file.write_text(
        '{"turns":[{"speaker":"ship","text":"Mayday. Over."},{"speaker":"coast","text":""}]}\n'
    )
    assert main(["check", str(file), "--filters", "paper"]) == 0
    assert "turn 2: incomplete" in capsys.readouterr().out


# stats does not read scenarios
@pytest.mark.parametrize(
    ("verb", "name"),
    [(v, n) for n in BAD for v in ("check", "stats") if (v, n) != ("stats", "scenario")],
)
def test_bad_files_are_one_message_with_the_line(
    name: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, reason = BAD[name]
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    assert main([verb, str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("maritime: error: ") and error.count("\n") == 1
    assert str(file) in error and reason in error


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "name a file"),
        (["missing.txt"], "No such file"),
        (["x", "--filters", "papre"], "did you mean paper"),
        (["x", "--no-such"], "unrecognized arguments"),
        ([".", "--encoding", "klingon"], "directory"),
    ],
)
def test_bad_arguments_are_one_message(
    args: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *args]) == 2
    assert reason in capsys.readouterr().err


def test_an_unknown_encoding(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(text), "--encoding", "klingon"]) == 2
    assert "--encoding klingon: unknown" in capsys.readouterr().err


def test_long_work_says_how_far_it_is_beside_its_output(
    text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(text), "--json"]) == 0
    quick = capsys.readouterr()
    monkeypatch.setattr("graftwork_maritime.check.SECONDS", 0.0)
    assert main(["check", str(text), "--json"]) == 0
    slow = capsys.readouterr()
    assert "so far" not in quick.err and slow.out == quick.out
    assert slow.err.splitlines()[0].startswith("1 dialogues, ")


def test_the_filters_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--list"]) == 0
    out = capsys.readouterr().out
    assert "paper:" in out and "house:" in out and "hallucinated_mmsi" in out


def test_a_large_file_of_lines_is_read_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "large.jsonl"
    line = json.dumps(dialogue(1, "Mayday. " * 1000).to_json()) + "\n"
    file.write_text(line * (MAX_TEXT // len(line) + 2))
    assert file.stat().st_size > MAX_TEXT
    assert next(read(file)).id == "d1"
    with pytest.raises(GraftError, match="line 1"):
        list(read(jsonl(tmp_path / "x.jsonl", dialogue(1)), "utf-16"))


def test_statistics_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = dialogue(1, "a b a. Over."), dialogue(2, "a b c.")
    found = statistics([one, two, one], [one])
    assert found["dialogues"] == 3 and found["copies"] == 1
    assert found["turns"] == {"mean": 2, "least": 2, "most": 2}
    assert found["words"] == {"mean": pytest.approx(14 / 3), "least": 4, "most": 5}
    assert found["distinct"][0] == pytest.approx(5 / 14)  # a b over received c
    assert found["over"] == pytest.approx(2 / 6)
    assert found["closest"]["most"] == 1 and found["closest"]["above"] == pytest.approx(2 / 3)
    assert main(["stats", str(jsonl(tmp_path / "two.jsonl", one, two))]) == 0
    out = capsys.readouterr().out
    assert "dialogues   2: fire 2" in out and out.rstrip().endswith(NOTICE)
