"""Text that shows nothing or lies is refused; what scripts and emoji are written with is not."""

from __future__ import annotations

import pytest

from app.plain_text import text_fault

HONEST = [
    "Invoice Summarizer",
    "Größe, naïve café",
    "Cafe\u0301 with a combining accent",
    "発票の要約",
    "芦\U000e0100屋",
    "한국어",
    "Ελληνικά и кириллица",
    "שלום",
    "مرحبا",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "क्\u200dष",
    "ශ්\u200dරී",
    "abc \u200eABC\u200f",
    "👩\u200d🚀",
    "👩🏽\u200d❤\ufe0f\u200d💋\u200d👨🏿",
    "❤\ufe0f",
    "1\ufe0f\u20e3",
    "🇩🇪",
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "🏳\ufe0f\u200d🌈",
    "\U0001fae8 newer than this Unicode",
    "1 + 1 = 2 €",
    "…",
    "a\u00a0b",
]
LONG = ["one\ntwo", "one\r\ntwo\r\n", "a\tb", "ไทย\u200bไทย", "co\u00adoperate", "\ue0b0 prompt"]
LIES = {
    "invisible_text": [
        "",
        " ",
        "   ",
        "\u00a0\u2003\u3000",
        "\u200e\u200f",
        "\u2800\u2800",
        "\u0301",
    ],
    "control_character": [
        "a\x00b",
        "bell\x07",
        "\x1b[31mred",
        "delete\x7f",
        "next\x85line",
        "\x9b0m",
    ],
    "bidi_control": [
        "user\u202etxt.exe",
        *(f"a{chr(number)}b" for number in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
    ],
    "hidden_character": [
        "\u200d",
        "\u200c\u200c",
        "a\u200d\u200db",
        "\u200dab",
        "a \u200db",
        "\ufe0f",
        "a\ufe0f\ufe0f",
        "x" + "\U000e0100\U000e0101\U000e0102",
        "\ufeffname",
        "na\u2063me",
        "a\u180eb",
        "\ufff9a\ufffab\ufffb",
        "hello\U000e0068\U000e0069",
        "🏴\U000e0068\U000e0069\U000e007f",
        "\ufdd0",
        "a\uffff",
        "a\U0001fffe",
    ],
}
SHORT_ONLY = {
    "control_character": ["one\ntwo", "a\tb", "a\u2028b"],
    "hidden_character": ["ac\u200bme", "\u3164\u3164", "a\u00adb", "a\u2060b", "\ue000"],
}
LONG_LIES = {
    "control_character": ["one\rtwo", "\r", "a\x0cb"],
    "invisible_text": ["\n\t \r\n", "\u200b\u200b", "\u3164", "\ue000", "\u2060"],
}


@pytest.mark.parametrize("text", HONEST)
def test_honest_text(text: str) -> None:
    assert text_fault(text) is None
    assert text_fault(text, lines=True) is None


@pytest.mark.parametrize("text", LONG)
def test_long_text(text: str) -> None:
    assert text_fault(text, lines=True) is None
    assert text_fault(text) is not None


def cases(*groups: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return every code with each of its texts."""
    return [(code, text) for group in groups for code, texts in group.items() for text in texts]


@pytest.mark.parametrize(("code", "text"), cases(LIES, SHORT_ONLY))
def test_short_text_that_lies(code: str, text: str) -> None:
    assert (text_fault(text) or ("", ""))[0] == code


@pytest.mark.parametrize(("code", "text"), cases(LIES, LONG_LIES))
def test_long_text_that_lies(code: str, text: str) -> None:
    found = text_fault(text, lines=True)
    assert found is not None
    assert found[0] == code


def test_the_sentence_names_the_character_and_its_place() -> None:
    assert text_fault("a\u202eb") == (
        "bidi_control",
        "expected no characters that change the direction of what follows,"
        " not U+202E at position 1",
    )


def test_blank_text_where_it_may_be() -> None:
    assert text_fault("", may_be_blank=True) is None
    assert text_fault("  ", may_be_blank=True) is None
    assert text_fault("\u202e", may_be_blank=True) is not None
