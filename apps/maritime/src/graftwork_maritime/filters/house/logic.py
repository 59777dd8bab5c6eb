"""Whether what is said can be so: persons, silence, relays, acknowledgements, questions and answers, cancellations."""

from __future__ import annotations

import re
from itertools import pairwise

from ..case import Case, Filter, Told
from .order import MAYDAY, PAN, RELAY
from .said import after, before, numbers

_PERSONS = r"(?:persons?|people|souls|crew(?: members)?|passengers and crew)\b(?:\W+\w+){0,2}?\W+(?:on ?board|aboard)\b"
_SILENCE, _FINISHED = r"\bseelonce (?:may ?day|distress)\b", r"\bseelonce fee?nee\b|\bpru-?donce\b"
_NO_ANSWER = (
    r"no information|not known|unknown|stand ?by|say again|do not know|cannot say|repeat your"
)
_RECEIVED = r"\breceived\W+(?:your\W+)?may ?day\b"
# What is asked, by words of the question, and what an answer to it holds.
_ASKED = (
    (r"how many|number of persons|persons on board", "a number"),
    (r"what is your (?:present |exact )?position|say your position", "a position"),
    (r"what is your (?:MMSI|call ?sign)", "an identity"),
)
_ANSWER = {
    "a number": r"\b(?:no|nobody|none|all|alone|only)\b",
    "a position": r"degrees?|miles?|cables?|bearing",
    "an identity": r"mmsi|call ?sign",
}


def _turns(case: Case) -> list[tuple[int, str, str]]:
    return [(n, t.speaker, t.text) for n, t in enumerate(case.dialogue.turns, 1)]


def _on_board(text: str) -> list[int]:
    """Numbers of persons: "five persons on board", "persons on board, five"."""
    behind = [int(one.value) for one in after(text, _PERSONS, numbers(text), words=0)]
    return [*before(text, _PERSONS), *behind]


def _persons(case: Case) -> list[Told]:
    wanted = (case.scenario.get("vessel") or {}).get("persons")
    told: list[Told] = []
    seen: dict[int, int] = {}
    for n, speaker, text in _turns(case):
        for count in _on_board(text) if speaker == "ship" else ():
            if wanted is not None and count != int(wanted):
                told.append((n, f"{count} persons on board, and the scenario has {wanted}"))
            elif wanted is None and seen and count not in seen:
                old, line = next(iter(seen.items()))
                told.append((n, f"{count} persons on board, and turn {line} said {old}"))
            seen.setdefault(count, n)
    return told


def _copied(case: Case) -> list[Told]:
    """The coast station repeats another number of persons than the ship said."""
    said: set[int] = set()
    told: list[Told] = []
    for n, speaker, text in _turns(case):
        found = set(_on_board(re.sub(r"[^.?!]*\?", " ", text)))
        if speaker == "ship":
            said |= found
        elif speaker == "coast" and said and found - said:
            told.append((n, f"repeats {min(found - said)} persons, and the ship said {max(said)}"))
    return told


def _silence(case: Case) -> list[Told]:
    told: list[Told] = []
    imposed = distress = False
    for n, speaker, text in _turns(case):
        distress = distress or bool(re.search(MAYDAY, text, re.IGNORECASE))
        if re.search(_FINISHED, text, re.IGNORECASE):
            if not distress:
                told.append((n, "distress traffic is ended, and there was none"))
            imposed = False
            continue
        if imposed and speaker == "other" and not re.search(MAYDAY, text, re.IGNORECASE):
            told.append((n, "speaks although silence is imposed"))
        imposed = imposed or bool(re.search(_SILENCE, text, re.IGNORECASE))
    return told


def _relay(case: Case) -> list[Told]:
    """The vessel in distress relays itself, or a relay does not say whose distress it is."""
    name = str((case.scenario.get("vessel") or {}).get("name") or "").lower()
    told: list[Told] = []
    for n, speaker, text in _turns(case):
        relay = len(re.findall(RELAY, text, re.IGNORECASE)) >= 3  # once, it is received
        if relay and speaker == "ship" and case.scenario.get("kind") == "distress":
            told.append((n, "the vessel in distress relays its own distress"))
        elif relay and name and name not in text.lower():
            told.append((n, "a relay that does not name the vessel in distress"))
    return told


