"""Wordings of the scripted coast station, in sets: each later one was written when the composer's ear was finished.

The author of the fifth had not seen the composer; the earlier ones are by the one who mended its ear.
"""

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
FIFTH = Wordings(
    asked={
        "position": ("Interrogative position.", "Right then skipper, whereabouts are you?",
                     "Latitude and longitude first, please.", "Go ahead with your position when ready.",
                     "Could you let me have that position in degrees and minutes?",
                     "I have pen and paper, send your position.", "What location shall I give the lifeboat crew?",
                     "What's your lat long, Captain?"),
        "persons": ("What's the head count over there?", "Persons on board, go ahead.",
                    "How many people am I looking at, all told?", "Is it just yourself, or are there others aboard?",
                    "For how many people do I need to find room in the lifeboat?",
                    "Can you give me a total for everyone aboard?", "How many lives are at risk?"),
        "mmsi": ("Go ahead with your MMSI.", "Your MMSI does not show on my screen, what is it?",
                 "Can I take your MMSI, skipper?", "I did not get your DSC number, send MMSI."),
        "call_sign": ("Send call sign.", "I still need a call sign from you.",
                      "Have you got a call sign for me, skipper?", "Letter by letter, what is your call sign?"),
        "help": ("Advise type of assistance requested.", "What is it you want us to do, skipper?",
                 "Is it pumps you need, a tow, or the helicopter?", "Tell me what would help you most right now.",
                 "Can you cope yourselves, or what do you need from the shore?",
                 "What would you like us to get moving for you?", "How may our rescue units support you?"),
        "nature": ("Advise your situation.", "Okay skipper, what's the problem?", "Fill me in, what's gone wrong?",
                   "What made you press the red button?", "Why are you in difficulty?",
                   "Can you explain the trouble to me briefly?", "What type of incident is this?"),
        "place": ("Which point on shore are you nearest to, and how far off is it?",
                  "Relative to the nearest light, how far and on what bearing?",
                  "Roughly how far out are you, and off what?", "Describe your position from a buoy or a headland."),
        "cargo": ("What's your cargo, skipper?", "Are you loaded or in ballast, and with what?",
                  "Anything nasty in the cargo that my crews should know about?", "What goods are on the manifest?"),
        "weather": ("Interrogative weather on scene.", "What's the weather doing where you are?",
                    "How rough is it, and where's the wind from?", "Tell me your wind force and sea state.",
                    "How far can you see, and what is the swell like?"),
    },
    plain={
        "position": ("You give me latitude, longitude, yes?", "Please captain, where is you?",
                     "Which place you stay in this moment?", "Position of you I am not have, please to say."),
        "persons": ("In your ship how many is the persons?", "All peoples in the boat is how much?",
                    "Captain, you have crew how much, passenger how much?", "Please count person, tell me."),
        "mmsi": ("Captain, number of MMSI I am missing.", "Please you say nine number, MMSI."),
        "call_sign": ("Call sign yours I not know.", "How is calling sign from your ship?"),
        "help": ("Captain, what we must do for you?", "You are need what assistance?",
                 "We can send boat. You want boat or other thing?", "For help, you wish what?"),
        "nature": ("Captain, what is problem please?", "Something happen with boat, tell what?",
                   "For which reason is emergency?", "Which kind trouble is by you?"),
        "weather": ("How is weather by you?", "There is much wind? There is much wave?"),
    },
    elaborate={
        "position": (
            "If it would not inconvenience you, Captain, we would dearly like to learn your latitude and longitude.",
            "With your kind permission, sir, I should wish to enter in my log the whereabouts of your esteemed vessel.",
        ),
        "persons": (
            "Could I ask you, with all respect, to tell this station how many human beings share the ship with you?",
            "Before we go any further, it would be appreciated if the total of those aboard could be communicated.",
        ),
        "mmsi": (
            "In order that we may identify you beyond any doubt, kindly communicate the MMSI of your registration.",
            "Forgive my asking, but the MMSI of your good vessel appears to have escaped us.",
        ),
        "call_sign": ("Would you mind terribly letting me know the call sign that your ship goes by?",
                      "For purposes of proper identification, the favour of your call sign is requested."),
        "help": (
            "Please have the kindness to indicate to us the sort of support that you would be wishing to receive.",
            "Were we to dispatch a unit in your direction, what would you most wish it to bring or to do?",
        ),
        "nature": (
            "Sir, it would be of great help to this station if you were to outline the difficulty you are in.",
            "May we respectfully request some particulars of whatever it is that has gone amiss on board?",
        ),
        "weather": (
            "If you can spare a moment to look outside, how would you characterise the wind and the waves?",
            "Might you favour us with a short report of the weather as it presents itself from your bridge?",
        ),
    },
    unexpected=(
        "Can I take a mobile number for you?", "What brand of radio are you talking on?",
        "How many shackles of chain do you have?", "What is the nationality of the crew?",
        "Which classification society are you with?", "What size is your bow thruster?",
        "How long have you been a skipper?", "Who should we telephone at home for you?",
        "How many fenders do you have ready?", "Which make is your liferaft?", "What is your deadweight?",
        "When were your fire extinguishers last serviced?", "How long will your radio battery last?",
        "What is your beam in metres?", "What is painted on your funnel?", "Which pilot brought you out?",
        "Did your chief engineer sign the last survey?", "How much fresh water is left?",
        "Who does the cooking for you?", "How many winches are on deck?", "Is your transponder Class A or Class B?",
        "Have you informed customs?", "What time is it by the ship's clock?",
        "Please, boat is made from wood or from plastic?",
    ),
    again=(
        "Come again, skipper?", "You were stepped on, one more time.", "All I get from you is noise, try once more.",
        "What you say? I not understand.", "I beg your pardon, would you kindly run through that another time?",
        "Nothing heard from you, try again on high power.", "Pardon? Please more slow.",
        "Speak closer to the microphone and repeat.",
    ),
    instructions=(
        "Rescue helicopter is lifting off now, with you in about two five minutes.",
        "Stick with me on this frequency, skipper.", "Clear the after deck of loose gear for the winchman.",
        "If the water is shallow enough, drop your anchor.", "Have your liferaft ready, but stay with the ship.",
        "You make everybody wear jacket of life, please.", "Post a lookout for the rescue craft.",
        "A warship in your area has altered course towards you.", "Activate your beacon now.",
        "Please to show one strong light, boat is coming to you.", "No smoking and no naked lights on deck.",
        "Save the battery of your handheld radio.", "Would you be so good as to gather all hands near the bridge.",
        "Ambulance will wait for you at the quay.",
    ),
    read={
        "persons": ("{} persons all together, isn't it?", "That makes {} people, am I right?",
                    "I've got {} of you down on my sheet.", "Understand POB {}.",
                    "So you are {} people, correct or not correct?"),
        "mmsi": ("MMSI {}, did I get that right?", "I logged MMSI {}.", "MMSI as received, {}, please check.",
                 "Your number MMSI is {}, yes?", "I'll run through that MMSI with you: {}."),
        "position": ("So you're at {}, is that right?", "Your position is {}, isn't it?",
                     "I've put you on the chart at {}.", "The lifeboat has been given {} as your position.",
                     "You are in {}, yes or no?"),
    },
)  # fmt: skip
SETS = {"first": FIRST, "second": SECOND, "third": THIRD, "fourth": FOURTH, "fifth": FIFTH}
