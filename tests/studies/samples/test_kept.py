"""All samples of a run as they are kept: what comes back, what is left out, and how much is kept at most."""

from __future__ import annotations

import gzip

import pytest

from studies.records import Measurer
from studies.samples.kept import (
    KeptScores,
    KeptTexts,
    Preferred,
    bounded,
    digest_of_prompt,
    scores_as_text,
    scores_from_text,
    texts_as_bytes,
    texts_from_bytes,
    with_preferred,
    with_scores,
    without_secrets,
)

ONE = Measurer(judge="function a:score", content="sha256:1")


def texts(*steps: int, prompts: int = 4, length: int = 10) -> KeptTexts:
    return KeptTexts(
        key="0" * 12,
        prompts=tuple(str(i) for i in range(prompts)),
        texts=dict.fromkeys(steps, ("x" * length,) * prompts),
        ended=dict.fromkeys(steps, (True,) * prompts),
    )


def scores() -> KeptScores:
    return KeptScores(key="0" * 12, prompts=("a", "b"), seed=1, longest=8, tokens={0: (1, 2), 9: (3, 4)})


def test_texts_come_back_as_they_were_and_act_on_no_terminal() -> None:
    kept = texts(0, 9).model_copy(update={"prompts": ("\x1b[2J", [{"role": "user", "content": "\u202e"}], "c", "d")})
    content = texts_as_bytes(kept)
    assert texts_from_bytes(content) == kept
    assert b"\x1b" not in gzip.decompress(content)
    assert "\u202e" not in gzip.decompress(content).decode()


def test_secrets_are_not_kept() -> None:
    token = "hf_" + "Ab1" * 12
    kept = texts(0).model_copy(update={"prompts": (f"use {token}", "b", "c", "d"), "texts": {0: (token,) * 4}})
    assert token.encode() not in gzip.decompress(texts_as_bytes(without_secrets(kept)))


@pytest.mark.parametrize("content", [b"", b"{}", gzip.compress(b"{}"), gzip.compress(b"[" * 100_000), b"\x1f\x8b\x08"])
def test_what_is_no_such_file_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"unpacked|KeptTexts|nested|Expecting"):
        texts_from_bytes(content)


def test_of_too_much_the_evaluations_on_the_way_go_first_and_then_prompts() -> None:
    whole = texts(0, 3, 6, 9)  # 40 characters each, and 4 of the prompts
    assert set(bounded(whole, 164).texts) == {0, 3, 6, 9}
    assert set(bounded(whole, 124).texts) == {0, 6, 9}
    assert set(bounded(whole, 84).texts) == {0, 9}
    least = bounded(whole, 43)
    assert set(least.texts) == {0, 9}
    assert {len(of) for of in (least.prompts, *least.texts.values(), *least.ended.values())} == {2}


def test_scores_of_a_judge_join_those_of_others_and_replace_its_own() -> None:
    other = Measurer(judge="function b:score", content="sha256:2")
    kept = with_scores(with_scores(scores(), ONE, {0: [1, 2]}), other, {9: [5, 6]})
    kept = with_scores(kept, ONE, {9: [3, 4]})
    kept = with_scores(kept, ONE, {0: [0, 0]})
    assert scores_from_text(scores_as_text(kept)) == kept
    assert kept.scores_by(ONE) == {0: (0, 0), 9: (3, 4)}
    assert kept.scores_by(other) == {9: (5, 6)}
    changed = ONE.model_copy(update={"content": "sha256:3"})  # the same name, and other code
    assert kept.scores_by(changed) == {}
    assert kept.scores_by(ONE.model_copy(update={"content": None})) == {0: (0, 0), 9: (3, 4)}


def test_preferences_of_other_steps_stay() -> None:
    def preferred(step: int, wins: tuple[float, ...]) -> Preferred:
        return Preferred(by=ONE, against="", steps=((step, 0),), wins=(wins,), contradicted=((False, True),))

    kept = with_preferred(with_preferred(scores(), preferred(3, (1, 0.5))), preferred(9, (0, 0.5)))
    kept = with_preferred(kept, preferred(9, (1, 1)))
    assert [(p.steps, p.wins) for p in kept.preferred] == [(((3, 0), (9, 0)), ((1, 0.5), (1, 1)))]


def test_runs_are_paired_by_their_prompts_and_random_numbers() -> None:
    assert scores().is_paired_with(scores().model_copy(update={"key": "1" * 12}))
    for changed in ({"seed": 2}, {"prompts": ("a", "c")}, {"longest": 9}, {"tokens": {0: (1, 1), 9: (3, 4)}}):
        assert not scores().is_paired_with(scores().model_copy(update=changed))


def test_a_prompt_of_messages_has_a_digest_of_its_own() -> None:
    message = {"role": "user", "content": "a"}
    assert len({digest_of_prompt(p) for p in ("a", "b", [message], [message, message])}) == 4