def _received(case: Case) -> list[Told]:
    told: list[Told] = []
    distress = False
    for n, speaker, text in _turns(case):
        plain = re.sub(_RECEIVED, " ", text, flags=re.IGNORECASE)
        ours = speaker == "ship" and case.scenario.get("kind") == "distress"
        if re.search(_RECEIVED, text, re.IGNORECASE):
            if not distress:
                told.append((n, "acknowledges a Mayday that nobody has sent"))
            elif ours:
                told.append((n, "the vessel in distress acknowledges its own Mayday"))
        # a call that begins with Mayday acknowledges too, so only another's signal counts
        distress = distress or (speaker != "coast" and bool(re.search(MAYDAY, plain, re.I)))
        distress = distress or bool(case.scenario.get("dsc"))
    return told


def _answers(case: Case) -> list[Told]:
    told: list[Told] = []
    turns = _turns(case)
    for (n, asker, text), (m, speaker, answer) in pairwise(turns):
        questions = re.findall(r"[^.?!]*\?", text)
        if asker != "coast" or speaker != "ship" or re.search(_NO_ANSWER, answer, re.IGNORECASE):
            continue
        for question in questions:
            for words, what in _ASKED:
                if not re.search(words, question, re.IGNORECASE):
                    continue
                if not _holds(answer, what):
                    told.append((m, f"turn {n} asks for {what}, and the answer holds none"))
    return told


def _holds(answer: str, what: str) -> bool:
    """Whether an answer has what is asked for; figures answer for a number and an identity, "none" for a number."""
    if what != "a position" and numbers(answer):
        return True
    return bool(re.search(_ANSWER[what], answer, re.IGNORECASE))


def _cancelled(case: Case) -> list[Told]:
    text = case.text.lower()
    wrong: list[Told] = []
    if not re.search(
        r"\bcancel|\bfalse (?:alert|alarm)|\bin error\b|\binadvertent|\bby mistake", text
    ):
        wrong.append((None, "nothing says that the alert was false or is cancelled"))
    if not re.search(r"\ball stations\b", text):
        wrong.append((None, "the cancellation does not call all stations"))
    if len(re.findall(MAYDAY, case.dialogue.turns[0].text, re.I)) >= 3:
        wrong.append((1, "a cancellation opens with Mayday three times"))
    return wrong


def _alarm(case: Case) -> list[Told]:
    """A distress signal in traffic that is none."""
    return [
        (n, f"Mayday is sent in {case.scenario['kind']} traffic")
        for n, speaker, text in _turns(case)
        if speaker == "ship" and len(re.findall(MAYDAY, text, re.IGNORECASE)) >= 3
    ]


def _both(case: Case) -> list[Told]:
    return [
        (n, "Mayday and Pan-pan in one call")
        for n, _, text in _turns(case)
        if re.search(MAYDAY, text, re.IGNORECASE) and re.search(PAN, text, re.IGNORECASE)
    ]


LOGIC = (
    Filter("persons_match", "another number of persons on board than before, or than the scenario's", _persons),
    Filter("persons_repeated", "the coast station repeats another number of persons", _copied),
    Filter("silence", "traffic during imposed silence, or its end without distress", _silence),
    Filter("relay", "a relay by the vessel itself, or of nobody", _relay, ("scenario",)),
    Filter("acknowledgement", "received Mayday without one, or by its own sender", _received),
    Filter("answers", "an answer without what was asked", _answers),
    Filter("cancellation", "a false alert is not cancelled as such", _cancelled, ("scenario",),
           lambda c: c.scenario.get("kind") != "cancel"),
    Filter("distress_signal", "a distress signal in other traffic", _alarm, ("scenario",),
           lambda c: c.scenario.get("kind") not in ("urgency", "safety", "medical")),
    Filter("two_signals", "two signals in one call", _both),
)  # fmt: skip
