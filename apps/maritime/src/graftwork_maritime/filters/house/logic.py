"""Whether what is said can be so: persons, silence, relays, acknowledgements, questions and answers, cancellations."""

from __future__ import annotations

import re
from itertools import pairwise

from ...grammar import lexicon, part_of_distress
from ...grammar.opening import acknowledges
from ..case import Case, Filter, Told
from .order import MAYDAY, PAN, RELAY
from .said import after, before, numbers, spelled
from .whose import relays, sentences

_ALL = r"(?:persons?|people|souls|crew(?: members)?|passengers and crew|crew and passengers)\b"
_PERSONS = (
    rf"{_ALL}(?:,? (?:are|is|we|have|all|now|safe|still|here|in all|in total)){{0,2}}\W+(?:on ?board|aboard)\b"
    r"(?! (?:the|a|my|our|her|his|its|this) )"
)
_ENDS = re.compile(r"\s*(?:$|[.,;!?]|in all\b|in total\b|all told\b)")
_SOME = re.compile(
    r"\b(?:will|remain|stay|stayed|left|leave|leaves|missing|transferred|taken off|picked up|recovered|rescued|"
    r"evacuated|survivors?|now|still)\b",
    re.IGNORECASE,
)
_DISTRESS = rf"{MAYDAY}|\bdistress\b"
_NO_ANSWER = (
    r"no information|not known|unknown|stand ?by|say again|do not know|cannot say|repeat your|\bwait\b|moment|not sure|"
    r"not certain|not clear|will (?:report|count|check|tell|find)|counting|checking"
)
_BECOMES = re.compile(
    r"\b(?:if|when|now|not|instead|becomes?|upgraded?|downgraded?|changed?|cancel\w*|ended|follow\w*|earlier)\b",
    re.IGNORECASE,
)
_RECEIVED = r"\breceived\W+(?:your\W+)?may ?day\b"
_CANCELS = re.compile(
    r"\bcancel|\bfalse (?:alert|alarm|distress)|\bin error\b|\binadvertent|\bby (?:mistake|accident|error)\b"
    r"|\baccidental|\ba mistake\b|\bunintention|\bmistaken|\bwithdraw"
)
_WITHDRAWS = re.compile(
    r"\bcancel|\bfalse\b|\bwithdraw|\b(?:no|not in) distress\b|\bin error\b|\binadvertent|\baccidental",
    re.IGNORECASE,
)
# What only those near have seen: one station is told, which has sent help.
_SHOWN = re.compile(
    r"\b(?:flares?|rockets?|smoke|torch|lights?|signals?) (?:was|were|is|has|have)\b"
    r"|\b(?:fired|lit) (?:a|the|one|some|two)\b"
)
_ALERT = re.compile(r"\balert\b|\bdsc\b|\bnature of distress\b|\bbeacon\b|\bepirb\b", re.IGNORECASE)
# What is asked, by words of the question, and what an answer to it holds.
_ASKED = (
    (r"how many|\bnumber of|^\W*(?:and )?(?:total )?persons on board\W*$", "a number"),
    (r"what is your (?:present |exact )?position|say your position", "a position"),
    (r"what is your (?:MMSI|call ?sign)", "an identity"),
)
_ANSWER = {
    "a number": r"\b(?:no|nobody|none|all|alone|only|every\w*|both|several|some|many|few|single|dozen|half|quarter|"
    r"couple|an? (?:hour|minute|day|week|mile))\b",
    "a position": r"degrees?|miles?|cables?|metres|bearing|\b(?:off|same|unchanged|given|anchor\w*|alongside|moored)\b",
    "an identity": r"mmsi|call ?sign",
}


def _turns(case: Case) -> list[tuple[int, str, str]]:
    return [(n, t.speaker, t.text) for n, t in enumerate(case.dialogue.turns, 1)]


