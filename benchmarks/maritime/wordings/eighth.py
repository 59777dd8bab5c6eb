"""The eighth set."""

from graftwork_maritime.lessons.wordings import Wordings

EIGHTH = Wordings(
    asked={
        "position": (
            "Right, let's get you on the chart first, so read me off your lat and long.",
            "Interrogative your present position in degrees and minutes.",
            "I'm sorry, I still don't know whereabouts you are. Could you look at the GPS and tell me what it says?",
            "Before I send the boat anywhere I need coordinates to give the crew.",
            "So, um, if I were to put a pin in the chart for you, what latitude and longitude would I use?",
            "Kindly pass your lat-long, sir, as showing on your GPS now.",
            "Where exactly am I to look for you? Give me figures, north and west, east, whatever you have.",
            "Didn't get any fix from you. What are the numbers on your plotter?",
        ),
        "persons": (
            "How many souls are you, all told?", "State total POB, including crew and passengers.",
            "I should have asked this already, but how many of you are there out there on the vessel?",
            "Give me a head count, please, everybody, the skipper as well.",
            "What is your full complement on board, captain, crew and supernumeraries together?",
            "If we had to take everyone off, how many people would that be?",
            "Need to know are you on your own or with others, and if so what's the total number of people.",
            "Sir, total how many men you are having on board?",
        ),
        "mmsi": (
            "There ought to be a nine-figure number on a sticker by your DSC set. What is it?",
            "Send your maritime mobile service identity, figures only, slowly.",
            "Your MMSI didn't come up on my screen, so let me have it by voice.",
            "Can you pass me the nine digits that are programmed in your DSC radio, please?",
            "Which MMSI are you using, captain? One digit at a time will do nicely.",
        ),
        "call_sign": (
            "And phonetically, your call sign?",
            "Spell me the call sign that's printed on your radio licence, would you?",
            "I've got your name but what letters and numbers make up your international call sign?",
            "Request radio call sign, in the phonetic alphabet.",
            "Sorry, one more for my form, it says call sign here and I've left the box blank. What do I write?",
        ),
        "help": (
            "What would you like us to do for you?", "State assistance required.",
            "Is it a tow you're after, or a pump, or do you want taking off altogether?",
            "I'm, er, trying to work out what I ought to be sending you. What do you need most?",
            "Captain, what kind of help you are wanting from our side?",
            "Tell me what you need out there and I'll see what I can launch.",
            "Lifeboat, helicopter, tug, doctor on the line: which of these are you requesting?",
            "Understood that you're in trouble, but you haven't told me what sort of assistance you want.",
        ),
        "nature": (
            "What's gone wrong out there?", "Specify nature of your emergency.",
            "Okay, I've got you down, only I'm not clear yet on what the actual trouble is. Could you explain?",
            "Captain, what is the problem you are facing on board?",
            "I heard the alert but not the reason for it. What's happened to you?",
            "Give me the story in a few words: fire, flooding, somebody ill, what is it?",
            "Talk me through what has happened, nice and slowly.",
            "Why are you calling for help, what's the matter on board?",
        ),
        "place": (
            "Pick a headland or a light you know and give me bearing and distance from it.",
            "Express your location as true bearing and range in miles from a charted landmark.",
            "How many miles off are you from the nearest lighthouse, and which direction from it?",
            ("Never mind lat and long, which bit of the shore can you name, and what are bearing and distance "
             "from it?"),
            "Sir, from which point on the coast are you, what bearing and how many miles?",
        ),
        "cargo": (
            "What have you got in your holds?", "State cargo carried, and whether any of it is dangerous goods.",
            "Captain, which cargo you have loaded this voyage?",
            "It'd help the fire people to know what it is you're carrying, if you could tell me what's loaded.",
        ),
        "weather": (
            "What's it like out there, much wind and sea?", "Report wind, sea state and visibility on scene.",
            "How far can you see at the moment, and what is the wind doing?",
            "I can't tell from in here how rough it is with you, so would you describe the conditions?",
            "Captain, how is the weather at your side, swell and wind is how much?",
            "Give us an idea of the sea that's running, lads will want to know what they're heading into.",
        ),
    },
    plain={
        "position": (
            "You where now? Say latitude, say longitude.", "Please you tell me number of GPS, north and east.",
            "I not know your position, you give me.", "Ship is in what latitude longitude?",
            "Position, captain, position, what is? I must write.",
        ),
        "persons": (
            "How much people you have in ship?", "All crew, all passenger, how many man?",
            "You say me number of person on board.", "People in your boat, is how many together?",
            "Need count of persons, please you count and tell.",
        ),
        "mmsi": (
            "MMSI number of you, is what?", "You give nine number of DSC, MMSI, slow slow.",
            "I want write MMSI of ship, you speak please.",
        ),
        "call_sign": (
            "Call sign you have what? Alpha Bravo, so speak.", "Please give me sign of call for your radio.",
            "Ship call sign I not have, you spell.",
        ),
        "help": (
            "You need what? Tug boat, helicopter, doctor?", "Say me what assistance must come to you.",
            "I can send help, but which help is need?", "For you we do what, captain? Tell what you want.",
        ),
        "nature": (
            "What happen in your ship?", "Problem is what? Fire, water come in, man sick?",
            "Why you are in distress, please explain me.", "I not understand what trouble you have, tell trouble.",
            "Captain, is what kind accident there?",
        ),
        "weather": (
            "Wind is how much there? Sea is big?", "How is weather by you, you can see far?",
            "Please tell wave and wind and fog in your place.",
        ),
    },
    elaborate={
        "position": (
            ("If it is not too much to ask in the circumstances, might I trouble you for the latitude and "
             "longitude at which you presently find yourselves?"),
            ("I should be most obliged, Captain, if you would have somebody consult the navigator and let me "
             "know your precise coordinates."),
            ("Forgive my pressing you, but it would greatly assist us to learn at exactly what geographical "
             "position your vessel is lying at this moment."),
        ),
        "persons": (
            ("Would you be so very kind as to inform me what number of persons, ship's company and guests "
             "included, you have aboard today?"),
            ("With apologies for detaining you, I am obliged to enquire how many people there are altogether "
             "for whose safety we must provide."),
            ("It would be of considerable value to us, sir, were you able to state the total number of human "
             "beings on your vessel."),
        ),
        "mmsi": (
            ("May I prevail upon you to recite, at whatever pace suits you, the nine digits of your Maritime "
             "Mobile Service Identity?"),
            "Should you happen to have your MMSI to hand, I would be truly grateful if you could dictate it to me.",
        ),
        "call_sign": (
            ("For the completeness of my records, could I possibly ask you to spell out the call sign which "
             "has been allotted to your vessel?"),
            ("I do beg your pardon for being particular, but I would very much appreciate hearing your radio "
             "call sign, letter by letter."),
        ),
        "help": (
            ("Perhaps you would be good enough to indicate what manner of assistance you would wish us to "
             "render you."),
            ("We are entirely at your service, Captain, and would only ask that you tell us which form of "
             "help you consider most necessary."),
            ("In order that I may despatch the proper resources, might I respectfully enquire what it is that "
             "you require of us?"),
        ),
        "nature": (
            ("I wonder whether you could see your way to explaining what misfortune has actually befallen "
             "your vessel."),
            ("So that we may properly appreciate the situation, would you kindly describe the nature of the "
             "difficulty you are experiencing?"),
            ("Pray excuse the question, but I have yet to be enlightened as to what precisely has occurred on "
             "board to occasion your call."),
        ),
        "weather": (
            ("If you have a moment to glance outside, I should be thankful for your impression of the wind, "
             "the sea and the visibility."),
            ("Might I further request the courtesy of a short account of the meteorological conditions "
             "prevailing in your vicinity?"),
            ("It would be exceedingly useful to our crews if you could be persuaded to tell us how strong the "
             "wind is and how high the waves."),
        ),
    },
    unexpected=(
        "Which port did you sail from?", "When were you due in at your next port, and which one is it?",
        "Has anybody on board got a mobile phone with signal, and what's the number?",
        "Who are your owners, and have they been told?", "Is your EPIRB switched on?",
        "How long do you reckon your radio batteries will last?", "Who is your P and I club, captain?",
        "Confirm flag state and port of registry.", "What do you draw, fore and aft?",
        "Have you got any red flares left?", "Sir, how much bunkers you are having remaining?",
        "How many liferafts have you got, and have they been inflated?", "Is there a pilot embarked?",
        "What language does the crew speak among themselves?", "Can you see any other vessels round about you?",
        "What is the master's surname, and would you spell it?", "Advise whether you carry a radar transponder.",
        "Are you able to listen on channel six seven as well as sixteen?", "In which year was she built?",
        "Does anyone at home know you've gone to sea today, and who would I ring?",
        "Is your AIS still transmitting, because I can't find you on the display?", "Are you insured for salvage?",
        "How many metres is she from stem to stern?", "Have you spoken with any other shore station this morning?",
        "Do you carry any firearms or armed guards?",
    ),
    again=(
        "Sorry, I got none of that, give me the whole lot once more.", "You are unreadable. Say again all.",
        "That was just noise this end, could you start from the beginning?",
        "Captain, nothing I could catch, kindly repeat full message.",
        "Er, I'm afraid I didn't make out a word, would you mind going through it another time?",
        "You're all broken up, I couldn't follow any of it. Try again, slower.", "Nothing copied. Retransmit.",
        "No luck, whatever you said was lost in the static, so let's have it afresh.",
    ),
    instructions=(
        "The lifeboat has slipped and will be with you in about forty minutes.",
        "Remain this frequency, do not change channel.", "A rescue helicopter is airborne and heading your way.",
        "Keep the casualty warm and lying flat, and give nothing to eat or drink.",
        "Sir, please be keeping listening watch on sixteen only.",
        "If you've got an anchor that'll hold, drop it now.",
        "Let off a red flare when you hear the aircraft, not before.",
        "There's a tanker close to you who has altered course to lend a hand.",
        "I'm just going to ask the doctor, so stay by the radio and I'll come straight back to you.",
        "Prepare the deck for winching, secure all loose gear.",
        "Shut every door and vent you can, and keep people out of the smoke.",
        "Stay with the boat as long as she floats, and don't go swimming for it.",
        "Tug is leaving harbour already, captain, will reach you before sunset.",
        "Have your towline ready on the foredeck for when our lads come alongside.",
        "Call me at once if anything gets worse, otherwise I'll speak to you every ten minutes.",
    ),
    read={
        "persons": (
            "I've written down {} people on board, is that right?",
            "Copied your head count, {} persons, and that is going in the log.",
            "So that makes {} of you on the vessel, all people counted, if I heard properly.",
            "Captain, you are telling total {} persons, correct or not?", "Roger, POB {}.",
            "Just so I don't get it wrong, um, there are {} people on board altogether?",
        ),
        "mmsi": (
            "Your MMSI reads {}, shout if I've got a digit wrong.", "Copied identity number {}.",
            "I make your MMSI {}, would you check that for me?", "Sir, noted MMSI as {}, please confirm the same.",
            "Nine figures received, they are {}.",
            "Hang on while I type that in, MMSI {}, have I taken it down correctly?",
        ),
        "position": (
            "I'm plotting you at {}.", "Confirm your position {}.",
            "Okay, so what I've put on the chart is {}, does that agree with your GPS?",
            "Your lat-long noted, sir, {}, am I right?", "The crew are being given {} as the place to find you.",
            "Let me say your fix back to you, it was {}, yes?",
        ),
    },
)  # fmt: skip
