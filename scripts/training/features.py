"""What a network hears of a sound: energies in bands of the mel scale, and their cosine transform."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.fft import dct

from training.speech import RATE

_FLOOR = 1e-6  # energy that is added to every band: silence


def log_mel(sound: np.ndarray, window: int, hop: int, bands: int) -> np.ndarray:
    """Natural logarithms of the energies (frames, bands); ``window`` and ``hop`` in samples."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[::hop]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(window))))
    return np.log(power @ _filters(window, bands) + _FLOOR)


def mel_cepstrum(sound: np.ndarray, window: int, hop: int, bands: int, coefficients: int) -> np.ndarray:
    """The first coefficients (frames, coefficients) of the orthonormal cosine transform of `log_mel`."""
    return dct(log_mel(sound, window, hop, bands), axis=1, norm="ortho")[:, :coefficients]


@cache
def _filters(window: int, bands: int) -> np.ndarray:
    """Triangles (window // 2 + 1, bands) that are evenly spaced on the mel scale up to half of the rate."""
    mel_limit = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, mel_limit, bands + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(window, 1 / RATE)[:, np.newaxis]
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    return np.maximum(0, np.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle)))
