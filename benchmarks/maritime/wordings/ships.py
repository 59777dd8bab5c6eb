"""The fifth and the sixth set of what a ship says to a coast station, of which no lesson knows."""

from graftwork_maritime.lessons.wordings import Spoken

SHIP_FIFTH = Spoken(
    position=(
        "Yeah, I've got it off the plotter now, we're at {x}.", "Position {x}, that's straight off the GPS.",
        "Okay, stand by... okay, I'm reading {x}, did you copy that?",
        "We are at {x}, I can give you that again if you want it.",
        "Lat and long as follows, {x}, and there's a big sea running.",
        "Right, the skipper's shouting it up to me: {x}.", "{x}, that's where we are, no engine, beam on to it.",
        "My friend, my position now is {x}, please you write.", "Ship is in {x}, GPS say this, yes.",
        "Sir, position, position, {x}, we not moving.",
        "Certainly sir, and thank you for asking, the set on the bridge here is giving us {x} at this very moment.",
        ("If you would be so good as to plot us, I believe we may be found at {x}, or as near to it as makes "
         "no difference."),
    ),
    persons=(
        "We've got {x} on board, all in lifejackets.", "Persons on board, {x}, everybody counted.",
        "That's {x} of us, counting me.", "POB is {x}, everybody's up on deck.",
        "Er, {x} souls on board, all accounted for.", "Just done a head count and I make it {x}.",
        "There's {x} of us up here in the wheelhouse.", "On board we have person {x}, all crew is here.",
        "Total people {x}, sir, with captain together.", "{x} man on ship, nobody is missing, thank God.",
        ("I have just had the chief officer go round twice, sir, and I am pleased to tell you the number on "
         "board comes to {x}."),
        "In answer to your kind question, our complement including the master and the cook is {x}.",
    ),
    help=(
        "We need {x}, and we need it pretty quick.", "Look, what we could really do with is {x}.",
        "Requesting {x}, as soon as you can please.", "Can you get us {x}? We can't deal with this on our own.",
        "We require {x}, immediately, please, immediately.", "Please you send {x}, please, very quick.",
        "Sir, we want {x}, situation is not good here.", "Captain say must have {x}, we cannot do alone.",
        ("I am sorry to put you to any trouble, but the master would be most grateful if you could arrange "
         "{x} for us."),
        "Having talked it over with the chief engineer, we have come to the view that what we shall need is {x}.",
    ),
    name=(
        "This is {x}, do you have me?", "Yeah, the boat's called {x}.", "Vessel's name is {x}, want me to spell it?",
        "Name of my ship {x}, you copy, sir?", "Here is motor vessel, she have name {x}.",
        "With pleasure, sir, the name you will see painted on our bow is {x}.",
    ),
    when=(
        "How long are they going to be, do you know?", "What's the ETA on that, please?",
        "Any idea how far out they are? It's getting bad here.", "Roger that, how many minutes till they get to us?",
        "Yeah, are they on their way yet, and when will we see them?", "Can you give me a time on that, please?",
        "Okay, understood, but how soon? How soon can they be with us?",
        "When they coming, sir? We wait long time already.", "How much time for come to us, please tell.",
        "Please, arrival what time? Captain is asking me again.", "Help is coming in how many minute, you know this?",
        ("I do beg your pardon for pressing you, but might we have some notion of when we should expect them "
         "alongside?"),
        ("The master would be obliged, when you have a moment, for an estimated time of arrival of the "
         "assistance you so kindly promised."),
        ("I know you are all doing your utmost, sir, but could you possibly say roughly how long we still "
         "have to wait?"),
    ),
    unexpected=(
        "What depth of water have we got underneath us here, do you know?",
        "When's high water round your way? Are we on the ebb or the flood?", "Has anybody got hold of our agent yet?",
        "If they get us in, is there a berth free for us?",
        "Which way's the stream setting us, can you tell from there?",
        "Who's picking up the bill for all this, by the way?",
        "What other ships have you got near us? I can see lights to the north.",
        "Is it rock or sand on that lee shore, any idea?",
        "Those lads that got into trouble here last winter, did they all get home?",
        "Can you ring my wife and tell her I'm all right?", "Agent is know about us? He must telephone to company.",
        "Customs is open in night time? We have paper problem.", "This salvage, how much money he take from owner?",
        "Anchor is holding in this place or bottom is no good?", "On your coast which current, strong or not strong?",
        ("Forgive me for raising it now, but would you happen to know whether our insurers must be told "
         "before we accept a line?"),
        ("I hardly like to ask at such a time, but is there a decent hotel near the harbour where the crew "
         "could be put up?"),
        ("Should it not be too much bother, could you tell me what colour the light on the end of your "
         "breakwater is?"),
    ),
    again=(
        "Say again, say again, you're breaking up.", "Sorry, missed all of that, go again please.",
        "You're very broken, say all that again.",
        "Didn't get that, there's an alarm going off in here. Once more please.",
        "Er, your last was unreadable, can you repeat?", "What was that? I can't hear you over the wind.",
        "Please repeat, sir, I not understand you.", "Again please, slowly, my English is little.",
        "Radio is very bad noise, what you say to me?",
        ("I do apologise, but between the wind and the alarms I lost the whole of that, would you be kind "
         "enough to say it again?"),
        ("I am afraid your last transmission reached me in pieces, sir, and I should be glad to have it from "
         "the beginning."),
        "Pardon me, I was called away from the set just as you spoke, could I trouble you to repeat your message?",
    ),
    read=(
        "Okay, so that's {unit} in {n} minutes, yeah?", "Copied, {unit}, {n} minutes.",
        "Roger, roger, {unit} coming to us, {n} minutes to run.",
        "Let me just check that, {unit} with us in {n} minutes, is that right?",
        "Understood, we've got {unit} on the way and we hang on for {n} minutes.",
        "I've got that as {n} minutes for {unit}, is that correct?",
        "I understand {unit} is come to me after {n} minutes.",
        "You say {n} minute and then {unit}, yes? I hear good?",
        "So {unit} is coming, {n} minutes, this is correct, sir?",
        ("Just so there is no misunderstanding on our side, we may look for {unit} in about {n} minutes, is "
         "that what you said?"),
        "Thank you most kindly, I have written in the log that {unit} should reach us {n} minutes from now.",
        "If I have followed you rightly, sir, you are sending {unit} and we should expect to see it in {n} minutes.",
    ),
    report=(
        "Lifejackets are on, everybody's on deck.", "Pumps are just about holding it at the moment.",
        "Roger, thank you, standing by on this channel.", "Yeah, we can see the helicopter's light now.",
        "Okay, understood, we'll keep listening.", "We've shut the hatches and put a man on fire watch.",
         "Flares are up here in the wheelhouse, ready if you want them.",
        "All crew have lifejacket now, is okay.", "Water is same, pump is working, we wait.",
        "Thank you my friend, thank you, I listen here all time.",
        "I should just like to let you know that the crew are cold but calm, and that we are very thankful to you.",
        ("For your information, sir, we have closed every door and vent we could get at and set good hands to "
         "watch the smoke."),
        "We have every deck light burning so that we may be seen, and shall of course remain at the radio.",
    ),
    cancel=(
        "Yeah, sorry about that, somebody pressed the red button. Cancel my distress alert.",
        "Cancel, cancel, that alert was a mistake, we're all fine here.",
        "That DSC alert was us, false alarm, please cancel it.",
        "Disregard our distress, it went off while we were cleaning the set, please cancel.",
        "Sorry sir, sorry, alarm is mistake, we cancel, no problem on ship.",
        "Distress is false, cadet is push wrong button, please you cancel.",
        ("I am dreadfully embarrassed to say that our distress alert was sent in error, and I ask you to "
         "regard it as cancelled."),
        ("With the master's sincere apologies for the disturbance, the alert you received from us was false "
         "and is hereby cancelled."),
    ),
    offer=(
        "This is {other}, I've been listening in, I can head over to {name} if you want me.",
        "{other} here, we're not far off {name}, do you want us to go?",
        "Yeah, it's {other}, we can see {name} from here, we'll go and have a look if that helps.",
        "{other}, we heard {name}, we've turned round already, shall we carry on?",
        "{other} to you, we've got a tow line and a good crew, happy to go to {name}.",
        "Here {other}, I hear {name} have problem, I can go for help, yes?",
        "Sir, {other}, I am near to {name}, you want I go there?",
        "My ship {other}, we ready make assistance to {name}, tell me please.",
        ("Good day to you, {other} speaking, and should you think us of any use to {name} we would gladly "
         "alter course at once."),
        ("Pardon the interruption, sir, but {other} is within easy reach of {name} and our master wishes to "
         "place the ship at your disposal."),
    ),
    noise=(
        "{station}, {other}, radio check please.", "{station}, this is {other}, how are you reading me today?",
        "Morning {station}, {other} here, any chance of a berth for tonight?",
        "{station}, {other}, have you got the latest forecast there?",
        "Hello {station}, it's {other}, just letting you know we're off fishing, back for tea.",
        "{station} from {other}, what time do you want us at the pilot station?",
        "{station}, {other}, you there? Just passing by, thought I'd say hello.",
        "Here {other}, good morning {station}, pilot is coming what time?",
        "Hallo {station}, {other} calling, I want weather please for tomorrow.",
        "{other} for {station}, my radio is good or no good, you hear?",
        ("A very good afternoon to {station} from all aboard {other}, might we trouble you for a berth with "
         "shore power?"),
        ("{station}, this is {other}, and when it is quite convenient we should be glad of the forecast for "
         "our passage south."),
    ),
)  # fmt: skip

