"""The slot extractor's labels, scores and arms; a rehearsal of the whole command in seconds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.maritime.slots import collect, page, rules, score, sets, small, work
from benchmarks.maritime.slots.__main__ import main
from benchmarks.maritime.slots.composed import composed, in_figures, without_lead
from benchmarks.maritime.slots.spans import (
    SLOTS,
    TAGS,
    Labelled,
    Span,
    placed,
    read,
    spans_of,
    tags_of,
    words,
)
from benchmarks.trees.training import Plan
from graftwork.errors import GraftError
from graftwork_maritime.dialogues import Dialogue, Turn
from graftwork_runs import Row, validate_record

TEXT = "This is Osquill, on fire. Five persons on board."


def told(*texts: str) -> Dialogue:
    return Dialogue(tuple(Turn("ship", text) for text in texts), "d")


def span(slot: str, text: str, dialogue: Dialogue, turn: int = 1, score: float = 1.0) -> Span:
    start = dialogue.turns[turn - 1].text.index(text)
    return Span(slot, turn, start, start + len(text), score)


def test_tags_and_spans_are_inverse() -> None:
    one = told(TEXT)
    spans = [span("vessel", "Osquill", one), span("nature", "on fire", one), span("persons", "Five", one)]  # fmt: skip
    tags = tags_of(TEXT, spans)
    assert [TAGS[t] for t in tags[:6]] == ["O", "O", "B-vessel", "O", "B-nature", "I-nature"]
    assert spans_of(TEXT, 1, tags) == spans


def test_a_span_ends_with_a_word_and_may_begin_inside() -> None:
    tags = [TAGS.index("I-nature") if n in (3, 4, 5, 6) else 0 for n in range(len(words(TEXT)))]
    [found] = spans_of(TEXT, 1, tags, [0.5] * len(tags))
    assert TEXT[found.start : found.end] == "on fire" and found.score == 0.5
    assert spans_of(TEXT, 1, [TAGS.index("B-help") if n == 3 else 0 for n in range(len(tags))]) == []  # fmt: skip


def test_words_that_do_not_stand_there_are_refused() -> None:
    one = told(TEXT)
    assert placed(one, "vessel", 1, 8, "Osquill").end == 15
    for slot, turn, start, text, says in (
        ("vessel", 1, 7, "Osquill", "does not stand at 7"), ("vessel", 2, 8, "Osquill", "turns 1 to 1"),
        ("cargo", 1, 8, "Osquill", "unknown slot"), ("vessel", 1, 8, " ", "does not stand"),
    ):  # fmt: skip
        with pytest.raises(GraftError, match=says):
            placed(one, slot, turn, start, text)


@pytest.fixture(scope="module")
def some() -> list[Labelled]:
    return list(composed(3, 60))


def test_composed_labels_say_the_slots(some: list[Labelled]) -> None:
    assert some[:4] == list(composed(3, 4))
    seen = dict.fromkeys(SLOTS, 0)
    for one in some:
        assert all(s.text(one.dialogue).strip(" .,") == s.text(one.dialogue) for s in one.spans)
        ends = [(s.turn, s.start, s.end) for s in one.spans]
        assert ends == sorted(ends) and len({s.slot for s in one.spans}) >= 2
        for slot in {s.slot for s in one.spans}:
            seen[slot] += 1
        counted = [
            t
            for t in one.dialogue.turns
            if re.search(r"(?<!Inform all p)ersons on board(?! must)(?!\?)", t.text)
        ]
        assert bool(counted) == any(s.slot == "persons" for s in one.spans), one.dialogue.text
    assert seen["position"] == seen["nature"] == len(some) and min(seen.values()) > len(some) / 2


def test_help_that_is_sent_is_not_help_that_is_asked_for(some: list[Labelled]) -> None:
    for one in some:
        for s in (s for s in one.spans if s.slot == "help"):
            turn = one.dialogue.turns[s.turn - 1]
            assert turn.speaker == "ship" and "on the way" not in turn.text


def test_numbers_in_figures_keep_their_spans() -> None:
    one = told("Position five four degrees one five point two five minutes North. One two persons.")
    position = span("position", "five four degrees one five point two five minutes North", one)
    made = in_figures(Labelled(one, (position, span("persons", "One two", one))))
    assert made.dialogue.text == "Position 54 degrees 15.25 minutes North. 12 persons."
    assert [s.text(made.dialogue) for s in made.spans] == ["54 degrees 15.25 minutes North", "12"]


def test_a_nature_stands_without_its_lead() -> None:
    for text, nature in (
        ("The vessel is on fire", "on fire"), ("There is a fire on board", "fire on board"),
        ("I am on fire", "on fire"), ("Hard aground", "Hard aground"),
    ):  # fmt: skip
        assert text[without_lead(text) :] == nature


def test_the_first_sure_span_fills_a_slot() -> None:
    one = told(TEXT, "Six persons on board.")
    doubted = span("persons", "Five", one, score=0.3)
    sure = span("persons", "Six", one, 2, 0.9)
    assert score.filled([sure, doubted]) == {"persons": sure}
    assert score.filled([doubted]) == {"persons": doubted}


def test_exact_and_overlap_by_hand() -> None:
    one = told("We need a tug and pumps.", "Osquill, this is Osquill. A tug and pumps.")
    tug, all_of_it = span("help", "a tug", one), span("help", "a tug and pumps", one)
    assert score.exact(tug, [all_of_it, span("help", "tug", one)], one)
    assert not score.exact(span("help", "A tug", one, 2), [tug], one)  # another turn
    assert score.exact(span("vessel", "Osquill", one, 2), [Span("vessel", 2, 17, 24)], one)
    assert score.overlap(tug, [all_of_it], one) == (1, 1, 3)  # "a" does not count
    assert score.overlap(None, [all_of_it], one) == (0, 0, 3)
    assert score.overlap(tug, [], one) == (0, 1, 0)


def test_f1_counts_what_is_missed_and_what_is_invented() -> None:
    one, two, three = (Dialogue((Turn("ship", TEXT),), i) for i in "abc")
    five = span("persons", "Five", one)
    labels = [Labelled(one, (five,)), Labelled(two, (five,)), Labelled(three, ())]
    found = {"a": [five], "b": [], "c": [five]}
    figures = score.figures(labels, [found], draws=50)
    value = figures[score.EXACT, "persons"]
    assert value.value == 0.5 and value.lo <= 0.5 <= value.hi
    assert figures[score.EXACT, "help"].value == 1.0  # nothing to say, nothing said
    both = score.figures(labels, [found, {"a": [five], "b": [five], "c": []}], draws=50)
    assert both[score.EXACT, "persons"].value == 0.75
    assert score.invented(labels, [found])["persons"] == (1, 1.0)
    kinds = score.by_wording(labels, [found], {})
    assert kinds == {("persons", "words, as persons"): (2, 0.5, 0.5)}


def test_rules_read_a_plain_call() -> None:
    one = Dialogue((
        Turn("ship", "Mayday, Mayday, Mayday. This is tanker Tarquen, Tarquen, Tarquen. Position two four degrees five "
             "two minutes North, zero five six degrees three five minutes East. The vessel is on fire. Require pumps. "
             "Persons on board two one. Over."),
    ))  # fmt: skip
    said = {slot: s.text(one) for slot, s in score.filled(rules.extract(one)).items()}
    assert said.pop("position").startswith("two four degrees")
    assert said == {"vessel": "Tarquen", "nature": "on fire", "persons": "two one", "help": "pumps"}


def test_the_small_tagger_learns_and_is_read_again(some: list[Labelled], tmp_path: Path) -> None:
    few = some[:8]
    made = small.fit(few, Plan(steps=60, batch=2), 0, lambda line: None)
    assert made.losses[-1] < 0.2 * 2.4  # of an untrained one
    dialogues = [one.dialogue for one in few]
    found = {one.dialogue.id: s for one, s in zip(few, made.extract(dialogues), strict=True)}
    assert score.figures(few, [found], 2)[score.OVERLAP, "position"].value > 0.8
    made.save(tmp_path)
    assert small.Small.load(tmp_path).extract(dialogues) == list(found.values())
    with pytest.raises(GraftError, match="prepare"):
        small.fit([], Plan(), 0)


def test_padding_changes_nothing(some: list[Labelled]) -> None:
    features = small.Features.of(one.dialogue for one in some)
    tagger = small.Tagger(len(features.known)).eval()
    short, long = sorted((features(one.dialogue) for one in some[:2]), key=len)
    alone = tagger(*small._padded([short]))[0]
    assert (tagger(*small._padded([short, long]))[0, : len(short)] - alone).abs().max() < 1e-5


def test_a_reading_tags_the_last_token_of_each_word() -> None:
    from benchmarks.maritime.slots.grafted import reading
    from graftwork_llm.tiny import tokenizer

    one = told(TEXT, "Over.")
    made = reading(tokenizer(), one, 2)
    ends = [turn.text[end - 1] for turn in one.turns for _, end in words(turn.text)]
    assert [tokenizer().decode(made.ids[p]) for p in made.places] == ends
    assert min(made.places) > len(made) / 2


def test_the_hand_written_labels_are_whole() -> None:
    file, labels = sets.FILES[sets.FIRST]
    found = sets.by_hand(file, labels)
    assert len(found) == len(file.read_text(encoding="utf8").splitlines())
    counts = {slot: sum(any(s.slot == slot for s in one.spans) for one in found) for slot in SLOTS}
    assert counts["position"] == len(found) and min(counts.values()) > 50
    for one in found:
        scenario = one.dialogue.scenario or {}
        for s in (s for s in one.spans if s.slot == "vessel" and scenario["kind"] not in ("sar", "relay")):  # fmt: skip
            assert s.text(one.dialogue) == scenario["vessel"]["name"]


@pytest.mark.parametrize("name", [sets.SECOND, sets.THIRD])
def test_the_later_sets_bring_their_labels(name: str) -> None:
    file, labels = sets.FILES[name]
    found = sets.by_hand(file, labels)
    assert len(found) == len(file.read_text(encoding="utf8").splitlines())
    assert {s.slot for one in found for s in one.spans} == set(SLOTS)


def test_the_whole_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out, record = tmp_path / "data", tmp_path / "out", tmp_path / "record.json"
    assert main(["prepare", "--data", str(data), "--tiny"]) == 0
    assert len(read(data / "train.jsonl")) == 12
    command = ["run", "--data", str(data), "--out", str(out), "--tiny", "--base", "tiny"]
    command += ["--device", "cpu"]
    monkeypatch.setattr(work, "SEEDS", (0,))
    kept = {**sets.FILES}
    monkeypatch.setattr(sets, "FILES", {sets.FIRST: kept[sets.FIRST]})
    few = {name: labels[:2] for name, labels in sets.labelled(data).items()}
    monkeypatch.setattr(collect, "labelled", lambda folder: few)
    assert main(command) == 0
    assert {p.stem for p in out.glob("*.json")} == {job.name for job in work.listed()}
    done = json.loads((out / "LoRA-0.json").read_text())
    stale = {**done, "found": {sets.COMPOSED: done["found"][sets.COMPOSED]}}
    (out / "LoRA-0.json").write_text(json.dumps(stale))
    monkeypatch.setattr(work.Work, "_fit", lambda *a: pytest.fail("trained again"))
    assert main(command) == 0  # a set that came later is read with what was trained
    assert json.loads((out / "LoRA-0.json").read_text())["found"] == done["found"]
    (out / "head-alone-0.json").unlink()
    assert main(["table", "--data", str(data), "--out", str(out), "--record", str(record)]) == 0
    made = validate_record(record)
    monkeypatch.setattr(page, "TARGET", record)
    assert f"{sets.FIRST}, 2 dialogues" in page.f1() and "| rules | " in page.f1()
    assert "Not run yet: head alone.\n" in page.f1()
    assert "| vessel | after THIS IS | 2 |" in page.missed()
    assert made.verdict and "rules" in made.verdict
    monkeypatch.setattr(collect, "labelled", sets.labelled)
    capsys.readouterr()
    assert main(["table", "--data", str(data), "--out", str(out), "--record", str(record)]) == 2
    assert "has not read" in capsys.readouterr().err
    assert main(["run", "--data", str(data), "--out", str(out), "--arms", "no"]) == 2
    assert "no" in capsys.readouterr().err
    assert main(["run", "--data", str(tmp_path), "--out", str(out)]) == 2


def test_the_verdict_says_who_is_better() -> None:
    def row(name: str, arm: str, value: float) -> Row:
        return Row(case=f"{name}: {score.ALL}", variant=arm, metric=score.EXACT, value=value)

    rows = [row(sets.FIRST, work.RULES, 0.5), row(sets.FIRST, work.SMALL, 0.6)]
    assert collect.verdict(rows, [sets.COMPOSED, sets.FIRST]).startswith("seen: ")
    rows += [row(sets.FIRST, work.LORA, 0.4)]
    assert collect.verdict(rows, [sets.FIRST]).startswith("not seen at this scale: ")
    rows += [row(sets.SECOND, work.RULES, 0.5), row(sets.SECOND, work.LORA, 0.6)]
    assert collect.verdict(rows, [sets.FIRST, sets.SECOND]).startswith("partly: ")
    assert collect.verdict([], []).startswith("not testable here")
