"""Who stands in a synthetic portrait: every random choice about person, moment and light.

Colors are RGB in [0, 255]; lengths are offsets in units of the image side; angles are radians.
"""
from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np


class Dice:
    """A stream of random draws that depends on (seed, index) only.

    Attributes:
        rng: for whole arrays; it draws from the same stream.
    """

    def __init__(self, seed: int, index: int) -> None:
        entropy = [seed, index]
        if max(entropy) < 1 << 32:          # the same stream, sooner
            entropy = np.array(entropy, np.uint32)
        self.rng = np.random.Generator(np.random.PCG64(entropy))
        # One by one the draws would cost as much as the drawing.
        self._values = chain.from_iterable(iter(lambda: self.rng.random(256).tolist(), None))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * next(self._values)

    def bell(self, width: float) -> float:
        """Near-normal draw around 0 within [-width, width]; standard deviation width / 3."""
        draw = self._values
        return width * (2.0 * (next(draw) + next(draw) + next(draw)) - 3.0) / 3

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return next(self._values) < probability

    def pick(self, weights: dict[str, float]) -> str:
        """One of the keys, each as often as its weight says."""
        mark = next(self._values) * sum(weights.values())
        for name, weight in weights.items():
            mark -= weight
            if mark < 0:
                return name
        return name


class Traits(NamedTuple):
    """Everything random about one person and one moment, except the image's noise.

    Factors are around 1, offsets around 0 in units of the image side, angles in radians, amounts
    in [0, 1], colors RGB in [0, 255]. `lips` are factors of the skin's color; `smile` goes from
    -0.5 to 1, `beard` from none over stubble (0.2) to full (0.55); `hair_length` counts the control
    points of the hair's edges (4 the ears, 6 the chin, 8 out of the image); `part` is the x of
    the parting; an empty string means that nothing is worn.
    """

    feminine: float
    age: float
    face_width: float
    jaw_width: float
    chin: float
    eye_size: float
    eye_height: float
    slant: float
    spacing: float
    nose_width: float
    nose_length: float
    nose_height: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    brow_height: float
    brow_arch: float
    brow_tilt: float
    brow_width: float
    ear_size: float
    neck_width: float
    smile: float
    mouth_open: float
    brow_raise: float
    openness: float
    gaze: tuple[float, float]
    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: complex
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    makeup: float
    freckles: bool
    beard: float
    style: str
    hair_length: float
    volume: float
    wave: float
    part: float
    sweep: float
    hairline: float
    bangs: bool
    tucked: bool
    glasses: str
    hat: str
    earring: str
    necklace: str
    collar: str


# Middle, spread, and what Traits.feminine and Traits.age add, of traits that are plain numbers.
_NUMBERS = {
    "face_width": (1.0, 0.15, -0.02, 0.0), "jaw_width": (1.05, 0.2, -0.1, 0.0),
    "chin": (0.0, 0.05, -0.015, 0.0), "eye_size": (1.0, 0.2, 0.06, 0.0),
    "eye_height": (1.1, 0.3, 0.1, 0.0), "slant": (0.0, 0.16, 0.0, 0.0),
    "spacing": (0.0, 0.012, 0.0, 0.0), "nose_width": (1.08, 0.3, -0.14, 0.0),
    "nose_length": (0.0, 0.03, 0.0, 0.0), "nose_height": (1.0, 0.5, 0.0, 0.0),
    "mouth_width": (1.0, 0.16, 0.0, 0.0), "upper_lip": (1.05, 0.6, 0.25, -0.25),
    "lower_lip": (0.95, 0.5, 0.2, -0.2), "brow_height": (0.0, 0.016, -0.008, 0.0),
    "brow_arch": (0.006, 0.014, 0.006, 0.0), "brow_tilt": (0.0, 0.015, 0.0, 0.0),
    "brow_width": (1.25, 0.6, -0.4, 0.0), "ear_size": (1.0, 0.25, 0.0, 0.0),
    "neck_width": (1.05, 0.16, -0.17, 0.0), "yaw": (0.0, 0.5, 0.0, 0.0),
    "pitch": (0.0, 0.3, 0.0, 0.0), "roll": (0.0, 0.12, 0.0, 0.0), "zoom": (1.0, 0.06, 0.0, 0.0),
}
_SPREAD = np.array(list(_NUMBERS.values()))
_SKIN = np.array([[234, 192, 166], [227, 180, 150], [217, 167, 134], [204, 150, 112],
                  [170, 117, 82], [130, 87, 61], [98, 65, 48]], dtype=float)