SHIP_SIXTH = Spoken(
    position=(
        "Posit as follows, {x}.", "Right, off the plotter I make us {x}, give or take a boat length.",
        "You'll find us at {x}, drifting with the tow wire on the bottom.", "My GPS reads {x}.",
        "We're sat at {x}, not making way.",
        ("I trust this reaches you clearly, since the plotter has just this minute come back to life, and it "
         "puts the ship at {x}."),
        "Handheld's showing {x}, the main set is drowned.", "Ship is now in place {x}, this we see on GPS.",
        "I am position {x}, captain he check it again, is good.", "Where we are, it is {x}, please you write.",
        "If you would be so kind as to note it down, sir, the vessel presently finds herself at {x}.",
        ("With apologies for the delay, I had to go below for the chart, I can now give you our whereabouts, "
         "which are {x}."),
    ),
    persons=(
        "{x} souls on board.", "Headcount's just been done, we have {x}, that's deckhands and riggers together.",
        "I make it {x} of us all told.", "Total complement {x}, all mustered.", "There's {x} aboard, cook included.",
        "POB {x}, figure unchanged since sailing.",
        "If it is of any help to your planning, I may tell you that we number {x}, everybody accounted for.",
        "People in ship is {x}, all crew, no passenger.", "Here we are {x} man, me also counted.",
        "On board have {x} person, all is in bridge now.",
        "I can confirm to you, having personally called the roll, that the persons embarked amount to {x}.",
        ("As regards your question about numbers, sir, I have the honour to report {x} on board, nobody "
         "missing, thank God."),
    ),
    help=(
        "Request {x}, soonest.", "What I'm after is {x}, we can't hold this on our own.",
        "Could do with {x} out here, skipper.", "Require {x}.",
        "I've tried everything I know, I'm going to need {x}.", "We want {x}, please quick, very quick.",
        "For us is necessary {x}, alone we not can.", "Please to send {x}, big problem here.",
        "I should be most grateful if you could see your way to arranging {x} for this vessel.",
        ("Having talked it over with the chief engineer, we have come to the conclusion that {x} would be "
         "what is called for."),
    ),
    name=(
        "Name's {x}.", "You're talking to {x}, the little workboat.", "It's {x} you've got here, skipper speaking.",
        "Ship name, it is {x}, same like is painted on stern.", "Of us the name {x}.",
        "The vessel on whose behalf I have the pleasure of addressing you goes by the name of {x}.",
    ),
    when=(
         "How long are they going to be, roughly?",
        "Interrogative time of arrival of assisting unit.", "Any idea when they'll be alongside?",
        "Say time to my location, please.", "So how many minutes have I got to keep bailing before they turn up?",
        "When can I expect to see them?", "When they come, please? We wait.",
        "How much time is need for helper to reach us?", "The help, it arrive in which time?",
        "They come soon or they come late? Tell me the minutes.",
        ("Might I trouble you for some indication of how long we shall have to wait until the promised "
         "assistance is with us?"),
        ("Forgive me for pressing you, sir, but the master would dearly like to know at what time they are "
         "expected here."),
        "So that I can tell the lads something, would you kindly let me have your best estimate of their arrival?",
    ),
    unexpected=(
        "What depth have you got over the bar just now?", "Is the tide making or is it ebbing where I am?",
        "Who's picking up the bill for all this, me or the charterer?",
        "Any chance you could ring our agent and tell him we've lost the berth slot?",
        "Interrogative, are there known wrecks or obstructions under my keel?",
        "Which way does the current set off the headland?",
        "Did that coaster that went aground last winter ever get off?",
        "What's the going rate for a salvage contract in your parts?",
        "Have you got anyone up there who knows how to bleed an old diesel?",
        "I would be grateful for your opinion, would my insurers take it amiss if I left the boat unattended?",
        "Please, customs will make problem for us if we come in port without paper?",
        "In your port is free place for ship, by the crane?", "How is bottom there, sand or stone? For anchor I ask.",
        "You know who win the football today? Crew is asking me.",
        "The other ship, the red with big crane, what cargo she is carrying?",
        ("Would you happen to know whether there is a decent hotel near the harbour that would take a crew "
         "with no dry clothes?"),
        ("I hesitate to ask, but could you tell me whether the navy is holding a gunnery exercise in this "
         "area next week?"),
        "Might I enquire, purely for the log, what make of radio you use, because you sound remarkably clear?",
    ),
    again=(
        "Say again your last, please.", "Missed that, the winch was running. Come again?",
        "You're broken and distorted, say again your traffic.",
        "Didn't catch a word of it, mate, give it to me again.", "Wind took that, can you run it by me again?",
        "Nothing heard but hiss, say again your last transmission.", "Please again, I not understand what you say.",
        "Too fast speaking, sir. Slowly please, the same message.",
        "Radio is bad, your words I lose. Repeat, please.",
        ("I do beg your pardon, there was rather a lot of shouting here on deck, might you be so good as to "
         "repeat what you just told me?"),
        ("I fear your last message reached me only in pieces, and I would be obliged if you would transmit it "
         "afresh."),
        "Would you mind awfully passing that message again, I am afraid another vessel spoke right across you.",
    ),
    read=(
        "Read back, {unit}, {n} minutes. Confirm.", "So that's {unit} with me in {n} minutes, have I got that right?",
        "Copied {unit} inbound, {n} minutes to run.", "I've written down {unit}, {n} minutes. Shout if that's wrong.",
        "Understand time to my position is {n} minutes, asset is {unit}. Is that correct?",
        "Okay, {n} minutes and then I look out for {unit}, yes?",
        "I understand you, comes {unit}, after {n} minutes.", "You send {unit}, is it so? And time is {n} minutes?",
        "{n} minutes we wait, then {unit} is here, I have good understand?",
        ("Just to be quite certain we are of the same mind, it is {unit} that is coming, and in {n} minutes, "
         "is that right?"),
        "If I have followed you correctly, sir, we are to expect {unit}, and that in some {n} minutes from now.",
        "Let me say it back before I tell the crew, {unit} is on the way to us and should need {n} minutes.",
    ),
    report=(
        "Lifejackets on, all hands on the aft deck.", "Pump's holding her own for now, I'll keep you posted.",
        "Fire watch set, boundary cooling in progress.", "I've got the helo's light, visual, she's coming in nicely.",
        "Just to let you know, I've clipped on and I've got the grab bag in the cockpit.",
        "Roger all, standing by this channel.", "Engine room's shut down and the vents are closed.",
        "Cheers for that, it's good to hear a voice out here.", "All people has now jacket, is calm on board.",
        "Water in engine room not go up more, pump is working good.",
        "The sick man is same, not more bad. We sit with him.",
        ("We have now made the life raft ready at the rail, as a precaution, and the crew are bearing up very "
         "well indeed."),
        ("Permit me to convey the master's sincere thanks for your efforts, we shall of course keep listening "
         "on this channel."),
        ("For your information, the injured hand has been made comfortable in the mess and his condition has, "
         "I am glad to say, not worsened."),
    ),
    cancel=(
        "Cancel my distress alert, I say again, cancel. Sent in error.",
        "Sorry, that was me, I leaned on the red button stowing a sail. No distress here, please cancel it.",
        "Disregard the DSC alert from this vessel, inadvertent activation during maintenance, alert is cancelled.",
        "That mayday wants scrubbing, new deckhand was playing with the set. We're fine, it's cancelled.",
        "Please, the alarm is mistake, nobody in danger. We cancel.",
        "Wrong button we push, distress not is true, please cancel alert.",
        ("It is with great embarrassment that I must inform you our distress alert was entirely false, and I "
         "hereby cancel it."),
        ("I am so sorry to have put you to this trouble, the alert was sent by mistake while testing, kindly "
         "treat it as cancelled."),
    ),
    offer=(
        "This is {other}, I can be on my way to {name} as soon as you say the word.",
        ("{other} here, copied the distress from {name}, I have a towing winch and crew ready, do you want me "
         "to proceed?"),
        "{other}, available for tasking, can divert to {name} and act as on scene commander.",
        ("Heard all that with {name}, this is {other}, I'm only a small boat but I'll go and stand by her if "
         "it's any use."),
        "From {other}, we've a sea boat at the davits and a medic, happy to close {name}.",
        "Here {other}, we hear {name} have problem. We can go there and help, yes?",
        "{other} is speaking, my ship is not far from {name}, I turn and go if you want.",
        "We are {other}. For {name} we have pump and strong rope, we come?",
        "Good day, {other} at your service, should it be deemed useful we would gladly alter course towards {name}.",
        ("Pardon the interruption, this is {other}, we could not help overhearing, and we wish to place "
         "ourselves at the disposal of {name}."),
    ),
    noise=(

        "{station}, this is {other}, have you got a berth for us tonight, the usual spot by the fuel quay?",
        "Morning {station}, {other} here, what's the forecast doing for this afternoon?",
        "{station}, {other}, request permission to shift barge to the inner basin.",
        "{other} to {station}, is the pilot still on for us or has he slipped again?",
        "{station} from {other}, liaison officer speaking, request your working channel for routine traffic.",
        "Hello {station}, hello, here {other}, you hear my radio good?",
        "{station}, {other} is calling, we want pilot, where is boarding place please?",
        "{other} is calling for {station}, please, you give weather for night?",
        ("{station}, this is the good ship {other}, nothing of importance, I merely wondered who is on watch "
         "and whether the kettle is on."),
        ("A very good evening to {station} from {other}, might I ask you to be so kind as to pass a message "
         "to our agent about fresh water?"),
        ("{other} for {station}, I am terribly sorry to bother you, but could you advise whether the marina "
         "lock is working today?"),
    ),
)  # fmt: skip
