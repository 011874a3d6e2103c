"""Which encoding a file is written in: decided on the whole file, never guessed from its first lines, and refused when unclear.

UTF-8 is accepted when every byte of the file is valid. UTF-16 needs its byte order mark. GB18030 accepts almost any bytes, so besides a
strict decoding it must look like Chinese: characters of the common zone, and some of the few that carry two fifths of all Chinese text.
A file that is mostly valid UTF-8 is UTF-8; its damaged lines are then rejected one by one. Leaves out: every other encoding,
which the user may name.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, field

SAMPLE_BYTES = 1 << 16
BINARY_SHARE = 0.05  # of NUL bytes: a stray one is a bad row, more is not text
COMMON_SHARE = 0.08  # random picks from the common zone give about 0.03, Chinese of any age 0.2 and more
ZONE_SHARE = 0.9
COMMON = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同"
    "现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很"
    "最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走"
    "今谢您请吗吧啊呢哦买货款快服务质量电价钱做让再太非每爱风花春山云雨夜君何不為這個們來時說會對無國與後見問長開過還沒動經學"
)


@dataclass
class Evidence:
    """What one pass over a file's bytes says about its encoding."""

    size: int = 0
    nul: int = 0
    valid: bool = True
    head: bytes = b""
    _decoder: codecs.IncrementalDecoder = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    def add(self, chunk: bytes) -> None:
        """Read the next bytes of the file."""
        if len(self.head) < 4:
            self.head = (self.head + chunk[:4])[:4]
        self.size += len(chunk)
        self.nul += chunk.count(0)
        self._check(chunk, final=False)

    def finish(self, whole: bool) -> None:
        """Say that the file ended; a file that was cut off may end within a character."""
        self._check(b"", final=whole)

    def _check(self, chunk: bytes, final: bool) -> None:
        if self.valid:
            try:
                self._decoder.decode(chunk, final)
            except UnicodeDecodeError:
                self.valid = False

    @property
    def mark(self) -> str | None:
        """Name the encoding that a byte order mark announces."""
        if self.head.startswith(codecs.BOM_UTF8):
            return "utf-8"
        if self.head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not self.head.startswith(codecs.BOM_UTF32_LE):
            return "utf-16"
        return None

    @property
    def binary(self) -> bool:
        """Say whether this is no text: more NUL bytes than a few damaged rows would have."""
        return self.mark != "utf-16" and self.nul > BINARY_SHARE * self.size


def _chinese(text: str) -> bool:
    """Say whether a text decoded as GB18030 is plausibly Chinese and not another encoding misread."""
    wide = [letter for letter in text if letter > "\x7f"]
    if not wide:
        return False
    han = [letter for letter in wide if "\u4e00" <= letter <= "\u9fff"]
    zone = sum(_zoned(letter) for letter in wide)
    return bool(han) and zone >= ZONE_SHARE * len(wide) and sum(each in COMMON for each in han) >= COMMON_SHARE * len(han)


def _zoned(letter: str) -> bool:
    """Say whether a character is among GB 2312's symbols and characters, which hold nearly all of written Chinese."""
    try:
        return len(letter.encode("gb2312")) == 2
    except UnicodeEncodeError:
        return False


def settle(lines: Iterable[bytes]) -> str | None:
    """Name the encoding of a file that is not valid UTF-8 throughout: "gb18030", "utf-8" with damaged lines, or None when unclear."""
    good = {"utf-8": 0, "gb18030": 0}
    count = total = 0
    sample: list[str] = []
    sampled = 0
    for line in lines:
        total += 1
        if line.isascii():
            continue
        count += 1
        for name in good:
            try:
                text = line.decode(name)
            except UnicodeDecodeError:
                continue
            good[name] += 1
            if name == "gb18030" and sampled < SAMPLE_BYTES:
                sample.append(text)
                sampled += len(text)
    chinese = _chinese("".join(sample))
    if good["gb18030"] == count and chinese and not good["utf-8"] * 2 > count:
        return "gb18030"
    if good["utf-8"] * 2 > count or (count - good["utf-8"]) * 10 <= total:
        return "utf-8"
    if good["gb18030"] >= 0.9 * count and chinese:
        return "gb18030"
    return None
