"""Words by which free text is understood: natures of distress, help, acts. Our own, wider than the composer's."""

from __future__ import annotations

import re


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{pattern})", re.IGNORECASE)


NATURES = {
    "abandoning": _words(r"abandon|taking to the (life)?(boats?|rafts?)"),
    "overboard": _words(
        r"(man|person|woman|passenger|crew\w*|cook|deckhands?|bosun|somebody|someone)[\w ]{0,20} over ?board"
        r"|over ?board\b|(fell|fallen|washed) (in|into|over|off|from)"
    ),
    "fire": _words(
        r"fires?\b(?! (fighting|pump|fighters?|hoses?|tug))|ablaze|burning|explosion|exploded|blaze\b"
    ),
    "flooding": _words(
        r"flood|(taking|taken|took|making|shipping)( on)? (in )?water|water ingress"
    ),
    "collision": _words(r"collision|collided|colliding|rammed|struck by"),
    "grounding": _words(r"aground|grounded|grounding|stranded|on the (rocks|reef)"),
    "sinking": _words(r"sink|sank|sunk|going down|foundering"),
    "list": _words(r"list(ing|ed|s)?\b|capsiz|heeling|heeled over"),
    "attack": _words(
        r"attack|pirate|piracy|armed (men|robbers|persons)|boarded by|shots|gunfire|hijack"
    ),
    "adrift": _words(
        r"adrift|drifting|disabled|not under command|without (engine|propulsion|steering|power)"
    ),
}
HELP = _words(
    r"requir|request|assist|help|want|evacuat|medevac|need(s|ed)?\b|ask(s|ing)? (you )?for"
    r"|(please|pls) send|send (a|an|us|help|the)"
)
POSITION = re.compile(
    r"(miles?|cables?|nm|degrees|metres|kilometres)\b[^.?!]{0,40}\b(of|from|off)\b"
    r"|\b(off|near|close to|abeam|abreast of|inside|outside|entrance (of|to)"
    r"|(north|south|east|west)( ?(east|west))? of) (the )?[A-Z]"
)
COAST = _words(
    r"coast ?guard|coastguard|radio\b|rescue\b|mrcc|mrsc|jrcc|rcc\b|vts\b|port control|harbou?r control|control\b|"
    r"sea ?watch"
)
CANCEL = _words(r"cancel|false (alert|alarm|distress)")
CONFIRMS = _words(
    r"read ?back|correct\b|your |you are|you have|received|confirm|understand|understood|copied|copy|roger"
)
RELAYED = _words(
    r"from\b|of the following|following|(motor |fishing |sailing )?(vessel|yacht|craft|boat|ship)s? |sighted|seen\b|"
    r"observed|overdue|missing|reported|flares?\b|epirb|person in|persons? over ?board|liferaft"
)
SOME = _words(
    r"remain|left\b|leave|still|stay|will\b|picked up|recover|rescued|transfer|evacuat|survivors?|taken off|"
    r"life(boat|raft)s?|tender|missing|found"
)
UPDATES = _words(r"now\b|new position|updated?|drifted|currently|has changed|moved")
DURING_SILENCE = _words(
    r"may ?day|seelonce|silence|assist|proceed|search|rescue|rendezvous|eta\b|standing by|stand by|sorry|understood|"
    r"received|roger|distress|casualty|survivors?|persons? (is|are|in)|picked up|recovered|liferaft|lifeboat|on scene|"
    r"in sight|lookout"
)
RECEIPT = _words(
    r"receiv|roger|acknowledg|copied|copy\b|understood|read you|have your|got your|hear you"
)
_HOUR = r"\d{1,2}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|thirty|forty-five"
CLOCK = _words(
    r"o'?clock|half past(?! (each|every|the hour))|quarter (past|to)(?! (each|every|the hour))"
    rf"|({_HOUR})( ({_HOUR}))? ?([ap]\.? ?m\b|local\b|(in the|this) (morning|afternoon|evening))"
    rf"|({_HOUR}) (to|past) ({_HOUR})( local| in the| this|[,.?!]? ?(over|out)?[.]?$)"
)
LAST = re.compile(r"\b(and|or|but|the|a|an|of|to|with|my|our|your|from)[^\w?]*$", re.IGNORECASE)
TYPES = _words(
    r"(motor|sailing|fishing|cargo|passenger|towing|pilot|military|law enforcement|anti-pollution|medical transport|"
    r"search and rescue|container|general cargo|supply|offshore supply|bulk|research|training) "
    r"(vessel|yacht|ship|boat|carrier|craft)|(motor|oil|chemical|product) tanker|pleasure craft|port tender|tug ?boat|"
    r"tanker|trawler|yacht|ferry|tug|bulk carrier|vessel|ship|m/?v|s/?y|m/?t|the"
)


def natures(text: str) -> list[str]:
    """Categories that a text names, in the order of their first words."""
    found = [
        (match.start(), name) for name, words in NATURES.items() if (match := words.search(text))
    ]
    return [name for _, name in sorted(found)]
