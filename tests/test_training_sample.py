"""Which part of a long text merges are learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from isoloss.data import training_sample as module
from isoloss.data.training_sample import training_sample


def in_pieces(texts: Sequence[str], length: int) -> Iterator[tuple[int, str]]:
    for number, text in enumerate(texts):
        for first in range(0, len(text), length):
            yield number, text[first : first + length]


def numbered(n: int) -> str:
    return "".join(f"{number:09d}\n" for number in range(n))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHARACTERS", 2000)
    monkeypatch.setattr(module, "STRETCH_CHARACTERS", 100)


@pytest.mark.parametrize("length", [1, 7, 100, 333, 100_000])
def test_a_short_split_is_read_whole_and_validation_never(length: int) -> None:
    texts = [numbered(150), numbered(60), "val" * 50]
    assert "".join(training_sample(in_pieces(texts, length), [987, 600])) == texts[0][:987] + texts[1]


@pytest.mark.parametrize("length", [7, 100, 333, 100_000])
def test_of_a_long_split_stretches_are_drawn_all_over_it(length: int) -> None:
    text = numbered(5000)
    train = 45_678
    drawn = "".join(training_sample(in_pieces([text], length), [train]))
    stretches = {text[first : first + 100] for first in range(0, train - 99, 100)}
    found = [drawn[first : first + 100] for first in range(0, len(drawn), 100)]
    assert len(found) == len({*found}) == 20 and stretches >= {*found}
    places = [int(each[:9]) for each in found]
    assert places == sorted(places) and places[0] < 1000 < 3000 < places[-1]
    assert drawn == "".join(training_sample(in_pieces([text], 999), [train]))  # by the seed, whatever the pieces


def test_each_of_many_short_texts_is_read() -> None:
    texts = [f"{number:03d}".ljust(60, ".") for number in range(50)]
    drawn = [*training_sample(in_pieces(texts, 60), [54] * 50)]
    assert [piece[:3] for piece in drawn] == [f"{number:03d}" for number in range(50)]


def test_several_long_texts_have_equal_parts_of_it() -> None:
    texts = [numbered(2000), numbered(3000).replace("0", "x")]
    drawn = "".join(training_sample(in_pieces(texts, 1000), [18_000, 27_000]))
    assert len(drawn) == 2000 and drawn.count("x") > 400 and drawn[1000:].replace("x", "0") != drawn[:1000]
