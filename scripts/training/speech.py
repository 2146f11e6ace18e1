"""Spoken words by a synthesiser (espeak-ng), in many voices.

A voice is an accent of English with a variant of the synthesiser's voice. A sound is a float32 array of one second at
16 kHz, values -1..1.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import resample_poly

RATE = 16_000
"""Samples per second, and per sound."""

_SYNTHESISER = "espeak-ng"
_ACCENTS = ("gmw/en", "gmw/en-US", "gmw/en-GB-scotland", "gmw/en-GB-x-gbclan", "gmw/en-GB-x-rp", "gmw/en-029")

TRAINED_VARIANTS = (
    *("f1", "f2", "f3", "m1", "m2", "m3", "m4", "m5", "Alex", "Andrea", "Annie", "Diogo", "Gene", "Henrique", "Hugo"),
    *("Jacky", "Lee", "Marco", "Mario", "Mike", "Storm", "adam", "anika", "announcer", "aunty", "belinda", "benjamin"),
    *("boris", "caleb", "david", "ed", "edward", "grandma", "gustave", "iven", "iven2", "john", "kaukovalta", "klatt"),
    *("klatt2", "klatt3", "klatt4", "linda", "marcelo", "max", "michel", "miguel", "norbert", "pablo", "paul"),
)
HELD_OUT_VARIANTS = (
    *("f4", "f5", "m6", "m7", "m8", "Alicia", "Andy", "Denis", "Michael", "antonio", "grandpa", "iven3", "klatt5"),
    *("pedro", "quincy", "rob", "sandro", "shelby", "steph", "travis", "victor", "zac"),
)


@dataclass(frozen=True)
class Voice:
    """How a word is spoken: the synthesiser's voice, its speed in words per minute and its pitch from 0 to 99."""

    accent: str
    variant: str
    speed: int
    pitch: int


def draw_voice(rng: np.random.RandomState, variants: Sequence[str]) -> Voice:
    """A random voice of one of the variants."""
    accent, variant = rng.choice(_ACCENTS), rng.choice(variants)
    return Voice(str(accent), str(variant), int(rng.randint(120, 220)), int(rng.randint(25, 76)))


def speak(word: str, voice: Voice, rng: np.random.RandomState) -> np.ndarray:
    """A word at a random place of a second of silence, its loudest sample at a random level of 0.3 to 0.9."""
    spoken = _synthesise(word, voice)[:RATE]
    sound = np.zeros(RATE, np.float32)
    start = rng.randint(RATE - len(spoken) + 1)
    sound[start : start + len(spoken)] = spoken * (rng.uniform(0.3, 0.9) / max(float(np.abs(spoken).max()), 1e-6))
    return sound


def noise(rng: np.random.RandomState, decibels: float) -> np.ndarray:
    """A second of noise whose spectrum falls by a random power of the frequency, of a root mean square in decibels."""
    spectrum = np.fft.rfft(rng.normal(size=RATE))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** rng.uniform(0, 1)
    spectrum[0] = 0
    sound = np.fft.irfft(spectrum, RATE)
    return (sound * 10 ** (decibels / 20) / np.sqrt(np.mean(np.square(sound)))).astype(np.float32)


def check_synthesiser() -> None:
    """Raises `FileNotFoundError` with a remedy if the synthesiser is not installed."""
    if shutil.which(_SYNTHESISER) is None:
        raise FileNotFoundError(f"{_SYNTHESISER} speaks the keywords, but is missing: apt-get install {_SYNTHESISER}")


def _synthesise(word: str, voice: Voice) -> np.ndarray:
    """The word without the silence around it."""
    arguments = ["-v", f"{voice.accent}+{voice.variant}", "-s", str(voice.speed), "-p", str(voice.pitch), "--stdout"]
    output = subprocess.run([_SYNTHESISER, *arguments, word], check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(output)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(len(output)), np.int16).astype(np.float32) / 32768
    common = int(np.gcd(rate, RATE))
    sound = resample_poly(samples, RATE // common, rate // common).astype(np.float32)
    loud = np.flatnonzero(np.abs(sound) > 0.01 * max(float(np.abs(sound).max()), 1e-6))
    return sound[loud[0] : loud[-1] + 1] if len(loud) else sound
