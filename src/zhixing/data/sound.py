"""Sounds become frames: log-mel energies for trained models, cepstra for templates, a frame every 10 ms.

Frames are normalised within an utterance, so that loudness and, in part, the microphone do not matter: each channel has mean 0, and all of
them together have deviation 1, where somebody speaks. Nothing is drawn at random here.
Source: Davis and Mermelstein 1980 (cepstra on the mel scale); the arithmetic is Kaldi's, by kaldi-native-fbank, without dither and with as
many frames as begin within the sound. Leaves out: pitch, microphones of several channels.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import numpy as np

from zhixing.core.errors import DataError, UsageError
from zhixing.data import media

BINS = 40  # mel channels of a frame: at 8 kHz a filter still spans several lines of the spectrum
CEPSTRA = 13
FRAME_MS, SHIFT_MS = 25.0, 10.0
FRAMES_A_SECOND = 1000.0 / SHIFT_MS
STRIDE = 2  # frames that become one state of an acoustic model, unless it is told otherwise
SLOPE_FRAMES = 2  # on each side, from which the slope of a cepstrum is taken
FULL_SCALE = 32768.0  # Kaldi reads samples as 16-bit numbers
LEAST_DEVIATION = 1e-3
# Nats of energy below the loudest, 43 dB, below which all is quiet. Single digits of two unseen speakers, right of all, after nine passes:
# 0.864 so, 0.834 with the mean of all frames, 0.800 without a mean of each channel; with 24 channels instead of 40 0.854.
RANGE = 10.0
# Of Whisper's frames: powers below the first count as that, energies further below a sound's loudest than the second, in powers of ten, as
# that far below; and from where the mel scale, which begins as a line, is a logarithm: Hz, and mels above it for each doubling's logarithm.
LEAST_POWER, DECADES = 1e-10, 8.0
BREAK_HZ, LINE_HZ, LOG_STEP = 1000.0, 200.0 / 3, math.log(6.4) / 27


def features() -> Any:
    """Import the library of features; raises UsageError with what to install when it is missing."""
    try:
        return importlib.import_module("kaldi_native_fbank")
    except ImportError as missing:
        raise UsageError("extra.missing", package="kaldi-native-fbank", extra="hear") from missing


def read(url: str) -> tuple[np.ndarray, int]:
    """Give the samples of a sound's data URL, and how many of them make a second.

    return  (N,) float32, and the rate in Hz

    Raises DataError for a sound that cannot be read.
    """
    try:
        return media.sound(media.content_of(url))
    except media.Unreadable as problem:
        raise DataError("sound.unreadable", reason=str(problem)) from None


def resample(samples: np.ndarray, given: int, wanted: int, raised: bool = False) -> np.ndarray:
    """Bring samples to a lower rate; what lies above its half is filtered out.

    samples  (N,) float
    raised   to a higher one as well, with nothing above the half of the given one: for a model that has heard such sounds
    return   (N,) float32

    Raises DataError for a rate below the wanted one, where it is not to be raised: what was not recorded cannot be made up; UsageError
    where SciPy is missing.
    """
    if given < wanted and not raised:
        raise DataError("sound.rate", given=given, wanted=wanted)
    if given == wanted:
        return np.asarray(samples, np.float32)
    try:
        from scipy.signal import resample_poly
    except ImportError as missing:
        raise UsageError("extra.missing", package="scipy", extra="hear") from missing
    common = math.gcd(given, wanted)
    return resample_poly(samples, wanted // common, given // common).astype(np.float32)


def _options(made: Any, rate: int) -> Any:
    made.frame_opts.samp_freq = rate
    made.frame_opts.dither = 0.0
    made.frame_opts.snip_edges = False
    made.frame_opts.frame_length_ms, made.frame_opts.frame_shift_ms = FRAME_MS, SHIFT_MS
    return made


def _frames(extractor: Any, samples: np.ndarray, rate: int) -> np.ndarray:
    extractor.accept_waveform(rate, np.asarray(samples, np.float32) * FULL_SCALE)
    extractor.input_finished()
    count = extractor.num_frames_ready
    return np.stack([extractor.get_frame(each) for each in range(count)]).astype(np.float32) if count else np.zeros((0, 1), np.float32)


def log_mel(samples: np.ndarray, rate: int, bins: int = BINS) -> np.ndarray:
    """Give the logarithm of the energy in each channel of the mel scale, frame by frame.

    samples  (N,) float in -1 .. 1
    rate     Hz
    return   (F, C) float32, C = bins

    Raises DataError for a sound that is too short for one frame.
    """
    library = features()
    options = _options(library.FbankOptions(), rate)
    options.mel_opts.num_bins = bins
    found = _frames(library.OnlineFbank(options), samples, rate)
    if not len(found):
        raise DataError("sound.no_frame", samples=len(samples), rate=rate)
    return found


@functools.lru_cache(4)
def triangles(rate: int, size: int, bins: int) -> np.ndarray:
    """Give the filters of Slaney's mel scale, from 0 to half the rate, each of area one.

    rate    Hz
    size    int, samples    of a window
    return  (C, K) float64, C = bins, K = size // 2 + 1 lines of the spectrum
    """

    def hz(mels: np.ndarray) -> np.ndarray:
        return np.where(mels < BREAK_HZ / LINE_HZ, mels * LINE_HZ, BREAK_HZ * np.exp(LOG_STEP * (mels - BREAK_HZ / LINE_HZ)))

    top = rate / 2 / LINE_HZ if rate / 2 < BREAK_HZ else BREAK_HZ / LINE_HZ + math.log(rate / 2 / BREAK_HZ) / LOG_STEP
    edges = hz(np.linspace(0.0, top, bins + 2))  # (N,)
    lines = np.fft.rfftfreq(size, 1 / rate)  # (K,)
    rising = (lines - edges[:-2, None]) / np.diff(edges)[:-1, None]  # (C, K)
    falling = (edges[2:, None] - lines) / np.diff(edges)[1:, None]  # (C, K)
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def whisper_frames(samples: np.ndarray, rate: int, bins: int, seconds: float) -> np.ndarray:
    """Give the frames that Whisper reads, 100 a second, of a sound that silence fills up to a length; what is longer is cut.

    samples  (N,) float in -1 .. 1
    rate     Hz
    return   (F, C) float32, C = bins

    Source: Radford et al. 2022, section 2.2; as in its program.
    """
    size, hop = rate * int(FRAME_MS) // 1000, rate * int(SHIFT_MS) // 1000
    whole = np.zeros(round(seconds * rate), np.float32)  # (N,)
    whole[: len(samples)] = samples[: len(whole)]
    around = np.pad(whole, size // 2, "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(around, size)[: hop * (len(whole) // hop) : hop]  # (F, N)
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)
    powers = np.square(np.abs(np.fft.rfft(windows * hann)))  # (F, K)
    decades = np.log10(np.maximum(powers @ triangles(rate, size, bins).T, LEAST_POWER))  # (F, C)
    return ((np.maximum(decades, decades.max() - DECADES) + 4) / 4).astype(np.float32)


def mfcc(samples: np.ndarray, rate: int, cepstra: int = CEPSTRA) -> np.ndarray:
    """Give cepstra on the mel scale and their slopes over time, both normalised within the utterance.

    samples  (N,) float in -1 .. 1
    return   (F, C) float32, C = 2 cepstra

    Raises DataError for a sound that is too short for one frame.
    """
    library = features()
    options = _options(library.MfccOptions(), rate)
    options.num_ceps = cepstra
    found = _frames(library.OnlineMfcc(options), samples, rate)
    if not len(found):
        raise DataError("sound.no_frame", samples=len(samples), rate=rate)
    around = np.pad(found, ((SLOPE_FRAMES, SLOPE_FRAMES), (0, 0)), "edge")
    steps = range(-SLOPE_FRAMES, SLOPE_FRAMES + 1)
    slopes = sum(step * around[SLOPE_FRAMES + step : SLOPE_FRAMES + step + len(found)] for step in steps)  # (F, C)
    both = np.concatenate([found, slopes / sum(step * step for step in steps)], 1)  # (F, C)
    centred = both - both.mean(0)
    return (centred / np.maximum(centred.std(0), LEAST_DEVIATION)).astype(np.float32)


def normalise(frames: np.ndarray) -> np.ndarray:
    """Give each channel mean 0, and all of them together deviation 1, over the louder half of the frames.

    What lies far below the loudest energy is raised to one floor: how quiet the quiet is, and how long, says nothing of words.

    frames  (F, C) float
    return  (F, C) float32
    """
    raised = np.maximum(frames, frames.max() - RANGE)  # (F, C)
    levels = raised.mean(1)  # (F,)
    loud = raised[levels >= np.median(levels[levels > levels.max() - RANGE / 2])]
    return ((raised - loud.mean(0)) / max(float((loud - loud.mean(0)).std()), LEAST_DEVIATION)).astype(np.float32)
