"""What maritime is, for the light door: this module imports nothing heavy."""

from __future__ import annotations

from graftwork.lightning.app import App

APP = App(
    name="maritime",
    summary="Maritime radio dialogues, composed and checked; for training, never for transmission.",
    cli="graftwork_maritime.cli:MaritimeCLI",
    configs="graftwork_maritime.configs",
    verbs={
        "fit": "Train a graft on dialogues, composed or your own.",
        "predict": "Write each test dialogue's loss and perplexity.",
        "generate": "Write dialogues of scenarios with a model, in batches; a stopped run goes on.",
        "bootstrap": "Self-Instruct: write dialogues from examples, filter them, and let the pool grow.",
        "demo": "A live exchange with a ship; with --serve a page where you play the coast station.",
        "serve": "Answer live as ship or coast station, JSON on this computer's own address.",
    },
    light={
        "scenario": (
            "Draw scenarios: vessels, positions at sea, facts; seeded, as JSONL.",
            "graftwork_maritime.drawing:scenario",
        ),
        "compose": (
            "Compose reference dialogues of scenarios by the protocol grammar; no model.",
            "graftwork_maritime.drawing:compose",
        ),
        "check": (
            "Judge dialogues, JSONL or text, turn by turn; which filters refuse how many.",
            "graftwork_maritime.check:main",
        ),
        "say": (
            "Speak dialogues as a VHF receiver hears them: WAV, transcript and timings.",
            "graftwork_maritime.speech.verb:main",
        ),
        "stats": (
            "Count dialogues: kinds, lengths, distinct words, copies, closeness to another file.",
            "graftwork_maritime.stats:main",
        ),
    },
)
main = APP.main

if __name__ == "__main__":
    raise SystemExit(main())
