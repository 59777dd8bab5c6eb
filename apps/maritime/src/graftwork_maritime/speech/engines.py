"""Speech engines: a program that gets text on its standard input and writes a WAV file."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graftwork.errors import GraftError

from .radio import Sound

KNOWN = {
    "espeak-ng": "espeak-ng -v {voice} -s {speed} -p {pitch} -w {out} --stdin",
    "espeak": "espeak -v {voice} -s {speed} -p {pitch} -w {out} --stdin",
}
SECONDS = 120  # that one turn may take
SLOTS = ("{voice}", "{speed}", "{pitch}", "{out}")


@dataclass(frozen=True)
class Engine:
    """A speech engine.

    Args:
        name: of `KNOWN`, or a command with {out}, and {voice}, {speed} (words a minute) and {pitch} (0 to 99) where it
            takes them.

    Raises GraftError for a program that is not installed, or a command without {out}.
    """

    name: str = "espeak-ng"

    def __post_init__(self) -> None:
        known = ", ".join(KNOWN)
        if "{out}" not in self.command:
            raise GraftError(
                f"--engine {self.name}: choose one of {known}, or a command of yours that reads text and writes "
                "{out}, such as 'mytts --wav {out}'"
            )
        try:
            program = shlex.split(self.command)[0]
        except (ValueError, IndexError) as error:
            raise GraftError(
                f"--engine {self.name}: no command ({error}); check its quotes"
            ) from None
        if shutil.which(program) is None:
            hint = f"apt-get install {program}" if self.name in KNOWN else "check the command"
            raise GraftError(
                f"--engine {self.name}: {program} is not installed; {hint}, or name another engine"
            )

    @property
    def command(self) -> str:
        """With its slots."""
        return KNOWN.get(self.name, self.name)

    def speak(self, text: str, voice: str, speed: int, pitch: int) -> tuple[Sound, int]:
        """The samples (count,) of a text, from -1 to 1, and their rate in Hz.

        Raises GraftError when the program fails, or writes nothing that can be heard.
        """
        with tempfile.TemporaryDirectory(prefix="maritime-say-") as folder:
            out = Path(folder, "turn.wav")
            given = dict(zip(SLOTS, (voice, str(speed), str(pitch), str(out)), strict=True))
            words = [_filled(word, given) for word in shlex.split(self.command)]
            try:
                done = subprocess.run(
                    words, input=text.encode(), capture_output=True, timeout=SECONDS, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise GraftError(
                    f"--engine {self.name}: {type(error).__name__} with {text[:40]!r}"
                ) from None
            if done.returncode:
                last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [
                    "no message"
                ]
                raise GraftError(f"--engine {self.name}: ended with {done.returncode}: {last[0]}")
            return _read(out, self.name)


def _filled(word: str, given: dict[str, str]) -> str:
    for slot, value in given.items():
        word = word.replace(slot, value)
    return word


def _read(path: Path, name: str) -> tuple[Sound, int]:
    try:
        with wave.open(str(path)) as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, wave.Error, EOFError) as error:
        raise GraftError(f"--engine {name}: wrote no WAV file ({error})") from None
    if width != 2 or rate < 8000:
        raise GraftError(
            f"--engine {name}: wrote {8 * width} bits at {rate} Hz; 16 bits at 8000 Hz or more are read"
        )
    sound = (
        np.frombuffer(data[: len(data) // (2 * channels) * 2 * channels], "<i2")
        .reshape(-1, channels)
        .mean(1)
    )
    if not len(sound) or not sound.any():
        raise GraftError(f"--engine {name}: wrote a WAV file without sound")
    return sound / 2**15, rate
