"""The untrained model's own answers: repeatable, usable as text, and never the demonstration itself."""

import numpy as np
import pytest

from trainers.world import own_answers as module
from trainers.world.grammar import prompts
from trainers.world.own_answers import own_answers
from trainers.world.pairs import Completion, load_tokenizer

ASKED = [(prompt, " the plot is quite superb .") for prompt in (*prompts("cold"), *prompts("warm"))]


def test_the_same_demonstrations_and_block_give_the_same_answers() -> None:
    assert own_answers(ASKED, 3) == own_answers(ASKED, 3)
    assert own_answers(ASKED, 3) != own_answers(ASKED, 4)


def test_answers_of_fewer_demonstrations_are_the_first_of_more() -> None:
    assert own_answers(ASKED[:20], 3) == own_answers(ASKED, 3)[:20]


def test_an_answer_is_a_text_that_the_tokenizer_reads_back() -> None:
    tokenizer = load_tokenizer()
    for text in own_answers(ASKED, 0):
        assert text.startswith(" ")
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text.strip()
        assert not {*ids} & {*tokenizer.all_special_ids}


def test_what_is_cut_off_empty_or_the_demonstration_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[tuple[list[str], int]] = []
    bad = [
        Completion("", ("the", "plot"), ended=False),
        Completion("", (), ended=True),
        Completion("", ("<unknown>", "."), ended=True),
        Completion("", ("the", "plot", "is", "quite", "superb", "."), ended=True),
    ]

    def sample(_model: object, _tokenizer: object, asked: list[str], seed: np.random.SeedSequence) -> list[Completion]:
        draws.append((list(asked), seed.entropy[-1]))
        good = Completion("", ("the", "cast", "."), ended=True)
        return [bad[ASKED.index((prompt, ASKED[0][1]))] for prompt in asked] if len(draws) == 1 else [good] * len(asked)

    monkeypatch.setattr(module, "sample_completions", sample)
    assert own_answers(ASKED[:4], 0) == (" the cast .",) * 4
    assert draws == [([prompt for prompt, _ in ASKED[:4]], 0), ([prompt for prompt, _ in ASKED[:4]], 1)]
