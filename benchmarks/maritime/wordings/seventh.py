"""The seventh set."""

from graftwork_maritime.lessons.wordings import Wordings

SEVENTH = Wordings(
    asked={
        "position": (
            "Right, first things first, let me have your lat and long.",
            "Read me the latitude and longitude off your GPS, please.",
            "Whereabouts are you exactly? I need it in degrees and minutes.",
            "We need to put you on the chart, so what are your coordinates?",
            "I haven't got a fix on you yet. Can you give me one from your plotter?",
            "Go ahead with your present position, latitude first and then longitude.",
            "If I send a boat out now, what lat and long do I tell them to steer for?",
            "Look at the GPS for me, would you, and tell me where it puts you.",
        ),
        "persons": (
            "How many souls have you got with you?", "Give me a head count, please, everyone who is aboard.",
            "Counting yourself, how many of you are there on the vessel?",
            "I need the total number of crew and passengers together.",
            "Are you on your own out there, or how many are you all told?", "What's your POB?",
            "Tell me how many people we would have to take off if it came to that.",
            "Crew, guests, the lot: what does that add up to on board?",
        ),
        "mmsi": (
            "Have you got your nine-digit MMSI to hand?", "Let me take down your MMSI, one figure at a time, please.",
            "Which MMSI is programmed into your DSC set?",
            "I'd like to check you on the database, so pass me that maritime mobile service identity.",
            "Your digital alert came in garbled here. What MMSI does your radio send?",
        ),
        "call_sign": (
            "What call sign is on your radio licence?", "Spell me your call sign in phonetics, please.",
            "I've got the name all right, but not the call sign. What is it?",
            "Go ahead with your international call sign, letters and numbers, nice and slow.",
            "Does your vessel have a call sign, and if so, how does it read?",
        ),
        "help": (
            "Tell me what sort of assistance you're after.", "What do you want me to send you?",
            "Is it a tow you need, a lifeboat, a doctor, or something else?",
            "How would you like us to help you out there, Skipper?", "Let me know what you require from us.",
            "Before I start making phone calls, what kind of help are you asking for?",
            "Say what you need from the rescue services and I'll get it moving.",
        ),
        "nature": (
            "What's the trouble on board?", "Talk to me, Captain, what's gone wrong?",
            "Can you describe the emergency you're dealing with?",
            "I heard you calling, but not why. What has happened to you?",
            "Fill me in on the problem you've got there.",
            "What's the reason for your call, what kind of emergency is it?",
            "So what exactly is the matter with the vessel or with your people?",
            "Explain to me what happened, in a few words, please.",
        ),
        "place": (
            "How far off the nearest headland are you, and on what bearing from it?",
            "Give me a range and bearing from some lighthouse or harbour I'd know.",
            "Never mind the lat and long, what landmark are you near? How many miles off, and which way?",
            "Pick a point on the coast for me and say how many miles you lie from it and in what direction.",
            "In relation to the closest port, what would your distance and bearing be?",
        ),
        "cargo": (
            "What are you carrying in the holds?", "Are you loaded or in ballast, and if loaded, with what?",
            "Tell me about your cargo, please, what does it consist of?", "What goods did you load for this voyage?",
            "Is there anything dangerous in your cargo? Tell me what it is.",
        ),
        "weather": (
            "What's it like out there, wind and sea?",
            "Give me the conditions on scene, please, wind, swell and how far you can see.",
            "How hard is it blowing where you are, and from which quarter?",
            "Is it rough out your way, or have you got a flat sea?",
            "How's your visibility, and what sort of wave height do you have?",
            "The helicopter crew are asking about your local weather. What can I pass on to them?",
        ),
    },
    plain={
        "position": (
            "Please, you say where is your ship, latitude, longitude.",
            "Your position, what is? Give numbers from GPS.",
            "Where you are now? Give north and west, degrees, minutes.",
            "I not have your position. You tell me, please.", "Ship is where? Latitude how much, longitude how much?",
        ),
        "persons": (
            "How much people is in your ship?", "You have how many person on board, all together?",
            "Please, number of persons, you tell me.", "Crew and passenger, how many is it, total?",
            "In ship are how many men and women, all count?",
        ),
        "mmsi": (
            "MMSI number of you, please give.", "Your MMSI is what? Nine number, slow.",
            "I want write your MMSI, say to me.",
        ),
        "call_sign": (
            "Call sign of your ship, what is?", "You please spell call sign for me.",
            "I not know your call sign, give letters.",
        ),
        "help": (
            "What help you want from us?", "You need what? Tug, doctor, helicopter?",
            "Please say which assistance is necessary for you.", "We come help, but what help you are needing?",
            "Tell what thing I must send to you.",
        ),
        "nature": (
            "What is happen with your ship?", "Which problem you have? Explain me.",
            "Why you are in danger, what it is the matter?", "Please, you tell what bad thing is happened.",
            "Distress is from what? Fire, water, sick man?",
        ),
        "weather": (
            "How is weather by you, wind, wave?", "Wind is strong there? Sea is how?",
            "You see far or is fog? Say weather, please.",
        ),
    },
    elaborate={
        "position": (
            ("I should be most grateful, Captain, if you would be so kind as to let me have the latitude and "
             "longitude at which you presently find yourselves."),
            ("So that no time may be lost in finding you, might I trouble you for the exact coordinates that "
             "your navigation equipment is showing?"),
            ("Would you have the goodness to consult your receiver and inform this station, in degrees and "
             "minutes, precisely where your vessel is to be found?"),
        ),
        "persons": (
            ("Might I respectfully enquire what the full number of persons embarked in your vessel amounts "
             "to, passengers and crew included?"),
            ("For the sake of good order in our log, could I possibly prevail upon you to state how many "
             "human beings you have aboard altogether?"),
            ("It would assist us enormously to learn, if you have been able to count everybody, just how many "
             "people are sharing the vessel with you, yourself included."),
        ),
        "mmsi": (
            ("If it isn't too great an imposition at such a moment, would you kindly recite for us the nine "
             "figures of your MMSI?"),
            ("I wonder whether I might ask you to oblige me with the Maritime Mobile Service Identity that "
             "was assigned to your station."),
        ),
        "call_sign": (
            ("Could I perhaps beg of you the further courtesy of spelling out the call sign which the "
             "authorities have allotted to your vessel?"),
            ("There remains one small formality, Captain, namely your radio call sign, which I would be "
             "delighted to note down at your convenience."),
        ),
        "help": (
            ("Please be assured that everything at our disposal is yours, and be good enough to indicate what "
             "form of assistance would serve you best."),
            ("In order that we may dispatch precisely what is wanted and nothing else, might you elaborate on "
             "the kind of aid you desire of us?"),
            ("May I ask, with all due respect for your own judgement, what it is that you would wish the "
             "rescue services to provide for you?"),
        ),
        "nature": (
            ("I would be much obliged if you could favour us with a short account of the misfortune which has "
             "befallen you."),
            ("Would you be so very kind as to acquaint me with the circumstances that have compelled you to "
             "call for help?"),
            ("We are naturally most concerned to hear from you, and should like to understand, if you please, "
             "what manner of difficulty has arisen on board."),
        ),
        "weather": (
            ("Could you possibly furnish us with some description of the wind, the state of the sea and the "
             "visibility prevailing in your vicinity?"),
            ("It would be of considerable value to the rescuers to hear from you what weather they should "
             "expect to meet when they arrive at your side."),
            ("Might I invite you, if your duties allow it, to remark upon how the wind and the waves are "
             "behaving around you just now?"),
        ),
    },
    unexpected=(
        "Who is your agent ashore?", "Where were you bound when you set out?", "How much fuel is left in your tanks?",
        "Do you have a mobile phone number that I can ring you on?", "Have you switched on your EPIRB?",
        "What's your draught at the moment, fore and aft?",
        "How many liferafts do you carry, and for how many people is each one rated?",
        "Has everyone got a lifejacket on?", "Who's the owner of the vessel?",
        "What is the Master's full name, please?", "Do you carry any flares, and are they in date?",
        "Is there anybody on board who speaks Spanish or Italian?", "Which insurance company are you with?",
        "What's her length overall?", "Have you got a decent tow rope and a strong point up forward?",
        "What nationality are your crew?", "How long will your radio batteries last?",
        "Are there any dogs or other animals with you?", "When did you last have the engine serviced?",
        "What sort of anchor do you have, and how much chain is there on it?",
        "Could you listen on Channel 6 at the same time?", "Have you told your family about this yet?",
        "In what year was she built?", "Is there a clear space on deck for lowering a winchman?",
    ),
    again=(
        "Sorry, that was all mush at this end. Give it to me once more.",
        "You were breaking up badly, I got nothing of that. Repeat, please.",
        "Didn't catch a word of it, I'm afraid. Try me again, a bit slower.",
        "Only static here, sir. Say it all one more time.",
        "Could you run through that again? It was completely unreadable.",
        "Somebody stepped on your transmission and I lost the whole thing, so go again.",
        "I could hear that you were speaking, but not what you said. Once again from the top, please.",
        "No luck with that one, nothing came through clearly. Please send it again.",
    ),
    instructions=(
        "Get everybody into lifejackets and up on deck.",
        "The lifeboat has launched and will be with you in about forty minutes.",
        "Stay on Channel 16 and keep your radio turned up.",
        "A rescue helicopter is lifting off now, so have your orange smoke ready.",
        "Don't take to the raft unless you really have to.", "Drop your anchor if you can find the bottom there.",
        "There's a ferry six miles from you that has altered course in your direction.",
        "Hang tight, we've got a cutter headed your way at full speed.",
        "Keep the patient warm and lying down, and give him nothing to drink.",
        "Fire off a red flare when you see our boat coming.",
        "I'm putting a doctor on the line in a moment, so stand by on this channel.",
        "Shut all the watertight doors and keep your pumps going.",
        "Call me back straight away if things get any worse.",
        "The tug has just left harbour and her skipper will speak to you on Channel 8.",
        "Leave your EPIRB switched on and show as many lights as you can.",
        "Aircraft will be with you shortly, so lash down anything loose on deck.",
    ),
    read={
        "persons": (
            "So that's {} people aboard, have I got that right?", "I've written down {} persons in total.",
            "You said {} persons, didn't you?", "Okay, copied a head count of {} people.",
            "We'll be looking for {} persons, then. Tell me if that's wrong.",
            "Just to be sure, all in all you are {} people on the vessel, correct?",
        ),
        "mmsi": (
            "I have your MMSI down as {}.", "Let me check that MMSI with you: {}, is that it?",
            "Your identity number, the MMSI, came through here as {}, yes or no?",
            "Good, so {} is the MMSI I'm putting in the log.",
            "What I got for the MMSI was {}. Shout if any figure is off.",
            "MMSI noted, it reads {}, all nine digits okay?",
        ),
        "position": (
            "I make your position {}, do you agree?", "Right, I've plotted you at {}.",
            "We are sending them to {}. Correct me if that isn't where you are.",
            "Reading back your lat and long, I have {}.", "So the GPS puts you in {}, is that what you told me?",
            "Position copied as {}, please confirm that it's good.",
        ),
    },
)  # fmt: skip
