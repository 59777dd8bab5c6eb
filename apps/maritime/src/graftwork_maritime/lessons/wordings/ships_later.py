"""The third and the fourth set of what a ship says, by two more authors."""

from .form import Spoken

SHIP_THIRD = Spoken(
    position=(
        "My position, {x}.", "GPS puts us at {x}, drifting slowly to leeward.",
        "{x}, that is off the ECDIS just now.", "We're stopped in position {x}, bridge team has just checked it.",
        "Write this down please: {x}. I say again if you need it.",
        "You'll find us at {x}, not under command, anchor cleared away.",
        "Position of ship is now {x}, engine no working.", "We are stay in {x}, please mark on chart.",
        "Sir, my ship she is here: {x}, you copy my position.",
        "If you would be so kind as to note our present position, it reads {x} on the main receiver.",
        "With your permission I shall now pass the position, which according to both our receivers is {x}.",
        ("The Master has instructed me to inform you that the vessel lies at this moment in {x}, fix "
         "considered reliable."),
    ),
    persons=(
        "{x} persons on board, all crew.", "We've got {x} on board, that includes the pilot.",
        "Total on board {x}, everyone mustered and counted.", "Crew list says {x}, and the head count agrees.",
        "POB {x}.", "There's {x} of us, no passengers, all at the muster station.",
        "On board have {x} people, all is here.", "We are {x} man in ship, cook and cadet also.",
        "Crew is {x} person, I count again myself, nobody is miss.",
        ("I am pleased to be able to confirm that our complement is {x} persons, every soul of whom has been "
         "accounted for."),
        ("For your kind information, the number of persons presently aboard, officers and ratings together, "
         "amounts to {x}."),
        ("Regarding the people on my vessel, the chief mate has checked against the muster list and the "
         "figure he gives me is {x}."),
    ),
    help=(
        "I require {x}.", "Need {x}, and quickly please.",
        "What we're after is {x}, my own people can't manage this alone.", "Requesting {x}. Owners have been told.",
        "Can you get us {x}? We've used up everything we have.", "Captain say we need {x}, very urgent.",
        "Please you send {x} for my vessel, we no can do alone.",
        "We should be most grateful if you could see your way to arranging {x} for this vessel.",
        ("After consulting the Master and the chief engineer, I have to respectfully ask for {x} at your "
         "earliest convenience."),
        "Help we are want is {x}, please, sir, no other thing.",
    ),
    name=(
        "This is motor vessel {x}.", "Vessel's name is {x}, I'll spell it if you like.",
        "{x} here, second officer speaking.", "Name of my ship, she is {x}.",
        "You are speaking, if I may introduce ourselves properly, with the merchant vessel {x}.",
        "It's {x} calling you, the red hull with the white accommodation.",
    ),
    when=(
        "What's the ETA on that?", "How long before they get here?",
        "Interrogative: estimated time of arrival of assistance.",
        "When can we expect them alongside? I need to rig the ladder.",
        "How far out are they, time wise? My old man is asking every minute.",
        "Roger that, but how soon? It's getting worse down below.",
        "Any idea what time your people will be on scene?", "What time he come, please?",
        "How many minute we must wait for this help, sir?", "Help is come when? Captain want to know.",
        "You say somebody coming, but how much time is needing for reach us?",
        "Might I trouble you for an indication of the time at which the promised assistance is likely to reach us?",
        ("I should be much obliged to learn how long, in your estimation, we shall have to hold on until help "
         "arrives."),
        ("For entry in our log book and for the Master's planning, kindly advise the expected time of arrival "
         "of the unit you mentioned."),
    ),
    unexpected=(
        "What depth of water have you got at the tanker jetty?",
        "Is the tide flooding or ebbing off the breakwater just now?",
        "Can you phone our agent for me? He isn't picking up.",
        "Who's footing the bill for all this, owners or charterers?",
        "Does this go down as salvage, or is it free of charge?", "Which way does the current set along that bank?",
        "Is our berth still free, or have they put the other bulker on it?",
        "Do you need our P and I club details, and who do I send them to?",
        "What is that ship with the green hull astern of me, and why doesn't she answer?",
        "Has any other tanker come to grief on this patch before?", "Sea bottom here is what, mud or rock?",
        "Customs will make problem for us, for the bonded store is open?",
        "Sir, in your town is hotel for crew, cheap one?",
        "My company ask how much cost the tug for every hour, you know?",
        "Is it perhaps known to you whether the port state inspector will wish to detain the vessel after this?",
        ("Would you happen to know, if it is not too much trouble, what the weather is supposed to do over "
         "the coming week?"),
        ("I wonder if you could enlighten me as to whether crew without visas would be permitted to go ashore "
         "in your country?"),
        "Did you catch the football result? The bosun won't stop asking.",
    ),
    again=(
        "Say again, please.", "Say again all after my name, you were broken.",
        "Missed that, somebody's alarm went off on the bridge. Repeat your last?",
        "You're very weak, I got nothing. Once more.",
        "Sorry, didn't catch a word, you'll have to give me that again, slower.",
        "Station calling, your last was unreadable, say again.", "I no understand, please speak slow and again.",
        "Please repeat, my radio make too much noise.", "What you say, sir? Not hearing good, give again message.",
        "I do beg your pardon, the transmission was somewhat distorted at our end, would you mind repeating it?",
        ("With apologies for the inconvenience, I was on the telephone to the engine room and must ask you to "
         "repeat your last message."),
        ("Regrettably your message did not reach us in an intelligible form, so kindly transmit the whole of "
         "it afresh."),
    ),
    read=(
        "I read back: {unit}, {n} minutes. Correct?", "Understood, {unit} in {n} minutes.",
        "So that's {unit}, and {n} minutes to run, yes?",
        "Copied, {unit} coming, ETA {n} minutes, telling the Master now.",
        "Let me get this straight, {n} minutes and then we have {unit} with us, is that right?",
        "{unit}, {n} minutes, it's in the log.", "I understand you send {unit}, come after {n} minute, is right?",
        "OK OK, {n} minute more and {unit} is here, I tell captain.",
        "You say me {unit}, he need {n} minutes for arrive, yes sir?",
        "Permit me to confirm that I have noted correctly: {unit} is to reach us in {n} minutes, is that so?",
        ("If I have followed you properly, and please do correct me otherwise, we are to look out for {unit} "
         "within {n} minutes."),
        ("Thank you kindly, I take it from your message that {unit} has been assigned to us and will be here "
         "in {n} minutes."),
    ),
    report=(
        "Lifejackets on, all hands at muster.", "Pumps are holding for now, level's steady.",
        "Fire watch set, boundary cooling continues.", "We have a light on the horizon, looks like your helicopter.",
        "Roger, standing by on this channel.",
        "Chief says the bulkhead's shored and it isn't weeping any more than it was.",
        "Deck lights are all on and the pilot ladder's rigged on the lee side.",
        "All crew is OK, nobody more bad than before.", "We close all door and vent, gas system is ready.",
        "Thank you my friend, we wait and listen radio.", "Lifeboat is swing out, bosun stay near with the men.",
        ("I have the honour to report that all hands remain calm at their stations and nobody's condition has "
         "deteriorated."),
        ("On behalf of the Master and the entire crew, may I express our sincere thanks for the attention you "
         "are giving us."),
        ("Please be advised that, in accordance with our emergency procedures, all cargo valves have been "
         "shut and ignition sources isolated."),
    ),
    cancel=(
        "Cancel my distress alert, it was sent in error.",
        "False alarm, sorry, the cadet was cleaning the set and pushed the red button. Please cancel.",
        "Disregard our DSC distress, inadvertent activation during a drill, alert cancelled.",
        "Nothing wrong here, we were testing and it went out live. Scrub that alert, would you?",
        "Mistake, mistake, no distress on my ship, please cancel alarm.",
        "Sorry sir, alarm is false, third mate press wrong button, we cancel.",
        ("It is with considerable embarrassment that I must inform you our distress alert was transmitted by "
         "mistake and is hereby cancelled."),
        ("Kindly accept the Master's apologies and treat the distress alert from this vessel as false, we "
         "withdraw it entirely."),
    ),
    offer=(
        "This is {other}, I have {name} on radar and can divert now if you want me.",
        "{other} here, we're in ballast and close by, shall we make for {name}?",
        "Tanker {other}, I've heard the traffic with {name}, rescue boat's ready, at your disposal.",
        "{other}, altering course towards {name} unless you tell me otherwise.",
        "We're not far off {name}, we could stand by her and make a lee. It's {other} speaking.",
        "Here is {other}, we can go help {name}, you want?",
        "I am {other}, I see the ship {name} from bridge, my captain say we can go there now.",
        "My ship {other} is near, have good crane and doctor box, maybe we help to {name}?",
        ("The Master of {other} presents his compliments and wishes to place the vessel at your service for "
         "the assistance of {name}."),
        ("Should it be of any use to you, {other} would gladly interrupt her passage and proceed to {name} "
         "with all available speed."),
    ),
    noise=(
        "{station}, {station}, this is {other}, radio check please.", "{station}, {other}, any news on our berth?",
        "Morning {station}, {other} here, what time's the pilot boarding?",
        "{station} from {other}, have you got the latest forecast handy?",
        "{other} calling {station}, anchor's up, request permission to shift to the inner roads.",
        "Hello {station}, it's {other}, quiet watch so far? Just wanted a chat about the bunker barge.",
        "{station}, good day sir, here {other}, pilot ladder which side please?",
        "{station} {station}, I am {other}, you hear me good my radio?",
        "{other} for {station}, we want know where is anchor place for big ship.",
        ("A very good day to you, {station}, this is {other}, and I should like to enquire about fresh water "
         "and garbage collection."),
        ("{station}, if you have a moment, the bulk carrier {other} would appreciate word of when our agent "
         "intends to come out with the mail."),
        ("With respect, {station}, {other} has not yet received the pre-arrival form, could you be so good as "
         "to tell us whom to ask?"),
    ),
)  # fmt: skip

