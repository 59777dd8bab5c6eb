"""`maritime say`: dialogues as WAV files as a VHF receiver hears them, with transcript and timings."""

from __future__ import annotations

import hashlib
import json
import math
import re
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.errors import GraftError

from .. import NOTICE, __version__
from ..arguments import Parser
from ..dialogues import Dialogue, Turn, read

if TYPE_CHECKING:
    from graftwork.lightning.app import App

    from .engines import Engine

SUMMARY = "Speak dialogues as a VHF receiver hears them: WAV, transcript and timings."
SPOKEN_NOTICE = (
    "Exercise, exercise, exercise. This is a simulation for training, never for transmission."
)


def main(app: App, args: Sequence[str]) -> int:
    """Run the verb. Raises GraftError for bad input."""
    parser = Parser("say", SUMMARY)
    parser.add_argument("file", help="JSONL, or plain text with a turn a line")
    parser.add_argument(
        "--out", required=True, help="folder for ID.wav and ID.json; what is there is kept"
    )
    parser.add_argument("--engine", default="espeak-ng",
                        help="espeak-ng, espeak, or a command that writes {out} [espeak-ng]")  # fmt: skip
    parser.add_argument("--voice", default="en-gb", help="of the engine [en-gb]")
    parser.add_argument("--speed", type=int, default=150, help="words a minute [150]")
    parser.add_argument("--snr", type=float, default=18.0, help="voice above noise in dB [18]")
    parser.add_argument("--seed", type=int, default=0, help="of the noise [0]")
    parser.add_argument("--encoding", help="of the file, where it is not UTF-8 or marked UTF-16")
    given = parser.parse_args(list(args))
    if not math.isfinite(given.snr) or abs(given.snr) > 100:
        raise GraftError(f"--snr {given.snr}; give decibels from -100 to 100")
    if not 20 <= given.speed <= 500:
        raise GraftError(f"--speed {given.speed}; give 20 to 500 words a minute")

    from .engines import Engine

    engine, folder = Engine(given.engine), Path(given.out)
    settings = {
        "engine": given.engine, "voice": given.voice, "speed": given.speed, "snr": given.snr, "seed": given.seed,
        "version": __version__,
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GraftError(f"--out {folder}: {error.strerror}") from None
    names: dict[str, str] = {}
    for n, dialogue in enumerate(read(given.file, given.encoding), 1):
        name = re.sub(r"[^\w.-]+", "_", dialogue.id).strip(".") or f"dialogue-{n}"
        if name in names:
            raise GraftError(
                f"{given.file}: line {dialogue.line}: id {dialogue.id} comes twice; ids must differ"
            )
        names[name] = dialogue.id
        seconds = spoken(dialogue, folder / name, engine, settings)
        print(f"{folder / name}.wav: {seconds:.1f} s", flush=True)
    print(f"{len(names)} dialogues, {NOTICE}")
    return 0


def spoken(dialogue: Dialogue, stem: Path, engine: Engine, settings: dict[str, Any]) -> float:
    """Write STEM.wav and, last, STEM.json; the seconds. What was written with the same settings is kept."""
    from graftwork_runs.files import write_atomic

    turns = [Turn("notice", SPOKEN_NOTICE), *dialogue.turns]
    said = [{"speaker": t.speaker, "name": t.name, "text": t.text} for t in turns]
    stem_wav, stem_json = stem.with_name(f"{stem.name}.wav"), stem.with_name(f"{stem.name}.json")
    if (old := _finished(stem_json, stem_wav, said, settings)) is not None:
        return old

    import numpy as np

    from .radio import RATE, pause, transmission

    pieces, timings, at = [], [], 0
    for n, turn in enumerate(turns):
        station = turn.name or turn.speaker
        voice, rate = engine.speak(turn.text, settings["voice"], settings["speed"], _pitch(station))
        heard, begins = transmission(
            voice, rate, settings["snr"], _number(settings["seed"], dialogue.id, n)
        )
        words = round(len(voice) * RATE / rate)
        timings.append(
            {"start": round((at + begins) / RATE, 3), "end": round((at + begins + words) / RATE, 3)}
        )
        pieces += [heard, pause()]
        at += len(heard) + len(pieces[-1])
    sound = np.concatenate(pieces)
    try:
        with wave.open(str(stem_wav), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((np.clip(sound, -1, 1) * (2**15 - 1)).astype("<i2").tobytes())
    except OSError as error:
        raise GraftError(f"{stem_wav}: {error.strerror}") from None
    seconds = len(sound) / RATE
    known = {
        "id": dialogue.id, "file": stem_wav.name, "sample_rate": RATE, "seconds": round(seconds, 3),
        "settings": settings, "turns": [{**t, **times} for t, times in zip(said, timings, strict=True)],
        "notice": NOTICE,
    }  # fmt: skip
    write_atomic(stem_json, json.dumps(known, ensure_ascii=False, indent=1) + "\n")
    return seconds


def _finished(
    path: Path, sound: Path, said: list[dict[str, Any]], settings: dict[str, Any]
) -> float | None:
    """The seconds of a dialogue that is there already, or None."""
    if not path.is_file() or not sound.is_file():
        return None
    try:
        old = json.loads(path.read_text("utf8"))
        turns = [{key: t[key] for key in ("speaker", "name", "text")} for t in old["turns"]]
        same = turns == said and old["settings"] == settings
        return float(old["seconds"]) if same else None
    except (ValueError, KeyError, TypeError):
        return None


def _pitch(station: str) -> int:
    """A station keeps its voice: 25 to 74 by its name."""
    return 25 + _number(station) % 50


def _number(*words: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(words).encode(), digest_size=4).digest(), "little")