def _on_board(text: str) -> list[int]:
    """Numbers of all persons: "five persons on board", "persons on board, five"; not of some who stay or leave."""
    found: list[int] = []
    for part in sentences(text):
        if _SOME.search(part):
            continue
        apart = "passenger" in part.lower()  # then the crew are not all
        words = _PERSONS.replace("crew(?: members)?|", "") if apart else _PERSONS
        behind = after(part, words, numbers(part), words=0)
        found += [int(one.value) for one in behind if _ENDS.match(part, one.end)]
        found += before(part, words)
    return found


def _sums(text: str, count: int, wanted: int) -> bool:
    """Whether others are told beside those on board: "eight persons on board and one in the water"."""
    counted = [[int(n.value) for n in numbers(s) if n.value.isdigit()] for s in sentences(text)]
    return any(
        count in those and wanted - count in those and wanted != 2 * count for those in counted
    )


def _persons(case: Case) -> list[Told]:
    wanted = (case.scenario.get("vessel") or {}).get("persons")
    told: list[Told] = []
    if case.scenario.get("kind") in ("sar", "safety") or relays(case):
        return told  # they speak of others
    seen: dict[int, int] = {}
    for n, speaker, text in _turns(case):
        for count in _on_board(text) if speaker == "ship" else ():
            if wanted is not None and count != int(wanted) and not _sums(text, count, int(wanted)):
                told.append((n, f"{count} persons on board, and the scenario has {wanted}"))
            elif wanted is None and seen and count not in seen:
                old, line = next(iter(seen.items()))
                told.append((n, f"{count} persons on board, and turn {line} said {old}"))
            seen.setdefault(count, n)
    return told


def _copied(case: Case) -> list[Told]:
    """The coast station repeats another number of persons than the ship said."""
    said: set[int] = set()
    some: set[int] = set()  # other numbers that the ship said
    told: list[Told] = []
    for n, speaker, text in _turns(case):
        found = set(_on_board(re.sub(r"[^.?!]*\?", " ", text)))
        if speaker == "ship":
            said |= found
        elif speaker == "coast" and said and found - said - some:
            new = found - said - some
            told.append((n, f"repeats {min(new)} persons, and the ship said {max(said)}"))
        if speaker == "ship":
            some |= {int(one.value) for one in numbers(text)}
    return told


def _silence(case: Case) -> list[Told]:
    told: list[Told] = []
    imposed = distress = False
    for message in case.state.messages:
        n, text = message.line, message.text
        distress = distress or bool(re.search(_DISTRESS, text, re.IGNORECASE))
        if {"silence_end", "silence_eased"} & message.acts:
            if not distress:
                told.append((n, "distress traffic is ended, and there was none"))
            imposed = False
            continue
        ours = re.search(MAYDAY, text, re.IGNORECASE) or part_of_distress(case.state, message)
        if imposed and message.speaker == "other" and not ours:
            told.append((n, "speaks although silence is imposed"))
        imposed = imposed or "silence" in message.acts
    return told


def _relay(case: Case) -> list[Told]:
    """The vessel in distress relays itself, or a relay tells nothing of whose distress it is."""
    vessel, other = (case.scenario.get(key) or {} for key in ("vessel", "other_vessel"))
    known = [str(part.get("name") or "").lower() for part in (vessel, other)]
    told: list[Told] = []
    for n, speaker, text in _turns(case):
        relay = len(re.findall(RELAY, text, re.IGNORECASE)) >= 3  # once, it is received
        sender = (case.state.messages[n - 1].sender or "").lower()
        casualties = [k for k in known if k and k not in sender]
        named = any(k in text.lower() for k in casualties) or lexicon.RELAYED.search(text)
        if relay and speaker == "ship" and case.scenario.get("kind") == "distress":
            told.append((n, "the vessel in distress relays its own distress"))
        elif relay and not named:
            told.append((n, "a relay that does not name the vessel in distress"))
    return told