SHIP_FOURTH = Spoken(
    position=(
        "Where are we, right, the plotter says {x}.", "Hang on, hang on, I have it here. It's {x}.",
        "My position, sir, is {x}, by GPS a moment ago.", "We're at {x}, please hurry.",
        "Oh God, sorry, position. {x}, got that?", "{x}, that's where you'll find us, drifting slowly.",
        "Ship is now in {x}, I read from GPS screen.", "Please write, my place is {x}, engine stop, we are drift.",
        "We are standing on {x}, please you come here.",
        "If you would be so kind as to take a pencil, madam, I make our position to be {x}.",
        "I do beg your pardon for not giving it sooner; the chief mate and I agree that we lie at {x}.",
        "Having had the mate check it on both sets, I can tell you with some confidence that we are in {x}.",
    ),
    persons=(
        "There's {x} of us aboard, all told.", "I've just been round and counted, {x} people on board.",
        "Er, wait, yes. {x} on board.", "Souls on board, {x}, sir, myself included.",
        "We've got {x} on here and they're all scared stiff.",
        "Sorry, I forgot to say how many. It's {x}, everybody included.",
        "On my ship is {x} persons, all is on deck now.", "Crew {x}, no passenger, everybody I see with my eye.",
        "We have {x} man together with captain and cook.",
        "I have just had the muster list read back to me, and I can report {x} persons on board.",
        "You will want to know our number, of course; we are {x}, and I answer for every last soul.",
        "Counting the cook, the cadets and an old man like me, it comes to {x} persons altogether, thank you.",
    ),
    help=(
        "We need {x}, and quick as you can.", "Just send {x}, please, I don't know what else to ask for.",
        "What I require, sir, is {x}.", "Sorry, I should have said. It's {x} we're after.",
        "Can you get us {x}? We can't manage this on our own.", "I want {x} please, very very urgent.",
        "Captain say we must have {x}, alone is not possible for us.",
        "For my vessel is necessary {x}, please you organize.",
        "I am most reluctant to trouble you, but I am afraid we shall not get through this without {x}.",
        "If it lies in your power to arrange {x}, my crew and I would be very deeply obliged to you.",
    ),
    name=(
        "This is {x}, sorry, I should have said that first.", "The boat's called {x}.",
        "You are speaking with the master of {x}, sir.", "Name of ship is {x}, I say again if you not catch.",
        "Ship {x} is talking with you, please listen me.",
        "Forgive me, I have quite neglected to introduce my vessel, which goes by the name of {x}.",
    ),
    when=(
         "When are they coming? Please, just tell me when.",
        "What's their ETA, please?", "Have they left yet, and how soon will they be with us?",
        "Any idea of the time of arrival, sir? My crew keep asking.",
        "Sorry to keep on at you, but how much longer will the help be?",
        "You said somebody's on the way. How far off are they in minutes?",
        "What time he arrive, the help you promise?", "Please, how many minute we must wait still?",
        "You send help, yes, but when it is coming to us?",
        "Station, what is arrive time of rescue, my people is afraid.",
        "Might I trouble you, when you have a moment, for the hour at which we may expect our rescuers?",
        "I do not wish to press you, but could you possibly tell me how long they are likely to take to reach us?",
        ("So that I may give my crew something to hold on to, would you kindly let me know when assistance "
         "will arrive?"),
    ),
    unexpected=(
        "Who's paying for all this, us or the insurance?",
        "What's the depth of water round here? Our sounder's dead.",
        "Can somebody ring our agent and tell him we won't make the berth?",
        "Does anyone know which way the current sets off that headland?",
        "Sorry, silly question, but will we have to go through customs when we get in?",
        "Hasn't a ship been lost on this same bank before, sir?",
        "That big tanker that passed us, do you know who she was?",
        "Will there be somewhere for my people to sleep tonight, a hotel or something?",
        "Please, what kind is the bottom there, sand or stone?",
        "My company want know, how much harbour make us pay for every day?",
        "Which berth is free for us in harbour, and who take the ropes?",
        "You can tell me who win football yesterday? My cook is asking.",
        "In harbour is possible to buy new radio battery, and how much money?",
        "Would you happen to know whether our underwriters must be informed before anyone puts a line on us?",
        "Purely out of an old man's curiosity, what colour is the light on the breakwater these days?",
        "If it is not an impertinence, might I ask what the weather is likely to do towards the end of next week?",
        "I wonder whether you could say if the pilot we had this morning is still on duty, a very civil young man?",
    ),
    again=(
        "What? I didn't get any of that.", "Sorry, say that again, there's shouting on the bridge.",
        "Say again your last, please, sir.", "You broke up completely, what was that?",
        "Hello? I lost you there, could you repeat it?",
        "I missed that, the alarm's going off right next to me. Once more, please.",
        "Not understand, please you speak again slowly.", "Repeat please, my radio make too much noise.",
        "I hear voice but I hear no word, tell me again.",
        "I do apologise, my ears are not what they were; would you be good enough to repeat your last message?",
        "Forgive me, your message was all crackle at this end, and I should be grateful to hear it once again.",
        "With respect, I did not follow what you said just now; might I have it again, a little slower?",
    ),
    read=(
         "OK, OK, {unit}, {n} minutes. Did I get that right?",
        "Understood, sir, {unit} will be with us in {n} minutes.",
        "Let me just say it back, {n} minutes and then we get {unit}, yes?",
        "I've told everybody {unit} is coming in {n} minutes. Please say that's correct.",
        "I have written down {unit}, {n} minutes from now.", "I understand {unit} is coming, {n} minute, correct?",
        "You send {unit} to us, after {n} minutes is here. I understand good?",
        "My paper say {unit}, time {n} minutes, please you check.",
        "If I have followed you correctly, we are to look out for {unit} in some {n} minutes.",
        "Allow me to read that back, if I may: you are sending us {unit}, to arrive in {n} minutes?",
        "To be quite sure that I mislead nobody here, I take it that {unit} should reach us in {n} minutes.",
    ),
    report=(
        "Lifejackets are on, everybody's up on deck now.", "OK, thank you, thank you. We'll stay by the radio.",
        "The pumps are holding for the moment, sir.", "I can see a light, I think it's the helicopter!",
        "Nobody's any worse, they're just cold and frightened.",
        "We've shut all the doors below and put a man on watch by the smoke.",
        "Right, yes, understood, standing by. Sorry, my hands are shaking.", "We make ready the ladder on lee side.",
        "Water is not go up now, pump is working good.", "All crew have jacket and is sitting together, we wait you.",
        "Thank you my friend, I tell to all people on board.",
        "I am much obliged to you, and we shall remain on this channel for as long as you wish.",
        "You will be glad to hear that the crew are quite calm, and the cook has even managed tea for us all.",
        "For your information, and with my thanks, a fire watch has been posted and the hoses are laid out ready.",
    ),
    cancel=(
        "Oh no, sorry, that was a mistake. Cancel our distress alert, we're fine.",
        "False alarm, sir, please cancel my distress alert.",
        "Somebody leaned on the red button. There's no emergency here, cancel the alert.",
        "I'm so sorry, the kids pressed it. Please cancel that distress alert, it was false.",
        "Mistake, mistake, my alert is false, please you cancel, ship is OK.",
        "Distress alarm was sent by error from my cadet, I cancel it, no danger here.",
        ("It is with considerable embarrassment that I must ask you to regard our distress alert as false and "
         "cancelled."),
        ("Please accept a master's apology; the alert was set off in error while we were cleaning the radio, "
         "and I hereby cancel it."),
    ),
    offer=(
        "This is {other}, we heard all that, we can go to {name} right now.",
        "{other} here, sir, I am not far from {name} and at your disposal.",
        "Coastguard, it's {other}. I can see {name} from here, do you want me to go to her?",
        "Sorry to butt in, this is {other}. We've turned round already, shall we help {name}?",
        "{other} calling, we've got a boat ready to launch if {name} needs it.",
        "Here is {other}, I am near of {name}, I can go help if you want.",
        "Station, {other} speaking, we have radar of {name}, we come with full speed, yes or no?",
        "My ship {other} is ready for give help to {name}, you tell me what I do.",
        ("Good evening, the master of {other} presents his compliments and would gladly alter course to "
         "assist {name}."),
        ("If you have nobody closer, {other} would count it an honour to stand by {name} for as long as she "
         "needs us."),
    ),
    noise=(
        "{station}, {other}, how do you hear me? Just a radio check.",
        "Morning {station}, {other} here, any chance of the latest forecast?",
        "Hello {station}, it's {other}, is our usual berth free tonight?",
        "{station}, this is {other}, what time do you want us at the pilot station?",
        "Anybody awake at {station}? It's {other}, only ringing for a chat.",
        "{other} to {station}, we've a parcel for the harbour office, who do we give it to?",
        "{station}, here is {other}, please when is coming my pilot?",
        "Good day {station}, {other} is calling, you have berth for me or I go anchor?",
        "Hello {station}, my name {other}, radio is new, you hear me good or bad?",
        ("A very good day to you, {station}, {other} here, and might I have the weather bulletin at your "
         "convenience?"),
        ("{station}, the old master of {other} wishes you a pleasant watch and asks whether fresh water may "
         "be had at the quay."),
        ("If you are not too busy, {station}, {other} would be glad to learn whether the lock keeper is back "
         "from his dinner."),
    ),
)  # fmt: skip