_HAIR = {
    "black": (34, 29, 28), "espresso": (58, 41, 32), "brown": (94, 63, 42),
    "chestnut": (122, 74, 44), "dark blond": (156, 120, 80), "blond": (212, 176, 120),
    "red": (164, 82, 42), "gray": (150, 148, 146), "white": (212, 210, 206), "dyed": (0, 0, 0),
}
_IRIS = {"dark": (58, 36, 24), "brown": (100, 64, 36), "hazel": (126, 98, 52),
         "green": (92, 122, 84), "blue": (92, 138, 178), "gray": (128, 142, 152)}


def any_color(dice: Dice, low: float = 20, high: float = 235) -> np.ndarray:
    """A cloth or wall color: a gray of random depth pulled towards a random hue."""
    gray = dice.uniform(low, high)
    hue = [dice.uniform(low, high) for _ in range(3)]
    pull = dice.uniform(0, 0.8)
    return np.array([gray + pull * (value - gray) for value in hue])


def _colors(dice: Dice, age: float, feminine: float) -> dict[str, object]:
    tone = 6 * dice.uniform() ** 1.3
    step = min(int(tone), 5)
    skin = _SKIN[step] + (tone - step) * (_SKIN[step + 1] - _SKIN[step])
    skin = skin * [1 + dice.bell(0.05), 1 + dice.bell(0.04), 1 + dice.bell(0.08)]
    dark = tone > 3
    weights = {"black": 3.0 if dark else 1.0, "espresso": 3.0 if dark else 1.5,
               "brown": 1.0 if dark else 3.0,
               "chestnut": 0.3 if dark else 2.5, "dark blond": 0.05 if dark else 2.5,
               "blond": 0.1 if dark else 2.5, "red": 0.05 if dark else 1.5,
               "gray": 6.0 if age > 0.7 else 0.0, "white": 5.0 if age > 0.85 else 0.0, "dyed": 0.4}
    name = dice.pick(weights)
    hair = any_color(dice, 30, 220) if name == "dyed" else np.array(_HAIR[name], dtype=float)
    hair = hair * (1 + dice.bell(0.2)) + dice.bell(6)
    eyes = ({"dark": 3, "brown": 2, "hazel": 0.2} if dark else
            {"dark": 1, "brown": 2, "hazel": 1, "green": 1, "blue": 2, "gray": 1})
    iris = np.array(_IRIS[dice.pick(eyes)]) * (1 + dice.bell(0.25))
    makeup = dice.uniform() * feminine if feminine > 0.5 else 0.0
    rose = np.array([0.86, 0.62, 0.65]) + [0, dice.bell(0.08), dice.bell(0.08)]
    paint = np.array([0.85, 0.38, 0.46]) + [dice.bell(0.1), dice.bell(0.15), dice.bell(0.15)]
    hair = np.minimum(np.maximum(hair, 12), 235)
    return {"skin": np.minimum(skin, 252), "hair": hair, "iris": iris,
            "lips": rose + makeup ** 2 * (paint - rose), "makeup": makeup,
            "freckles": not dark and dice.chance(0.15)}


