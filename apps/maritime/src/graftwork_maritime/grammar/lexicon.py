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
_MEANS = (
    r"(rescue |salvage |fire |fire[- ]fighting |naval |medical |coast guard |military |inshore |all[- ]weather )?"
    r"(helicopters?|lifeboats?|tugs?|tow(age)?|pumps?|assistance|doctor|medics?|salvors?|warships?|divers?|evacuation"
    r"|ambulance|rescue (boat|craft|vessel|cruiser)s?)"
)
_AT_ONCE = (
    r"(quick(ly)?|fast|now|at once|immediately|urgent(ly)?|soon|as soon as possible|to (me|us))"
)
HELP = _words(
    r"requir|request|assist|help|want|evacuat|medevac|need(s|ed)?\b|ask(s|ing)? (you )?for"
    r"|\b(please|pls)\b|send (a|an|us|help|the)|rescue (us|my|the|our|crew)|(pick|lift) (us|my|our|the \w+) (up|off)"
    r"|take (us|my|our|the) [\w ]{0,20}\b(off|on|in tow)\b|tow (me|us)|come (quick|fast|soon|to|and)"
    r"|\b(i|we) (want|wish|hope|ask|beg)\b|\bany (vessel|ship|boat)s?\b"
    r"|(?<!\bi )(?<!\bwe )(?<!will )send (?!(your|you|my|our|me|this|it|in|out|by|position|details|report|say)\b)[a-z]"
    # The means alone is the whole sentence: "Helicopter and tug, quickly."
    rf"|(?<=[.!?] ){_MEANS}((,? and|,) {_MEANS})*(,? {_AT_ONCE})*[.!]"
)
_SIDE = r"(north|south|east|west)([ -]?(north|south))?([ -]?(east|west))?"
_UNIT = r"(miles?|cables?|nm|degrees|metres|meters|kilometres|kilometers)"
_WATERS = (
    r"(channel|straits?|bay|gulf|sound|fjord|firth|estuary|river|roads|anchorage|approach(es)?|lane|scheme|"
    r"harbour|port|bank|ground|field|passage|entrance|lagoon|atoll|canal|fairway|buoy)"
)
_NUMBERED = r"(anchorage|berth|buoy|pier|quay|jetty|lock|beacon|sector|platform|wind turbine|turbine|dock|way ?point)"
_FIGURE = r"(zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\d)"
# Where something is, in words; what follows the preposition is a name, which begins with a capital.
POSITION = re.compile(
    rf"(?i:\b{_UNIT}\b[^.?!]{{0,40}}\b(of|from|off|{_SIDE})\b)"
    rf"|(?i:\b(bearing|from|position)\b[^.?!]{{0,60}}\b{_UNIT}\b)"
    rf"|(?i:\b{_SIDE} (of|from) )(?i:the )?[A-Z]"
    r"|\b([Oo]ff|[Nn]ear|[Cc]lose to|[Aa]beam|[Aa]breast of|[Bb]etween|[Ii]nside|[Oo]utside|[Aa]pproaching|[Pp]assing"
    r"|[Ee]ntering|[Ll]eaving|[Ee]ntrance (of|to)|[Aa]t anchor( in| at| off)?|[Aa]longside|[Aa]ground (on|at|off)"
    r"|[Ii]n|[Aa]t)( of)? (the |position )?(?!MMSI|UTC|VHF|GPS|AIS|DSC|EPIRB|MAYDAY|Mayday)[A-Z]"
    # Numbered places: "anchorage area number four", "buoy one six".
    rf"|(?i:\b{_NUMBERED}( area)?( number)? ({_FIGURE}(?! {_FIGURE} {_FIGURE})|[a-z]\b|alfa|bravo|charlie|delta|echo))"
    # What the alert has told already.
    r"|(?i:\bposition\b( is)?( the)?( same)? (as|in|by|from|with|sent (by|in|with)) (in |by )?(the |my |our |your )?"
    r"(alert|dsc|epirb|beacon|ais))"
    rf"|\b[A-Z]\w+ (?i:{_WATERS})\b|(?i:\b(off|in|near|at|outside|inside|from) the [\w ]{{0,20}}{_WATERS}\b)"
)
COAST = _words(
    r"coast ?guard|coastguard|radio\b|rescue\b|mrcc|mrsc|jrcc|rcc\b|vts\b|port control|harbou?r control|control\b|"
    r"sea ?watch|traffic\b(?! (scheme|separation|lane))|port operations|harbou?r ?master|rescue cent(re|er)"
)
CANCEL = _words(r"cancel|false (alert|alarm|distress)")
CONFIRMS = _words(
    r"read ?back|correct\b|your |you are|you have|received|confirm|understand|understood|copied|copy|roger"
)
RELAYED = _words(
    r"from\b|of the following|following|(motor |fishing |sailing )?(vessel|yacht|craft|boat|ship)s? |sighted|seen\b|"
    r"observed|overdue|missing|reported|flares?\b|epirb|person in|persons? over ?board|liferaft"
)
SEEN = _words(r"sighted|(have|can|i) see\b|seen\b|observed|in sight|flares?\b|epirb|on radar")
UNREADABLE = _words(
    r"(weak|broken|unreadable|not readable|station calling|do not read|cannot read|i read you bad)"
)
SOME = _words(
    r"remain|left\b|leave|still|stay|will\b|picked up|recover|rescued|transfer|evacuat|survivors?|taken off|"
    r"life(boat|raft)s?|tender|missing|found"
)
UPDATES = _words(
    r"now\b|(new|present|latest|last|updated) position|updated?|drifted|currently|has changed|moved"
)
DURING_SILENCE = _words(
    r"may ?day|seelonce|silence|assist|proceed|search|rescue|rendezvous|eta\b|standing by|stand by|sorry|understood|"
    r"received|roger|distress|casualty|survivors?|persons? (is|are|in)|picked up|recovered|liferaft|lifeboat|on scene|"
    r"in sight|look-?out|smoke|flares?|alongside|in tow|towing|your position|(from|at|near|to) the position|"
    r"in the water|"
    r"the (vessel|yacht|boat|raft|ship) in"
)
RECEIPT = _words(
    r"receiv|roger|acknowledg|copied|copy\b|understood|read you|have your|got your|heard? you|noted"
)
_HOUR = r"\d{1,2}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|thirty|forty-five"
CLOCK = _words(
    r"o'?clock|half past(?! (each|every|the hour))|quarter (past|to)(?! (each|every|the hour))"
    rf"|({_HOUR})( ({_HOUR}))? ?([ap]\.? ?m\b|(in the|this) (morning|afternoon|evening))"
    rf"|({_HOUR}) past ({_HOUR})(?= local| in the| this|[,.;?!]|$)"
    r"|(ship['’]?s|boat) time\b(?! zone)"
    rf"|({_HOUR}) (to|past) ({_HOUR}) (local|in the|this)\b"
    rf"|(at|by|until|since|before|after|around) ({_HOUR}) to ({_HOUR})( local| in the| this|[,.?!]? ?(over|out)?[.]?$)"
)
LAST = re.compile(r"\b(and|or|but|the|a|an|of|to|with|my|our|your|from)[^\w?]*$", re.IGNORECASE)
_KIND_OF = (
    r"motor|sailing|sail|fishing|cargo|passenger|towing|pilot|military|law enforcement|anti-pollution|"
    r"medical transport|"
    r"search and rescue|container|general cargo|supply|offshore|offshore supply|bulk|research|training|survey|crude|"
    r"crude oil|oil|chemical|product|gas|lng|lpg|car|vehicle|livestock|cattle|timber|cement|refrigerated|reefer|"
    r"cruise|"
    r"pleasure|naval|navy|coalition|coast guard|patrol|rescue|dredging|cable|heavy lift|hospital|high speed|dive|"
    r"diving|crew|work|wind farm|police|customs|fire|tall|steam|rowing|charter|racing|harbour|salvage|ocean|inflatable|"
    r"all weather"
)
TYPES = _words(
    rf"(({_KIND_OF}) ){{0,2}}(vessel|yacht|ship|boat|carrier|craft|cruiser|lifeboat|launch|barge|dinghy|catamaran)|"
    r"(motor|oil|chemical|product|gas|crude|crude oil) tanker|port tender|tug ?boat|tanker|trawler|ferry|tug|warship|"
    r"coaster|dredger|freighter|bulk carrier|bulker|sloop|ketch|schooner|trimaran|longliner|ice-?breaker|frigate|"
    r"helicopter|aircraft|workboat|m/?v|f/?v|s/?y|m/?t|the"
)


def natures(text: str) -> list[str]:
    """Categories that a text names, in the order of their first words."""
    found = [
        (match.start(), name) for name, words in NATURES.items() if (match := words.search(text))
    ]
    return [name for _, name in sorted(found)]
