"""Dialogues as sound: the band, noise and squelch are measured; the engine is a program that writes a tone."""

from __future__ import annotations

import json
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from graftwork.errors import GraftError
from graftwork_maritime import NOTICE
from graftwork_maritime.app import APP
from graftwork_maritime.speech.engines import Engine
from graftwork_maritime.speech.radio import HIGH, LEVEL, LOW, OPENS, RATE, TAIL, band, transmission
from graftwork_maritime.speech.verb import SPOKEN_NOTICE, main

TONE = """
import math, struct, sys, wave
text, (out, pitch, rate, mode) = sys.stdin.read(), sys.argv[1:]
with open(out + ".log" if mode == "log" else __file__ + ".log", "a") as log:
    log.write(pitch + " " + text.strip() + "\\n")
if mode == "fails":
    sys.exit("no voice of that name")
if mode != "nothing":
    count = 0 if mode == "empty" else len(text.split()) * int(rate) // 10
    with wave.open(out, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(1 if mode == "bytes" else 2)
        file.setframerate(int(rate))
        for n in range(count):
            level = round(9000 * math.sin(2 * math.pi * 1000 * n / int(rate)))
            file.writeframes(b"ab" if mode == "bytes" else struct.pack("<hh", level, level))
"""
CALL = "SHIP: Mayday, Mayday, Mayday. This is Tern. Over.\nCOAST: Tern, this is X Radio. Received Mayday. Over.\n"


@pytest.fixture
def tone(tmp_path: Path) -> str:
    """A command that speaks a tone of 1000 Hz, a tenth of a second a word; it notes what it was asked."""
    program = tmp_path / "tone.py"
    program.write_text(TONE)
    return f"{sys.executable} {program} {{out}} {{pitch}} 22050 plain"


def heard(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15


def power(sound: np.ndarray) -> float:
    return float(np.mean(sound**2))


def share(sound: np.ndarray, low: float, high: float) -> float:
    """Of the energy, how much lies between two frequencies."""
    energy = np.abs(np.fft.rfft(sound)) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / RATE)
    return float(energy[(hertz >= low) & (hertz <= high)].sum() / energy.sum())


def test_the_band_is_that_of_voice() -> None:
    for rate in (16_000, 22_050, 44_100):
        time = np.arange(rate) / rate
        for hertz, kept in ((100, 0), (350, 1), (1000, 1), (2900, 1), (3500, 0), (6000, 0)):
            passed = power(band(np.sin(2 * np.pi * hertz * time), rate)) / 0.5
            assert passed == pytest.approx(kept, abs=0.02), (rate, hertz)
    noise = np.random.default_rng(0).standard_normal(RATE)
    assert share(band(noise, RATE), LOW - 60, HIGH + 60) > 0.999


@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
def test_noise_is_as_far_below_the_voice_as_asked(snr: float) -> None:
    tone = 0.05 * np.sin(2 * np.pi * 1000 * np.arange(2 * 22_050) / 22_050)
    sound, begins = transmission(tone, 22_050, snr, 1)
    assert begins == round(OPENS * RATE) and len(sound) == begins + 2 * RATE + round(TAIL * RATE)
    before = power(np.arctanh(sound[:begins]))
    assert 10 * np.log10(LEVEL**2 / before) == pytest.approx(snr, abs=1.5)
    tail = power(
        np.arctanh(sound[begins + 2 * RATE :])
    )  # the carrier is gone, the squelch still open
    assert np.sqrt(tail) == pytest.approx(LEVEL, rel=0.2)
    again, _ = transmission(tone, 22_050, snr, 1)
    other, _ = transmission(tone, 22_050, snr, 2)
    assert (sound == again).all() and not (sound == other).all()


