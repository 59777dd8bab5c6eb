"""Kinds and categories of scenarios, and the facts that each category draws.

A fact is a phrase that is said as it stands, or a whole number; a key that ends with `_utc` holds a time of day
HH:MM. Category words are the phrase book's (IMO SMCP, part A1).
"""

from __future__ import annotations

from collections.abc import Mapping

TYPES = (
    "Cargo Vessel",
    "Fishing Vessel",
    "Pleasure Craft",
    "Sailing Vessel",
    "Tanker",
    "Towing Vessel",
    "Passenger Vessel",
    "Tugboat",
    "Search and Rescue Vessel",
    "Law Enforcement Vessel",
    "Military Vessel",
    "Pilot Vessel",
    "Port Tender",
    "Anti-Pollution Vessel",
    "Medical Transport Vessel",
    "Motor Vessel",
    "Other",
)
CARRIES_CARGO = ("Tanker", "Passenger Vessel", "Cargo Vessel")
CARGOES = {
    "Tanker": ("crude oil", "gas oil", "palm oil", "methanol"),
    "Cargo Vessel": ("timber", "grain", "steel coils", "containers", "fertilizer"),
    "Passenger Vessel": ("cars", "trailers"),
}
# Fewest and most persons on board, more than any fact hurts or loses; the rest as "Motor Vessel".
PERSONS = {
    "Cargo Vessel": (8, 26),
    "Fishing Vessel": (4, 18),
    "Pleasure Craft": (4, 9),
    "Sailing Vessel": (4, 8),
    "Tanker": (12, 28),
    "Towing Vessel": (4, 9),
    "Passenger Vessel": (30, 420),
    "Tugboat": (4, 9),
    "Motor Vessel": (4, 22),
}
# Nature of distress in a digital selective call (ITU-R M.493).
NATURES = {
    "fire": 100,
    "flooding": 101,
    "collision": 102,
    "grounding": 103,
    "list": 104,
    "sinking": 105,
    "adrift": 106,
    "undesignated": 107,
    "abandoning": 108,
    "attack": 109,
    "overboard": 110,
}
DISTRESS = tuple(NATURES)
PAPER = tuple(category for category in DISTRESS if category != "abandoning")
CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "distress": DISTRESS,
    "urgency": ("engine", "steering", "cargo", "ice", "machinery"),
    "safety": ("gale", "obstruction", "unlit", "exercise_area"),
    "sar": ("search", "pickup"),
    "medical": ("advice", "evacuation"),
    "relay": DISTRESS,
    "cancel": ("false_alert",),
}
Choices = tuple[str, ...] | range
_INJURED = range(4)
FACTS: Mapping[str, Mapping[str, Choices]] = {
    "fire": {
        "seat": (
            "engine room",
            "galley",
            "accommodation",
            "paint store",
            "bridge",
            "battery space",
            "funnel casing",
        ),
        "state": ("not under control", "under control", "spreading", "contained for now"),
        "injured": _INJURED,
    },
    "flooding": {
        "space": (
            "engine room",
            "bow thruster room",
            "forepeak",
            "steering gear room",
            "pump room",
        ),
        "cause": (
            "a broken sea valve",
            "a crack in the hull",
            "a damaged shaft seal",
            "a burst pipe",
        ),
        "pumps": ("the pumps are holding", "the pumps are not holding", "the pumps have stopped"),
    },
    "collision": {
        "struck": (
            "a drifting container",
            "an unlit buoy",
            "an unknown fishing boat",
            "a submerged object",
            "a floating tree",
        ),
        "damage": (
            "above the water line",
            "below the water line",
            "on the bow",
            "on the port side",
            "on the starboard side",
        ),
        "injured": _INJURED,
    },
    "grounding": {
        "seabed": ("rocks", "sand", "mud", "a reef", "gravel"),
        "hull": ("the hull is tight", "the hull is leaking", "the hull is being checked"),
        "part": ("forward", "aft", "amidships", "over the full length"),
    },
    "list": {
        "side": ("port", "starboard"),
        "degrees": range(12, 41),
        "cause": (
            "a shift of ballast",
            "water on deck",
            "a flooded void space",
            "heavy seas on the beam",
            "a shift of stores below deck",
        ),
    },
    "sinking": {
        "cause": (
            "a hole below the water line",
            "heavy weather damage",
            "a failed hatch",
            "a broken hull plate",
        ),
        "minutes": range(10, 56),
        "boats": ("liferafts are ready", "lifeboats are ready", "one liferaft is lost"),
    },
    "adrift": {
        "failure": (
            "main engine failure",
            "steering gear failure",
            "a total blackout",
            "a rope in the propeller",
            "a lost rudder",
        ),
        "toward": ("the rocks", "the shore", "the traffic lane", "open water", "a wind farm"),
        "knots": range(1, 5),
    },
    "attack": {
        "attackers": range(3, 13),
        "craft": ("a white skiff", "two small boats", "a fast grey boat", "a wooden dhow"),
        "crew": (
            "the crew is in the citadel",
            "the crew is on the bridge",
            "the crew is locked in the mess",
        ),
    },
    "undesignated": {
        "trouble": (
            "we need immediate help and cannot say more",
            "we are in grave danger in very heavy seas",
            "our superstructure is breaking up",
            "our hatch covers are open and we ship heavy seas",
            "we lose stability in very heavy seas",
        ),
    },
    "abandoning": {
        "cause": ("a spreading blaze", "loss of stability", "a broken hull", "toxic gas"),
        "liferafts": range(1, 5),
        "lights": ("the lights are on", "the radar transponder is on", "flares are ready"),
    },
    "overboard": {
        "who": ("one crew member", "one passenger", "the cook", "two deckhands", "the bosun"),
        "minutes": range(2, 41),
        "wears": ("a lifejacket", "no lifejacket", "an immersion suit", "an orange jacket"),
    },
    "engine": {
        "failure": ("a broken fuel pump", "an overheated main engine", "a failed gearbox"),
        "repair": range(1, 9),
    },
    "steering": {
        "failure": ("a jammed rudder", "a hydraulic leak", "a failed steering motor"),
        "repair": range(1, 9),
    },
    "machinery": {
        "failure": ("a failed generator", "a failed radar", "a broken shaft bearing"),
        "repair": range(1, 9),
    },
    "cargo": {
        "trouble": ("shifted in the hold", "lost overboard in part", "leaking on deck"),
        "units": range(2, 31),
    },
    "ice": {
        "trouble": ("beset in ice", "damaged by ice", "icing up fast"),
        "thickness": range(20, 91),
    },
    "gale": {
        "force": range(8, 12),
        "wind": ("north west", "south west", "north east", "south east", "west"),
        "hours": range(3, 25),
    },
    "obstruction": {
        "object": (
            "a drifting container",
            "a half submerged barge",
            "a large tree trunk",
            "a capsized hull",
            "loose timber",
        ),
        "seen_utc": (),
    },
    "unlit": {
        "object": ("a lighthouse", "a cardinal buoy", "a lateral buoy", "a wreck buoy", "a racon"),
        "since_utc": (),
    },
    "exercise_area": {
        "work": (
            "cable laying",
            "gunnery exercises",
            "survey with long streamers",
            "diving operations",
            "a towing operation",
        ),
        "berth": range(1, 7),
    },
    "search": {
        "object": ("a white sailing yacht", "an orange liferaft", "a blue fishing boat", "a kayak"),
        "missing": range(1, 7),
        "pattern": (
            "expanding square search",
            "sector search",
            "parallel track search",
        ),
        "spacing": range(1, 5),
    },
    "pickup": {
        "survivors": range(1, 9),
        "object": ("a liferaft", "a lifeboat", "the water", "an upturned hull"),
        "condition": ("cold but conscious", "in good condition", "unconscious", "slightly injured"),
    },
    "advice": {
        "patient": ("crew member", "passenger", "chief engineer", "deckhand"),
        "age": range(19, 78),
        "complaint": (
            "severe chest pain",
            "a deep cut in the arm",
            "high fever and vomiting",
            "a burned hand",
            "strong pain in the abdomen",
        ),
    },
    "evacuation": {
        "patient": ("crew member", "passenger", "second officer", "deckhand"),
        "age": range(19, 78),
        "complaint": (
            "a broken leg",
            "a head injury",
            "a heart attack",
            "severe burns",
            "heavy loss of blood",
        ),
    },
    "false_alert": {
        "cause": (
            "a mistake during a radio test",
            "a wrong key pressed by a trainee",
            "a faulty unit",
        ),
        "alert_utc": (),
    },
}
HELP: Mapping[str, tuple[str, ...]] = {
    "fire": ("fire fighting assistance", "immediate assistance", "a fire fighting tug"),
    "flooding": ("pumps", "immediate assistance", "pumps and divers"),
    "collision": ("immediate assistance", "an escort to port", "divers"),
    "grounding": ("a tug", "two tugs", "refloating assistance", "immediate assistance"),
    "list": ("immediate assistance", "evacuation of all persons", "a tug"),
    "sinking": ("immediate assistance", "rescue of all persons", "a rescue helicopter"),
    "adrift": ("a tow", "a tug", "towing assistance"),
    "attack": ("naval assistance", "military assistance", "immediate assistance"),
    "undesignated": ("immediate assistance", "urgent assistance"),
    "abandoning": ("rescue of all persons", "immediate assistance", "a rescue helicopter"),
    "overboard": ("help with the search", "search assistance", "a rescue helicopter"),
    "engine": ("a tow", "a tug to stand by"),
    "steering": ("a tug", "a tug to stand by"),
    "machinery": ("technical advice", "a tug to stand by"),
    "cargo": ("an escort to port", "a tug to stand by"),
    "ice": ("ice-breaker assistance", "an ice-breaker"),
    "advice": ("medical advice", "radio medical advice"),
    "evacuation": ("medical evacuation", "a helicopter with a doctor"),
}
