"""What a station that one hears wants: a question and of what, a read-back and whether it is right, silence, more."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..grammar.message import read_message
from ..scenario.model import Scenario
from . import truth
from .topics import known, named, plain, topics

ACTS = (
    "nothing", "seelonce", "feenee", "elsewhere", "again", "readback", "question", "statement",
)  # fmt: skip
AGAIN = re.compile(
    r"say (all |it |that )?again|(?<!\bi )(?<!\bwe )repeat"
    r"|((did|do|could|can) ?not|didn't|don't|couldn't|can't|cannot) (hear|receive|read|copy|catch|understand|get\b)"
    r"|unreadable|broken( up)?\b(?! \w)"
    r"|not (readable|clear|received|understood)|pardon|garbled|(once|one) more\b|come again|missed (that|your|the|it)"
    r"|lost you|breaking up|what did you say|\b(transmit|send|give|read|tell)\b[\w ]{0,24}\bagain\b|what was that"
    r"|(?<!call )(?<!you )(?<!report )(?<!back )\bagain,?( please)?\W*(over\W*)?$|negative copy|make (that|it|you) out"
    r"|\b(copied|received|heard|read|got) (nothing|only (part|half))|(signal|voice|transmission) is (too |very )?weak",
    re.IGNORECASE,
)
_WANTS = (
    r"tell|give|say|let|describe|state|report|advise|request|indicate|specify|furnish|provide|inform|apprise|explain|elaborate"
    r"|acquaint|enlighten|supply|pass|send|name|share|confirm|spell|read"
)
# A question: a mark, a question word at the head of a clause or after a verb of asking, or a wish for what can be told.
_ASKS = re.compile(
    r"\?|(^|[.,;:!] ?)(and |so |now |but )?(where|whom|whose|how|when|why)\b|\b(what|which|who)\b"
    r"|\b(tell|know|say|state|report|advise|inform|learn|ask|indicate|explain)( me| us)? "
    r"(how|where|when|why|if|whether)\b|\b(tell|give|inform|furnish|provide|supply) (me|us)\b"
    r"|\b(need|want|like|wish) to know\b|let (me|us) (know|have)\b",
    re.IGNORECASE,
)
_WISHES = re.compile(
    rf"(^|[.,;:!] ?)(please,? |and |now |kindly )?({_WANTS})\b"
    r"|\b(request|please|pls|tell|grateful|obliged|appreciate|kindly|want to|need)\b"
    r"|\b(we|i) (should|would|need|require|want|must|like|await|miss|lack)\b[^.?!]*\byour\b"
    rf"|\b(to|you|would|could|might) ({_WANTS})\b"
    r"|\b(ascertain|learn|establish|determine|find out|be told|hear of|enquire|inquire)\b",
    re.IGNORECASE,
)
# What a station is to do, whatever is named in it.
_ORDERS = re.compile(
    r"(^|[.,;:!] ?)(please,? )?(keep|put|let (the|your|all)|fire|show|switch|prepare|stand|stay|proceed|launch|muster|"
    r"remain|maintain|stop|start|steer|alter|anchor|drop|close|open|use|wait|watch|do not|report (when|any|every|"
    r"immediately|on|if)|call(?! ?sign)|inform (the|your|all)|tell (the|your|all)|advise (the|your|all)|make|turn|"
    r"activate|display|abandon)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.?!]+[.?!]*")
_READS = re.compile(
    r"\b(read(ing)? back|i (read|understand|have|copied|copy|received|repeat)|understood|confirm|"
    r"is that (correct|right)|correct|you are|your|noted|i make it)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Heard:
    """What was heard.

    Args:
        act: one of `ACTS`; a statement is an instruction, an information or a receipt.
        key: of the fact that is asked for or read back; None where it is not understood.
        also: a second one that the question is about.
        wrong: keys that were read back wrongly.
    """

    act: str
    key: str | None = None
    also: str | None = None
    wrong: tuple[str, ...] = ()


def listen(text: str, scenario: Scenario, speaker: str = "coast") -> Heard:
    """What a turn wants of the vessel."""
    if not text.strip():
        return Heard("nothing")
    message = read_message(1, speaker, text)
    if "silence" in message.acts:
        return Heard("seelonce")
    if "silence_end" in message.acts:
        return Heard("feenee")
    if _for_another(text, message.addressed, scenario):
        return Heard("elsewhere")
    asks = _asks(text, scenario)
    told = " ".join(s for s in _SENTENCE.findall(text) if not _ORDERS.match(s.strip()))
    read = _read_back(told, scenario)
    if set(read) & set(_FIGURES):  # however it is put, what is said wrongly is corrected
        return Heard("readback", read[0], wrong=tuple(truth.wrong(told, scenario, speaker)))
    if AGAIN.search(text):
        return _about("again", topic(text, scenario))
    if read and (_READS.search(told) or "?" not in told):
        return Heard("readback", read[0], wrong=tuple(truth.wrong(told, scenario, speaker)))
    if (persons := _count(told)) is not None:
        wrong = ("persons",) if persons != scenario.vessel.persons else ()
        return Heard("readback", "persons", wrong=wrong)
    return _about("question", topic(text, scenario)) if asks else Heard("statement")


_FIGURES = ("mmsi", "call_sign", "position", "persons")
_COUNT = re.compile(
    r"\b(copied|copy|roger|understood|received|noted|i have|so)\b[^.?!]{0,30}\b(persons|people|souls)\W*"
    r"(over\W*|correct\W*)?$",
    re.IGNORECASE,
)
_ABOARD = re.compile(r"\W*(all told|in all|in total)?\W*(on ?board|aboard)\b", re.IGNORECASE)


def _count(text: str) -> int | None:
    """The number of "Copied, five persons.": of all, for nothing more is said of them."""
    for sentence in _SENTENCE.findall(re.sub(r"\bover\W*$", "", text, flags=re.IGNORECASE)):
        items = read_message(1, "coast", sentence).items
        counts = [i.value for i in items if i.kind == "persons" and str(i.value).isdigit()]
        if len(counts) == 1 and _COUNT.search(sentence):
            return int(counts[0])
        for item in items:
            if item.kind == "number" and _ABOARD.match(sentence, item.end) and item.value.isdigit():
                return int(item.value)
    return None


def _about(act: str, keys: tuple[str, ...]) -> Heard:
    first, second = (*keys, None, None)[:2]
    return Heard(act, first, second)


def _asks(text: str, scenario: Scenario) -> bool:
    """Whether a turn asks; what orders something and has no question mark does not."""
    if "?" in text:
        return True
    said = plain(text, scenario).strip()
    if _ORDERS.search(said):
        return False
    return bool(_ASKS.search(said) or (_WISHES.search(said) and named(said)))


def topic(text: str, scenario: Scenario) -> tuple[str, ...]:
    """The keys that a question is about and of which something is known."""
    return known(topics(text, scenario), scenario)


def _for_another(text: str, addressed: str | None, scenario: Scenario) -> bool:
    """Whether a turn calls a station that is not this one."""
    other = scenario.other_vessel
    own = other if scenario.kind == "relay" and other else scenario.vessel
    if addressed is None or own.name.lower() in text.lower():
        return False
    low = addressed.lower()
    return addressed[:1].isupper() and not re.match(
        r"(all (stations|ships)|vessel|station|ship|mayday|received|roger|unknown|pan)", low
    )


def _read_back(text: str, scenario: Scenario) -> list[str]:
    """Keys of which the turn says a value, right or wrong."""
    message = read_message(1, "coast", text)
    found = [
        key
        for key, values in (
            ("mmsi", [v for v in message.mmsi if not v.startswith("00")]),
            ("call_sign", message.call_signs),
            ("position", message.positions),
            ("persons", message.persons),
        )
        if values
    ]
    low = text.lower()
    own = [
        k
        for k, v in scenario.facts.items()
        if isinstance(v, str) and truth.words(k, scenario).lower() in low
    ]
    wrong = [k for k in truth.wrong(text, scenario, "coast") if k not in found]
    return [*found, *own, *wrong]
