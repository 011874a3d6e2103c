"""Other voices for `hear.py`: what a recording would be, said by somebody else, elsewhere, into another microphone; and machines' voices.

Somebody is drawn for a whole string, for it is by a string's other words that a listener knows what is usual in it: how high and how fast
he speaks, how long his vocal tract is, his room, his microphone, and whether it lets quiet sounds through. Each word varies in pitch a
little, in pace as much again.
Source: Flanagan and Golden 1966 (phase vocoder); Oppenheim and Schafer 1968 (envelope by the cepstrum); Jaitly and Hinton 2013 (lengths of
the vocal tract). Machines' voices are those of espeak-ng and flite, where these programs are installed.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy.signal import fftconvolve, lfilter, resample_poly

from zhixing.data.sound import resample

RATE = 8000
WINDOW, HOP = 256, 64  # samples, of the spectra
QUEFRENCY = 20  # samples: the envelope is what changes more slowly over frequency; a voice of 400 Hz has its first peak there
MOST = 3.5  # nats by which an envelope is raised or lowered at a frequency, at most
FINEST = 40  # the largest denominator of a change of pitch
# What is drawn for somebody, evenly in the logarithm: times as high a voice, as high resonances (a shorter vocal tract), as long words.
PITCH, FORMANTS, SLOW = (0.75, 1.45), (0.84, 1.19), (0.75, 1.33)
# The same for each of his words beside that.
OWN_PITCH, OWN_FORMANTS, OWN_SLOW = (0.95, 1.05), (0.98, 1.02), (0.75, 1.33)
GAIN = 12.0  # decibels by which a word is louder or quieter, at most
TILT = 0.5  # of the microphone: how much of each sample is added to the next, at most, or taken off it
OPENS, SHARE_OPENS = (20.0, 45.0), 0.5  # decibels below the loudest from which on sound is recorded; how many record so
# Echo: seconds, in how many rooms, its size beside what is heard straight, and how dull it is at most. The tail of a vowel in a room passes
# for a voiced end: while developing, george's "four" was heard as "five" 45 times where few rooms had echoes, short ones, 13 times after.
ROOM, SHARE_ROOM, ECHO, DULL = (0.1, 0.5), 0.6, (0.1, 0.8), 0.9
DECIBELS, SHARE_NOISY = (8.0, 45.0), 0.9  # of a string over the noise under it
COLOUR = 0.95  # of that noise: how much of a sample stays in the next, at most
LEAST = 640  # samples that a word keeps when its quiet ends are cut
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
NO_VOICES = ("Mr", "Demonic", "Storm", "UniRobot", "Tweaky", "anikaRobot", "whisper", "whisperf", "croak")
HUMAN_MADE = ("kal", "awb", "rms", "slt")  # voices of flite
QUIET = 1e-4  # of the loudest 10 ms: less at the ends of a machine's word is cut off


def between(source: np.random.Generator, ends: tuple[float, float]) -> float:
    """Draw a factor, evenly in its logarithm."""
    return float(np.exp(source.uniform(*np.log(ends))))


def said(sound: np.ndarray, pitch: float, formants: float, longer: float) -> np.ndarray:
    """Say a sound with another pitch, another length of the vocal tract, and faster or more slowly: each apart from the others.

    Not wholly: lowered in pitch, a sound has little left in the highest part of the band, as from a worse microphone. One that is too
    short for three spectra stays as it is.

    sound     (N,) float, a second has 8,000
    pitch     times as high; formants: times as high are the resonances; longer: times as long is it
    return    (N',) float32
    """
    speed = Fraction(1 / pitch).limit_denominator(FINEST)
    sound = np.asarray(sound, np.float64)
    raised = sound if speed == 1 else resample_poly(sound, speed.numerator, speed.denominator)
    shape = np.hanning(WINDOW + 1)[:WINDOW]
    padded = np.pad(raised, WINDOW // 2)
    if len(padded) < WINDOW + 2 * HOP:
        return sound.astype(np.float32)
    spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * shape)  # (F, C)
    spectra = spectra * np.exp(np.clip(moved(spectra, 1 / float(speed) / formants), -MOST, MOST))
    places = np.arange(0, len(spectra) - 1, len(raised) / (longer * len(sound)))
    low = places.astype(int)
    share = (places - low)[:, None]
    sizes = np.abs(spectra[low]) * (1 - share) + np.abs(spectra[low + 1]) * share
    usual = 2 * np.pi * HOP * np.arange(spectra.shape[1]) / WINDOW  # by which a phase goes on from frame to frame
    more = np.angle(spectra[low + 1]) - np.angle(spectra[low]) - usual
    steps = usual + more - 2 * np.pi * np.round(more / (2 * np.pi))
    phases = np.angle(spectra[0]) + np.concatenate([np.zeros((1, len(usual))), np.cumsum(steps[:-1], 0)])
    made, weight = np.zeros(HOP * len(places) + WINDOW), np.zeros(HOP * len(places) + WINDOW)
    for number, frame in enumerate(np.fft.irfft(sizes * np.exp(1j * phases))):
        made[number * HOP : number * HOP + WINDOW] += frame * shape
        weight[number * HOP : number * HOP + WINDOW] += shape**2
    return (made / np.maximum(weight, 0.1))[WINDOW // 2 : -WINDOW // 2].astype(np.float32)


def moved(spectra: np.ndarray, ratio: float) -> np.ndarray:
    """Give by how much each line changes when the envelope's frequencies are divided by a ratio: (F, C) float, nats, of (F, C) complex."""
    sizes = np.abs(spectra)
    cepstra = np.fft.irfft(np.log(sizes + 1e-5 * sizes.max() + 1e-12))
    cepstra[:, QUEFRENCY : -QUEFRENCY + 1] = 0
    envelope = np.fft.rfft(cepstra).real  # (F, C)
    places = np.clip(np.arange(envelope.shape[1]) * ratio, 0, envelope.shape[1] - 1)
    low = places.astype(int).clip(max=envelope.shape[1] - 2)
    return envelope[:, low] * (1 - places + low) + envelope[:, low + 1] * (places - low) - envelope


@dataclass(frozen=True)
class Someone:
    """Who speaks, and into what.

    pitch, formants, slow   float     factors
    tilt                    float     of the microphone
    opens                   float     decibels below the loudest that it hears; infinite: all
    echo                    (N,)      of the room, what is heard straight first
    """

    pitch: float
    formants: float
    slow: float
    tilt: float
    opens: float
    echo: np.ndarray

    @classmethod
    def draw(cls, source: np.random.Generator) -> Someone:
        """Draw somebody."""
        factors = [between(source, each) for each in (PITCH, FORMANTS, SLOW)]
        tilt, opens = source.uniform(-TILT, TILT), source.uniform(*OPENS) if source.random() < SHARE_OPENS else np.inf
        echo = np.ones(1)
        if source.random() < SHARE_ROOM:
            place = np.arange(int(source.uniform(*ROOM) * RATE))
            late = lfilter([1], [1, -source.uniform(0, DULL)], source.normal(0, 1, len(place))) * 1000.0 ** (-place / len(place))
            echo = late * source.uniform(*ECHO) / np.sqrt(np.square(late).sum())
            echo[0] = 1
        return cls(*factors, tilt, opens, echo)

    def say(self, sound: np.ndarray, source: np.random.Generator) -> np.ndarray:
        """Say a word.

        sound   (N,) float
        return  (N',) float32
        """
        if np.isfinite(self.opens):
            sound = cut(sound, *(self.opens + source.uniform(-5, 5, 2)))
        own = [between(source, each) for each in (OWN_PITCH, OWN_FORMANTS, OWN_SLOW)]
        sound = said(sound, self.pitch * own[0], self.formants * own[1], self.slow * own[2])
        return (sound * 10 ** (source.uniform(-GAIN, GAIN) / 20)).astype(np.float32)

    def recorded(self, string: np.ndarray) -> np.ndarray:
        """Give a string of his words as his room and his microphone make it.

        string  (N,) float
        return  (N,) float32
        """
        heard = string if len(self.echo) == 1 else fftconvolve(string, self.echo)[: len(string)]
        return (heard + self.tilt * np.concatenate([[0], heard[:-1]])).astype(np.float32)


def cut(sound: np.ndarray, before: float, after: float) -> np.ndarray:
    """Leave out what is quieter, at the beginning and at the end, than so many decibels below the loudest."""
    frames = len(sound) // 80
    if frames < 10:
        return sound
    levels = 10 * np.log10(np.square(sound[: frames * 80].reshape(-1, 80)).mean(1) + 1e-12)
    first = np.flatnonzero(levels > levels.max() - before)[0] * 80
    last = (np.flatnonzero(levels > levels.max() - after)[-1] + 1) * 80
    return sound[first:last] if last - first >= LEAST else sound


def noise(sound: np.ndarray, source: np.random.Generator) -> np.ndarray:
    """Draw noise that lies under a string, of some colour: (N,) float; now and then none."""
    if source.random() >= SHARE_NOISY:
        return np.zeros(len(sound))
    made = lfilter([1], [1, -source.uniform(-COLOUR, COLOUR)], source.normal(0, 1, len(sound)))
    size = np.sqrt(np.mean(np.square(sound)) / np.mean(np.square(made)))
    return made * size * 10 ** (-source.uniform(*DECIBELS) / 20)


def machines(words: list[str]) -> list[dict[str, Any]]:
    """Let machines say words, each twice: rows like those of recordings, with their samples; none where there are no such programs."""
    source, found = np.random.default_rng(1), []
    if shutil.which("espeak-ng"):
        listed = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True, check=True).stdout.split()
        names = [each[3:] for each in listed if each.startswith("!v/")]
        for name in [each for each in names if each not in NO_VOICES and "robo" not in each]:
            for accent in source.choice(ACCENTS, 2, replace=False):
                pitch = str(source.integers(25, 75))
                for word in words:
                    for speed in source.integers((110, 150), (150, 200)):
                        told = ["espeak-ng", "-v", f"{accent}+{name}", "-p", pitch, "-s", str(speed), "--stdout", word]
                        made = subprocess.run(told, capture_output=True, check=True).stdout
                        found.append(machine(f"espeak-ng {accent} {name}", word, *soundfile.read(io.BytesIO(made))))
    if shutil.which("flite"):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "word.wav"
            for name in HUMAN_MADE:
                for word in words:
                    for slow in (0.9, 1.2):
                        told = ["flite", "-voice", name, "--setf", f"duration_stretch={slow}", "-t", word, "-o", str(path)]
                        subprocess.run(told, capture_output=True, check=True)
                        found.append(machine(f"flite {name}", word, *soundfile.read(path)))
    return [each for each in found if len(each["samples"]) >= LEAST]


def machine(name: str, word: str, sound: np.ndarray, rate: int) -> dict[str, Any]:
    """Make a row of what a machine said, without the silence around it."""
    decibels = -10 * np.log10(QUIET)
    return {"speaker": name, "text": word, "samples": cut(resample(sound, rate, RATE), decibels, decibels)}