# What only a ship has: a coast station that speaks of its own speaks the ship's part.
_ABOARD = re.compile(
    r"\bmy (?:(?!patrol|rescue|duty|watch)\w+ ){0,2}(?:vessel|ship|crew|engines?|anchors?|hull|rudder|cargo|holds?|"
    r"propeller|bow|stern|steering|part|mast|cabin|passengers)\b|\bi (?:have run|ran) aground\b"
    r"|\bi am (?:aground|sinking|flooding|adrift|on fire)\b",
    re.IGNORECASE,
)


def _part(case: Case) -> list[Told]:
    return [
        (n, f"{found[0]!r}: a coast station has none")
        for n, speaker, text in _turns(case)
        if speaker == "coast" and (found := _ABOARD.search(text))
    ]


def _received(case: Case) -> list[Told]:
    told: list[Told] = []
    distress = False
    for message in case.state.messages:
        n, speaker, text = message.line, message.speaker, message.text
        plain = re.sub(_RECEIVED, " ", text, flags=re.IGNORECASE)
        if n == 1 and speaker == "coast" and (case.scenario.get("dsc") or _ALERT.search(text)):
            distress = True  # what it acknowledges is the alert
        ours = speaker == "ship" and case.scenario.get("kind") == "distress"
        if re.search(_RECEIVED, text, re.IGNORECASE):
            if not distress:
                told.append((n, "acknowledges a Mayday that nobody has sent"))
            elif ours:
                told.append((n, "the vessel in distress acknowledges its own Mayday"))
        # a call that begins with Mayday acknowledges too, so only another's signal counts, or a relay
        sent = speaker != "coast" or (message.signal is not None and message.repeats >= 3)
        distress = distress or (sent and bool(re.search(MAYDAY, plain, re.I)))
        distress = distress or bool(case.scenario.get("dsc")) or acknowledges(message)
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
    if what == "an identity" and spelled(answer):
        return True
    if what == "a position" and lexicon.POSITION.search(answer):
        return True
    return bool(re.search(_ANSWER[what], answer, re.IGNORECASE))


def _cancelled(case: Case) -> list[Told]:
    own = " ".join(text for _, speaker, text in _turns(case) if speaker != "coast").lower()
    wrong: list[Told] = []
    if not _CANCELS.search(own):
        wrong.append((None, "nothing says that the alert was false or is cancelled"))
    to_all = [m for m in case.state.messages if m.speaker != "coast" and "all_stations" in m.acts]
    if to_all and not any(_WITHDRAWS.search(m.text) for m in to_all):
        wrong.append((to_all[-1].line, "all stations are called, and nothing is cancelled"))
    if not _SHOWN.search(own) and not re.search(r"\ball (?:stations|ships|vessels)\b", own):
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
    """In one sentence, unless it tells that one becomes the other."""
    return [
        (n, "Mayday and Pan-pan in one call")
        for n, _, text in _turns(case)
        for part in sentences(text)
        if re.search(MAYDAY, part, re.IGNORECASE)
        and re.search(PAN, part, re.IGNORECASE)
        and not _BECOMES.search(part)
    ]


LOGIC = (
    Filter("persons_match", "another number of persons on board than before, or than the scenario's", _persons),
    Filter("persons_repeated", "the coast station repeats another number of persons", _copied),
    Filter("silence", "traffic during imposed silence, or its end without distress", _silence),
    Filter("speaker_part", "a coast station speaks of its own ship", _part),
    Filter("relay", "a relay by the vessel itself, or of nobody", _relay, ("scenario",)),
    Filter("acknowledgement", "received Mayday without one, or by its own sender", _received),
    Filter("answers", "an answer without what was asked", _answers),
    Filter("cancellation", "a false alert is not cancelled as such", _cancelled, ("scenario",),
           lambda c: c.scenario.get("kind") != "cancel"),
    Filter("distress_signal", "a distress signal in other traffic", _alarm, ("scenario",),
           lambda c: c.scenario.get("kind") not in ("urgency", "safety", "medical")),
    Filter("two_signals", "two signals in one call", _both),
)  # fmt: skip
