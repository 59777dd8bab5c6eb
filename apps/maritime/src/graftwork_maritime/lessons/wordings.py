"""Wordings of a scripted coast station, in four sets, with three levels of English."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Asked = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Wordings:
    """What is said of each kind of move.

    Args:
        asked, plain, elaborate: questions by key of what they ask for, in three levels of English.
        unexpected: questions of which no scenario says anything.
        again: that nothing was understood. instructions: what is to be done, or is on the way.
        read: read-backs by key; {} is what was understood.
    """

    asked: Asked
    plain: Asked
    elaborate: Asked
    unexpected: tuple[str, ...]
    again: tuple[str, ...]
    instructions: tuple[str, ...]
    read: Asked


FIRST = Wordings(
    asked={
        "position": ("Give me your position.", "In what position are you now?", "What are your coordinates?"),
        "persons": ("How many people have you got with you?", "What is your total crew and passengers?",
                    "Number of souls on board, please?"),
        "mmsi": ("Tell me your MMSI.", "What are the nine digits of your MMSI?"),
        "call_sign": ("What call sign do you use?", "Your call sign, please?"),
        "help": ("What help do you want from us?", "Which assistance shall we send?"),
        "nature": ("What is happening on your vessel?", "Describe the nature of your emergency.",
                   "What sort of trouble are you in?"),
        "place": ("How far off the nearest land are you?", "Give bearing and distance from a known place."),
        "cargo": ("What are you carrying?", "Have you dangerous cargo?"),
        "weather": ("How is the wind and sea with you?", "Give me the weather at your place."),
    },
    plain={
        "position": ("You where? Tell position.", "Position, position, what?"),
        "persons": ("How many man on ship?", "People, how many you have?"),
        "mmsi": ("Your MMSI number, what is?",),
        "call_sign": ("Call sign you have, tell please.",),
        "help": ("What you need, which help?", "You want help what?"),
        "nature": ("What problem you have?", "Ship have what trouble?"),
        "weather": ("Wind how strong? Sea how?",),
    },
    elaborate={
        "position": (
            "Would you be so good as to furnish me with your precise latitude and longitude at this juncture?",
        ),
        "persons": (
            "I should be obliged if you would apprise us of the full complement of persons currently embarked.",
        ),
        "mmsi": ("Might I trouble you for the maritime mobile service identity assigned to your installation?",),
        "call_sign": ("For the sake of our log, by which call sign is your station licensed to operate?",),
        "help": ("What manner of assistance would you deem most expedient in your present predicament?",),
        "nature": ("Could you elaborate somewhat upon the nature of the emergency with which you are confronted?",),
        "weather": ("What, if I may ask, are the prevailing conditions of wind, sea and visibility in your vicinity?",),
    },
    unexpected=(
        "What colour is your hull?", "Who is the owner of the ship?", "What is your maximum draught?",
        "When was your last safety drill?", "Which flag do you fly?", "How much fuel remains in your tanks?",
        "What is the engine power in kilowatts?", "Do you have a pilot ladder rigged?",
        "What was your last port of call?",
        "Is there a doctor among you?", "What is the height of your mast?", "Which insurance company covers you?",
    ),
    again=(
        "Say again.",
        "I did not hear you, repeat.",
        "Your last message was unreadable, please say again.",
    ),
    instructions=(
        "A lifeboat has left and reaches you in two zero minutes.", "Keep your radio on channel one six.",
        "Let the crew put on lifejackets.", "Fire a red flare when you see the aircraft.",
        "We will call you every ten minutes.", "Prepare to receive a tow line.",
    ),
    read={
        "persons": ("I understand {} persons on board.", "You have {} people on board, is that correct?"),
        "mmsi": ("I read back, MMSI {}.", "Your MMSI is {}, correct?"),
        "position": ("I read your position as {}.", "Confirm your position, {}."),
    },
)  # fmt: skip
SECOND = Wordings(
    asked={
        "position": ("Say your position.", "Where exactly do you lie at present?", "Request your present lat and long.",
                     "Can you read me your GPS?"),
        "persons": ("How many are you?", "What is the number on board?", "How many souls, including yourself?",
                    "Confirm how many people are with you."),
        "mmsi": ("Read me your MMSI figure by figure.", "What is your nine figure identity?"),
        "call_sign": ("Spell your call sign.", "Under which call sign do you sail?"),
        "help": ("What do you need?", "Do you want a tug or a helicopter, or what else?", "What can we do for you?"),
        "nature": ("What has happened?", "What seems to be the matter?", "State the nature of distress."),
        "place": ("How many miles are you from the coast?",
                  "What is the closest point of land, and in which direction?"),
        "cargo": ("What cargo is on board?", "Is anything hazardous in the holds?"),
        "weather": ("What sea and wind are you experiencing?", "Is the weather bad where you are?"),
    },
    plain={
        "position": ("Ship position say please.", "I not know where you. Position?"),
        "persons": ("How many crew? All people how many?", "Number people on ship tell."),
        "mmsi": ("MMSI, MMSI, give number.",),
        "call_sign": ("What letters you call sign?",),
        "help": ("You want tug? You want helicopter? What want?", "Help what kind you like?"),
        "nature": ("What bad thing happen?", "Why you call us?"),
        "weather": ("Weather good or bad? Tell wind.",),
    },
    elaborate={
        "position": ("I would be most grateful for an accurate fix of your current location.",
                     "Perhaps you might oblige us with the coordinates at which you presently find yourselves."),
        "persons": ("Pray advise how many individuals, crew and passengers alike, are to be accounted for.",),
        "mmsi": (
            "Our records require the nine-figure number programmed into your DSC controller; would you read it out?",
        ),
        "call_sign": ("Might we have the alphanumeric signal letters allotted to your vessel?",),
        "help": ("In what way may our resources be of greatest service to you?",),
        "nature": ("Kindly enlighten us as to what precisely has befallen your ship.",),
        "weather": ("We should value your observations as to the meteorological conditions obtaining where you are.",),
    },
    unexpected=(
        "What is the name of your shipping agent?", "How old is your vessel?", "When did you leave port?",
        "Have you any pets on board?", "What is your gross tonnage?", "Is your radar working?", "Who is your master?",
        "What language does the crew speak?", "How many lifejackets do you carry?", "What is your speed?",
        "What kind of propeller do you have?", "Which port were you bound for?", "Tell me the year of your last refit.",
    ),
    again=("I missed that, once more please.", "You are breaking up, I received nothing.", "Transmit your last again."),
    instructions=(
        "Switch on your deck lights.", "Muster all passengers on the boat deck.",
        "Two tugs will be with you in four zero minutes.", "Report every one five minutes.",
        "A helicopter will lower a line, do not make it fast.", "Do not leave the vessel unless I tell you.",
        "Stay calm, help is coming.",
    ),
    read={
        "persons": ("So that is {} people on board.", "I have noted {} persons on board, confirm."),
        "mmsi": ("I have your MMSI as {}.", "Confirm MMSI {}."),
        "position": ("I have you at {}.", "Noted, position {}, correct?"),
    },
)  # fmt: skip
THIRD = Wordings(
    asked={
        "position": ("Pass me your lat and long, please.", "Can I have your exact location?",
                     "Which part of the bay are you in?", "Give me a position fix by GPS."),
        "persons": ("How many have you on board?", "POB?", "Total number of people with you, please.",
                    "How many of you are there altogether?"),
        "mmsi": ("What MMSI is set in your radio?", "Give me your maritime identity number."),
        "call_sign": ("What's your call sign, please?", "Your radio call sign is what?"),
        "help": ("What sort of help are you after?", "How can we assist you?", "Do you need anything from us?"),
        "nature": ("What exactly is going on over there?", "Give me the reason for your call.",
                   "What is the state of your emergency?"),
        "place": ("Which headland do you see, and how far away is it?",
                  "Give me a range and bearing from something on the chart."),
        "cargo": ("What have you loaded?", "Tell me about your cargo."),
        "weather": ("What is it like out there, wind and sea?", "How much wind have you got?"),
    },
    plain={
        "position": ("Where your ship now?", "Give position, I write."),
        "persons": ("People on ship, say number.", "You are how many person?"),
        "mmsi": ("Tell number MMSI please.",),
        "call_sign": ("Callsign? Speak slow.",),
        "help": ("Which help we send?", "You need doctor, tug, what?"),
        "nature": ("What is wrong with ship?", "Tell accident, what kind?"),
        "weather": ("Wind big? Wave big?",),
    },
    elaborate={
        "position": ("It would assist us immeasurably were you to state with precision where your vessel lies.",),
        "persons": ("May I enquire as to the aggregate of souls presently under your command?",),
        "mmsi": ("Pray let us have the nine numerals by which your digital selective calling set identifies itself.",),
        "call_sign": ("By what combination of letters and figures does your licence designate you?",),
        "help": ("Would you be so kind as to specify the form of relief of which you stand in need?",),
        "nature": ("I should like to ascertain the character of the misfortune that has overtaken you.",),
        "weather": ("One would be glad to learn how the elements are treating you, wind and sea alike.",),
    },
    unexpected=(
        "What paint is on your bottom?", "Where was your vessel built?", "When is your certificate due?",
        "Have you got satellite internet?", "Which company operates you?", "What is your freeboard?",
        "Who was on watch?", "How many cabins do you have?", "Is your AIS switched on?",
        "What is the age of the master?",
        "Have you paid your harbour dues?", "Which chart are you using?",
    ),
    again=("Your signal is very weak, again please.", "I copied nothing of that, go again.",
           "Negative copy, say once more."),
    instructions=(
        "Get everyone into immersion suits.", "Count your crew and have them ready.",
        "The lifeboat launched five minutes ago.", "Turn your head to wind.", "Have your fire pumps ready.",
        "You are advised to keep the doors shut.", "Listen on this channel at all times.",
    ),
    read={
        "persons": ("Copied, {} persons.", "Roger, {} people on board."),
        "mmsi": ("MMSI {}, that is what I wrote down.",),
        "position": ("Position {}, that is what I have.", "I wrote down {}."),
    },
)  # fmt: skip
FOURTH = Wordings(
    asked={
        "position": ("Read out the figures on your GPS.", "What does your plotter show?", "Where do you lie?",
                     "I need to know where you are."),
        "persons": ("How big is your crew?", "Are there passengers, and how many in total?",
                    "What is the number of persons?"),
        "mmsi": ("Which MMSI did you send in your alert?", "Your MMSI, figure by figure."),
        "call_sign": ("And the call sign?", "Give me your call sign phonetically."),
        "help": ("What are you asking for?", "Which units would be useful to you?", "Tell us what to send."),
        "nature": ("What is your emergency?", "What caused you to call?", "Tell me what went on."),
        "place": ("What is your bearing and distance from the harbour?", "Are you close to any landmark, how close?"),
        "cargo": ("What do you have in the tanks or holds?", "Is there any dangerous freight?"),
        "weather": ("What are conditions like for the lifeboat?", "Wind, sea, visibility?"),
    },
    plain={
        "position": ("Where is ship, tell degree.", "I need position you."),
        "persons": ("Man on board, how much?", "All crew number?"),
        "mmsi": ("What MMSI you use?",),
        "call_sign": ("Your call letter, spell.",),
        "help": ("What thing you need?", "Help boat, help air, which?"),
        "nature": ("What broke? What is matter?", "Danger is what?"),
        "weather": ("Sea is high? Wind is what?",),
    },
    elaborate={
        "position": ("Would it be possible to obtain from you a statement of your geographical position?",),
        "persons": ("We are anxious to establish how numerous your company is, passengers included.",),
        "mmsi": ("If it is not too great an imposition, which MMSI is programmed in your equipment?",),
        "call_sign": ("Permit me to ask what call sign the authorities have conferred upon you.",),
        "help": ("To what end, and with what means, may we come to your aid?",),
        "nature": ("Do give us some account of the circumstances that prompted your transmission.",),
        "weather": ("A word concerning the state of sea and sky about you would be welcome.",),
    },
    unexpected=(
        "What did you have for breakfast?", "Is the captain awake?", "How many lifeboats were inspected?",
        "Do you have a spare propeller?", "What is your email address?", "When did you last sleep?",
        "Which way is your bow pointing?", "Are there animals among the crew?", "What is your draught aft?",
        "Who owns the vessel?", "Is your EPIRB registered?", "What is the phone number of your agent?",
    ),
    again=("Say that once more.", "I could not make that out.", "Please repeat your message slowly."),
    instructions=(
        "Shut all watertight doors.", "The helicopter is ten minutes away.", "Put a ladder over the lee side.",
        "Keep your engine ready.", "Have everyone wear warm clothes.", "Burn the flares when the boat is close.",
        "We are sending the pilot boat as well.",
    ),
    read={
        "persons": ("I count {} persons on board, yes?", "{} on board, understood."),
        "mmsi": ("Let me repeat that, MMSI {}.", "So your MMSI is {}."),
        "position": ("Your position then is {}.", "I plotted {}."),
    },
)  # fmt: skip


SETS = {"first": FIRST, "second": SECOND, "third": THIRD, "fourth": FOURTH}
