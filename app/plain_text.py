"""Text that people read: it shows something, and nothing in it hides or lies.

After the FreeformClass of PRECIS (RFC 8264, section 4.3) and Unicode Technical Report 36. Unlike
that class it admits what emoji and scripts are written with: joiners and variation selectors after
what they change, marks of direction, and characters that are newer than Python's Unicode.
"""

from __future__ import annotations

import re
import unicodedata

# Overrides, embeddings and isolates make text look like another; the marks of direction do not.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_JOINERS = frozenset("\u200c\u200d")
# Places to break a line, and fillers: of use in a long text.
_BREAKS = frozenset("\u00ad\u200b\u2060\u034f\u115f\u1160\u3164\uffa0")
_BLANK = frozenset("\u2800\u115f\u1160\u3164\uffa0")
_HIDDEN = (
    (0x17B4, 0x17B5),
    (0x180E, 0x180E),
    (0x2061, 0x2064),
    (0x206A, 0x206F),
    (0xFDD0, 0xFDEF),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE00FF),
    (0xE01F0, 0xE0FFF),
)
_SELECTORS = ((0x180B, 0x180D), (0x180F, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
# Tags spell only the flags of England, Scotland and Wales; elsewhere they hide words.
_BLACK_FLAG = "\U0001f3f4"
_FLAGS = tuple(
    _BLACK_FLAG + "".join(chr(0xE0000 + ord(letter)) for letter in region) + "\U000e007f"
    for region in ("gbeng", "gbsct", "gbwls")
)
Fault = tuple[str, str]


_NONCHARACTERS = "".join(
    f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)
)
# All that is looked at closer: controls, formats, selectors, fillers, private use, noncharacters.
_SUSPECT = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d"
    "\u2028-\u202e\u2060-\u206f\u3164\ue000-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
    f"{_NONCHARACTERS}]"
)


def text_fault(text: str, *, lines: bool = False, may_be_blank: bool = False) -> Fault | None:
    """Return the code of what is wrong with a text and a sentence; None if nothing is.

    ``lines`` is for long texts: they may have line breaks, tabs, places to break a line and
    characters of private use. ``may_be_blank`` admits one that shows nothing.
    """
    for flag in _FLAGS:
        text = text.replace(flag, _BLACK_FLAG)
    for match in _SUSPECT.finditer(text):
        place, character = match.start(), match[0]
        before, after = text[max(place - 1, 0) : place], text[place + 1 : place + 2]
        code = _code_of(character, before, after, lines)
        if code is not None:
            return code, f"{_EXPECTED[code]}, not U+{ord(character):04X} at position {place}"
    if may_be_blank or any(map(is_visible, text)):
        return None
    return "invisible_text", "expected at least one visible character"


_EXPECTED = {
    "control_character": "expected no control characters",
    "bidi_control": "expected no characters that change the direction of what follows",
    "hidden_character": "expected no characters that cannot be seen",
}


def is_visible(character: str) -> bool:
    """Tell whether a character shows something by itself."""
    # Unassigned characters are those of a newer Unicode than Python's, emoji above all.
    return character not in _BLANK and (
        unicodedata.category(character)[0] in "LNPS" or unicodedata.category(character) == "Cn"
    )


def _code_of(character: str, before: str, after: str, lines: bool) -> str | None:
    """Return the code of what is wrong with a character between two others."""
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        whole = character in "\n\t\u2028\u2029" or (character, after) == ("\r", "\n")
        return None if lines and whole else "control_character"
    if character in _BIDI:
        return "bidi_control"
    if character in _JOINERS or _is_in(character, _SELECTORS):
        return None if _is_changed(before, character) else "hidden_character"
    number = ord(character)
    if _is_in(character, _HIDDEN) or number & 0xFFFE == 0xFFFE:
        return "hidden_character"
    if character in _BREAKS or category == "Co":
        return None if lines else "hidden_character"
    return None


def _is_changed(before: str, character: str) -> bool:
    """Tell whether a joiner or a selector follows something that it can change."""
    if not before or before in _JOINERS:
        return False
    if _is_in(before, _SELECTORS):
        # An emoji with its selector is joined with another; no selector follows a selector.
        return character in _JOINERS
    return is_visible(before) or unicodedata.category(before)[0] == "M"


def _is_in(character: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(character) <= last for first, last in ranges)