def _hair(dice: Dice, age: float, feminine: float) -> dict[str, object]:
    if feminine > 0.5:
        weights = {"long": 9, "bob": 4, "tied": 4, "curly": 2, "short": 1.5, "buzz": 0.1}
    else:
        weights = {"short": 9, "buzz": 4, "curly": 2, "bald": 0.6 + 2 * age, "long": 1, "bob": 0.6,
                   "receding": 4 * age * age}
    style = dice.pick(weights)
    length = {"long": dice.uniform(7.2, 8.0), "bob": dice.uniform(5.3, 6.6),
              "curly": dice.uniform(4.2, 7.0) if feminine > 0.5 else dice.uniform(4.0, 4.8)}
    volume = {"long": 0.035, "bob": 0.04, "short": 0.035, "curly": 0.085, "receding": 0.02,
              "buzz": 0.004, "tied": 0.008}
    return {
        "style": style,
        "hair_length": length.get(style, dice.uniform(3.9, 4.4)),
        "volume": volume.get(style, 0.0) * dice.uniform(0.6, 1.4),
        "wave": 1.0 if style == "curly" else max(0.0, dice.uniform(-0.5, 0.8)),
        "part": dice.uniform(-0.13, 0.13),
        "sweep": dice.uniform(0.0, 0.07) if style in ("long", "bob", "short") else 0.0,
        "hairline": 0.205 + dice.bell(0.03) + (0.03 if feminine < 0.5 and age < 0.3 else 0.0),
        "bangs": style in ("long", "bob") and dice.chance(0.3),
        "tucked": style == "long" and dice.chance(0.35),
        "beard": max(0.0, dice.uniform(-1.0, 1.0)) if feminine < 0.5 else 0.0,
    }


def _extras(dice: Dice, feminine: float) -> dict[str, str]:
    jewel = 0.5 if feminine > 0.5 else 0.06
    return {
        "glasses": dice.pick({"": 80, "clear": 15, "dark": 4}),
        "hat": dice.pick({"": 85, "beanie": 5, "cap": 4, "brim": 4}),
        "earring": dice.pick({"": 1 - jewel, "stud": jewel / 3, "hoop": jewel / 3,
                              "drop": jewel / 3}),
        "necklace": dice.pick({"": 1 - jewel, "chain": jewel / 2, "beads": jewel / 2}),
        "collar": dice.pick({"crew": 3, "vee": 3, "shirt": 2, "high": 1, "bare": feminine}),
    }


def draw_traits(dice: Dice) -> Traits:
    """A random person in a random moment."""
    age = dice.uniform()
    feminine = dice.uniform(0, 0.45) if dice.chance(0.5) else dice.uniform(0.55, 1)
    mood = dice.uniform()
    smile = max(0.0, dice.uniform(-0.6, 1.0)) if mood > 0.15 else dice.uniform(-0.5, 0)
    opened = dice.uniform(0.2, 1.0) if dice.chance(0.45 if smile > 0.3 else 0.15) else 0.0
    bells = (2 * dice.rng.random((3, len(_SPREAD))).sum(0) - 3) / 3
    values = _SPREAD @ [1.0, 0.0, feminine, age] + _SPREAD[:, 1] * bells
    return Traits(
        feminine=feminine, age=age, smile=smile, mouth_open=opened,
        brow_raise=max(0.0, dice.uniform(-1, 0.8)),
        openness=dice.uniform(0.85, 1.2) if dice.chance(0.95) else dice.uniform(0.1, 0.5),
        gaze=(dice.bell(0.9), dice.bell(0.5)), shift=complex(dice.bell(0.02), dice.bell(0.02)),
        **dict(zip(_NUMBERS, values.tolist(), strict=True)),
        **_colors(dice, age, feminine), **_hair(dice, age, feminine), **_extras(dice, feminine),
    )


class Light(NamedTuple):
    """Light on the scene: unit vector towards the lamp (y down, z to the camera) and strengths."""

    direction: np.ndarray
    key: np.ndarray
    ambient: np.ndarray
    gloss: float


def draw_light(dice: Dice) -> Light:
    """A lamp above and in front, somewhat to one side, and the tint of what it does not reach."""
    side, height = dice.bell(1.1), dice.uniform(0.15, 0.75)
    direction = np.array([np.sin(side) * np.cos(height), -np.sin(height),
                          np.cos(side) * np.cos(height)])
    warmth, sky = dice.bell(0.12), dice.bell(0.12)
    ambient = dice.uniform(0.28, 0.6)
    key = (1.16 - ambient + dice.bell(0.1)) * np.array([1 + warmth, 1.0, 1 - warmth])
    return Light(direction, key, ambient * np.array([1 - sky, 1.0, 1 + sky]), dice.uniform(10, 60))
