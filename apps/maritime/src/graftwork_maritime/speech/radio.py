"""What a VHF channel does to a voice: the voice band, noise, and the squelch that opens and closes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 16_000  # samples a second of what is written
LOW, HIGH = 300.0, 3000.0  # Hz, the band of voice in the maritime service
EDGE = 60.0  # Hz over which the band's edges fall, outwards
OPENS, TAIL, PAUSE = (
    0.08,
    0.15,
    0.6,
)  # seconds: noise before the voice and after it, silence between transmissions
LEVEL = 0.2  # root mean square of a voice, of full scale 1
Sound = NDArray[np.float64]


def band(sound: Sound, rate: int) -> Sound:
    """The voice band alone, without delay. `sound` (samples,) at `rate` Hz."""
    size = len(sound) + rate // 10  # room, so that the end does not ring into the beginning
    spectrum = np.fft.rfft(sound, size)
    hertz = np.fft.rfftfreq(size, 1 / rate)
    rise = np.clip((hertz - (LOW - EDGE)) / EDGE, 0, 1)
    fall = np.clip((HIGH + EDGE - hertz) / EDGE, 0, 1)
    kept: Sound = np.fft.irfft(spectrum * rise * fall, size)[: len(sound)]
    return kept


def at_rate(sound: Sound, rate: int) -> Sound:
    """The same at `RATE`; `sound` holds nothing above half of either rate, as after `band`."""
    count = round(len(sound) * RATE / rate)
    return np.interp(np.arange(count) / RATE, np.arange(len(sound)) / rate, sound)


def transmission(voice: Sound, rate: int, snr: float, seed: int) -> tuple[Sound, int]:
    """A voice as it is received, (samples,) at `RATE`, and the sample at which it begins.

    Args:
        voice: (samples,) at `rate` Hz, any level.
        rate: at least 8000 Hz.
        snr: voice above noise in dB, both in the band.
        seed: of the noise.
    """
    clean = at_rate(band(voice, rate), rate)
    power = float(np.sqrt(np.mean(clean**2)))
    clean = clean * (LEVEL / power) if power > 0 else clean
    opens, tail = round(OPENS * RATE), round(TAIL * RATE)
    noise = band(np.random.default_rng(seed).standard_normal(opens + len(clean) + tail), RATE)
    noise *= LEVEL / float(np.sqrt(np.mean(noise**2)))
    gain = np.full(len(noise), 10 ** (-snr / 20))
    gain[opens + len(clean) :] = (
        1  # without a carrier the receiver hears noise, until the squelch closes
    )
    received = noise * gain
    received[opens : opens + len(clean)] += clean
    return np.tanh(received), opens


def pause() -> Sound:
    """The squelch is closed."""
    return np.zeros(round(PAUSE * RATE))