def test_a_dialogue_is_spoken_with_its_timings(
    tone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "call.txt").write_text(CALL)
    out = tmp_path / "sound"
    args = [str(tmp_path / "call.txt"), "--out", str(out), "--engine", tone, "--snr", "30"]
    assert main(APP, args) == 0 and NOTICE in capsys.readouterr().out
    known = json.loads((out / "call.json").read_text())
    assert known["notice"] == NOTICE and known["file"] == "call.wav"
    assert [t["speaker"] for t in known["turns"]] == ["notice", "ship", "coast"]
    assert known["turns"][0]["text"] == SPOKEN_NOTICE and known["turns"][1]["text"].startswith(
        "Mayday, Mayday"
    )
    sound = heard(out / "call.wav")
    assert len(sound) / RATE == pytest.approx(known["seconds"], abs=0.01)
    for turn in known["turns"]:
        assert turn["end"] - turn["start"] == pytest.approx(
            len(turn["text"].split()) / 10, abs=0.01
        )
        said = sound[round(turn["start"] * RATE) : round(turn["end"] * RATE)]
        assert share(said, 990, 1010) > 0.95
    for one, two in zip(known["turns"], known["turns"][1:], strict=False):
        between = sound[round(one["end"] * RATE) : round(two["start"] * RATE)]
        assert len(between) > RATE / 2 and (between == 0).sum() > RATE / 2  # the squelch is closed
    noted = (tmp_path / "tone.py.log").read_text().splitlines()
    assert (
        len(noted) == 3 and len({line.split()[0] for line in noted}) == 3
    )  # each station has its voice


def test_what_is_there_is_kept_until_something_changes(tone: str, tmp_path: Path) -> None:
    lines = [
        {"id": f"a/{n}", "turns": [{"speaker": "ship", "text": f"Radio check {n}. Over."}]}
        for n in range(2)
    ]
    file, out, log = tmp_path / "two.jsonl", tmp_path / "sound", tmp_path / "tone.py.log"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    args = [str(file), "--out", str(out), "--engine", tone]
    main(APP, args)
    first = {p.name: p.read_bytes() for p in out.iterdir()}
    assert (
        set(first) == {"a_0.wav", "a_0.json", "a_1.wav", "a_1.json"}
        and len(log.read_text().splitlines()) == 4
    )
    (out / "a_1.json").unlink()  # a run that was stopped in between
    main(APP, args)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == first and len(
        log.read_text().splitlines()
    ) == 6
    main(APP, [*args, "--snr", "3"])
    assert len(log.read_text().splitlines()) == 10
    file.write_text((json.dumps(lines[0]) + "\n") * 2)
    with pytest.raises(GraftError, match="line 2: id a/0 comes twice"):
        main(APP, args)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("fails", "ended with 1: no voice of that name"),
        ("nothing", "wrote no WAV file"),
        ("empty", "without sound"),
        ("bytes", "wrote 8 bits"),
    ],
)
def test_an_engine_that_fails_is_told(mode: str, reason: str, tone: str, tmp_path: Path) -> None:
    (tmp_path / "call.txt").write_text(CALL)
    with pytest.raises(GraftError, match=reason):
        main(
            APP,
            [
                str(tmp_path / "call.txt"),
                "--out",
                str(tmp_path),
                "--engine",
                tone.replace("plain", mode),
            ],
        )
    assert not list(tmp_path.glob("*.json"))


def test_an_engine_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        GraftError, match=r"espeak-ng is not installed; apt-get install espeak-ng, or name another"
    ):
        Engine()
    with pytest.raises(GraftError, match="mytts is not installed; check the command"):
        Engine("mytts {out}")
    with pytest.raises(GraftError, match="choose one of espeak-ng, espeak, or a command"):
        Engine("festival")
    with pytest.raises(GraftError, match="check its quotes"):
        Engine("'{out}")
    for more, reason in ((["--snr", "nan"], "--snr nan"), (["--speed", "0"], "--speed 0")):
        with pytest.raises(GraftError, match=reason):
            main(APP, ["x.txt", "--out", "y", *more])
