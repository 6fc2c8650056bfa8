"""Facts about judges: what a reward model and a function are asked and give, and what becomes of a run with one."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from studies.design.measurers import judge_at
from studies.records import Cause, Check, DataConfig, EvaluationConfig, Judge, RunConfig
from studies.samples.kept import KeptScores, KeptTexts
from tests.trainers.judge_models import save_classifier
from tests.trainers.pack_runs import SETTINGS, float64, scored_beside, train
from trainers.adapter_evaluator import AdapterEvaluator
from trainers.components.worker_cache import WorkerCache
from trainers.data.pairs import JudgeError, Preferences, load_pairs
from trainers.data.tables import write_pairs
from trainers.dpo import DPOTrainerWorker, load_adapter
from trainers.evaluation.judges import load_judge, load_pairwise
from trainers.evaluation.samples import samples
from trainers.interface import Job, Placement
from trainers.job_list import train_all
from trainers.judge_samples import SampleJudge
from trainers.run_folder.kept_samples import add_evaluation, read_scores, read_texts
from trainers.world.paths import model_path

PROMPTS = ["a plain review of the new film :", "a review of the old book :", "a review :"] * 3
COMPLETIONS = ["the plot is quite superb .", "", "the cast was dull and the plot was dull .", "superb"] * 3
COMPLETIONS = COMPLETIONS[: len(PROMPTS)]
ENDED = [True] * len(PROMPTS)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a judge puts into the module path and the modules goes with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "our_judge", raising=False)


def function(text: str) -> Judge:
    """A judge whose module lies in the working folder."""
    Path("our_judge.py").write_text(text)
    return Judge(function="our_judge:score")


def ask(judge: Judge, prompts: Sequence[Any] = PROMPTS, completions: Sequence[str] = COMPLETIONS) -> list[float]:
    return list(load_judge(judge)(prompts, completions, [True] * len(prompts)))


def logits(folder: Path, text: str, dtype: torch.dtype = torch.float64, **options: Any) -> list[float]:
    """What the classifier says of one text, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        return [float(v) for v in model(**tokenizer(text, return_tensors="pt", **options)).logits[0]]


def near(folder: Path, *expected: float) -> Any:
    """What a judge in float32 may say where float64 says this: as far from it as transformers' own float32 is on this
    machine, at most, of the texts above, with room.
    """
    texts = [p + c for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    own = [np.array([logits(folder, text, dtype) for text in texts]) for dtype in (torch.float32, torch.float64)]
    return pytest.approx(expected, rel=0, abs=3 * float(np.abs(own[0] - own[1]).max()))


# ---- reward models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("size", [1, 4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_reward_does_not_depend_on_what_shares_its_batch(tmp_path: Path, kind: str, size: int) -> None:
    folder = save_classifier(tmp_path / "judge", kind, num_labels=1)
    expected = [logits(folder, p + c)[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    found = ask(Judge(reward_model=str(folder), batch_size=size))
    assert tuple(found) == near(folder, *expected)
    assert len(set(found)) == len({*zip(PROMPTS, COMPLETIONS, strict=True)})


def test_of_classes_that_exclude_each_other_the_reward_is_the_log_odds(tmp_path: Path) -> None:
    three = save_classifier(tmp_path / "three", num_labels=3, id2label={0: "bad", 1: "so so", 2: "good"})
    low, middle, high = logits(three, PROMPTS[0] + COMPLETIONS[0])
    expected = middle - float(torch.tensor([low, high]).logsumexp(0))
    for label in ("so so", 1):
        found = ask(Judge(reward_model=str(three), label=label))
        assert (found[0],) == near(three, expected)
    two = save_classifier(tmp_path / "two", num_labels=2)
    no, yes = logits(two, PROMPTS[0] + COMPLETIONS[0])
    assert (ask(Judge(reward_model=str(two)))[0],) == near(two, yes - no)


def test_of_outputs_that_are_no_classes_the_reward_is_the_output_itself(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "judge", num_labels=3, problem_type="regression")
    expected = logits(folder, PROMPTS[0] + COMPLETIONS[0])[2]
    assert (ask(Judge(reward_model=str(folder), label=2))[0],) == near(folder, expected)


def test_of_a_text_that_is_too_long_the_end_is_judged(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "judge", num_labels=1)
    words = COMPLETIONS[0].split()
    (found,) = ask(Judge(reward_model=str(folder), max_length=len(words)), PROMPTS[:1], [" " + COMPLETIONS[0]])
    assert (found,) == near(folder, logits(folder, COMPLETIONS[0])[0])
    (found,) = ask(Judge(reward_model=str(folder)), ["the " * 100], ["plot"])
    assert (found,) == near(folder, logits(folder, "the " * 63 + "plot")[0])


def test_messages_go_through_the_reward_models_own_template(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "judge", num_labels=1)
    messages = [{"role": "user", "content": "a plain review"}]
    lines = "user: a plain review\nassistant: superb"
    (found,) = ask(Judge(reward_model=str(folder)), [messages], ["superb"])
    assert (found,) == near(folder, logits(folder, lines)[0])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} . {% endfor %}"
    tokenizer.save_pretrained(folder)
    (found,) = ask(Judge(reward_model=str(folder)), [messages], ["superb"])
    assert (found,) == near(folder, logits(folder, "a plain review . superb . ", add_special_tokens=False)[0])


def test_a_model_whose_head_would_be_random_is_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "lm", "lm")
    with pytest.raises(JudgeError, match=r"no trained sequence classifier: score\.weight would be random"):
        load_judge(Judge(reward_model=str(folder)))


def test_a_reward_model_whose_files_name_native_code_is_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "judge", num_labels=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attn_implementation": "ORG/KERNEL"}))
    with pytest.raises(JudgeError, match="native code that would be fetched from elsewhere"):
        load_judge(Judge(reward_model=str(folder)))


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"reward_model": "{folder}", "label": "great"}, "'great' is no class of the classifier"),
        ({"reward_model": "{folder}"}, "must be given, since the classifier has 3 classes"),
        ({"reward_model": "/nowhere/at/all"}, "cannot be loaded"),
        ({"reward_model": "org/../../../etc/passwd"}, "cannot be loaded"),
        ({"reward_model": "{empty}"}, "cannot be loaded"),
    ],
)
def test_a_reward_model_that_cannot_be_used_is_refused(tmp_path: Path, judge: dict[str, Any], words: str) -> None:
    places = {"folder": save_classifier(tmp_path / "three", num_labels=3), "empty": tmp_path}
    judge["reward_model"] = judge["reward_model"].format(**places)
    with pytest.raises(JudgeError, match=words):
        load_judge(Judge(**judge))


def test_the_precision_of_the_policy_is_not_that_of_the_judge(tmp_path: Path) -> None:
    score = load_judge(Judge(reward_model=str(save_classifier(tmp_path / "judge", num_labels=1))))
    with torch.autocast("cpu", torch.bfloat16):
        low = score(PROMPTS, COMPLETIONS, ENDED)
    assert low == score(PROMPTS, COMPLETIONS, ENDED)


# ---- functions ------------------------------------------------------------------------------------------------------


def test_a_function_whose_file_has_changed_is_asked_as_it_is_now() -> None:
    assert ask(function("def score(prompts, completions):\n    return [1.0] * len(prompts)\n")) == [1.0] * 9
    assert ask(function("def score(prompts, completions):\n    return [22.0] * len(prompts)\n")) == [22.0] * 9


def test_a_reward_model_is_loaded_at_the_commit_that_is_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("trainers.components.worker_cache.load_judge", lambda judge: asked.append(judge.revision))
    rows = [{"prompt": f"a {i}", "chosen": " warm", "rejected": " dreary"} for i in range(8)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig(
        study="s",
        variant="sigmoid",
        scenario="clean",
        trial=0,
        block=0,
        seed=0,
        settings=SETTINGS,
        knobs={},
        data=DataConfig(path="pairs.jsonl", eval_rows=2),
        evaluation=EvaluationConfig(judge=Judge(reward_model="org/judge")),
        judge_content="commit:" + "a" * 40,
    )
    pairs = WorkerCache().pairs(config, SETTINGS, AutoTokenizer.from_pretrained(model_path()))
    assert asked == ["a" * 40]
    assert pairs.facts["judge"] == "reward model org/judge"
    assert pairs.facts["judge_content"] == config.judge_content


def test_a_function_is_called_as_trl_calls_reward_functions() -> None:
    judge = function("def score(prompts, completions, **nothing_else):\n    return [len(c) for c in completions]\n")
    assert ask(judge) == [float(len(text)) for text in COMPLETIONS]
    judge = function(
        "def score(*, prompts, completions):\n"
        "    assert prompts == [[{'role': 'user', 'content': 'hi'}]]\n"
        "    return [len(c[0]['content']) + (c[0]['role'] == 'assistant') for c in completions]\n"
    )
    sys.modules.pop("our_judge")
    assert ask(judge, [[{"role": "user", "content": "hi"}]], ["four"]) == [5.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "def score(prompts, completions): raise KeyError('no key')",
            r"raised for 9 completions \(KeyError: 'no key'\)",
        ),
        ("def score(prompts, completions): return [1.0]", "gave 1 scores for 9 completions"),
        ("def score(prompts, completions): return 1.0", "must give a list of numbers"),
        ("def score(prompts, completions): return ['good'] * 9", "must give a list of numbers"),
        ("def score(prompts, completions): return [0.0] * 8 + [None]", r"1 of 9 scores are not finite"),
        ("def score(prompts, completions): return [float('nan')] * 9", r"9 of 9 scores are not finite"),
        ("def score(prompts, completions): return [float('inf')] * 9", r"9 of 9 scores are not finite"),
        ("score = 3", "is a int and cannot be called"),
        ("import nothing_of_this_name", "cannot be imported .*ModuleNotFoundError"),
        ("def other(): ...", "cannot be imported .*AttributeError"),
    ],
)
def test_a_function_that_does_not_answer_as_it_must_is_named_with_what_it_did(text: str, words: str) -> None:
    with pytest.raises(JudgeError, match=f"judge function our_judge:score: .*{words}"):
        ask(function(text))


def test_a_judge_leaves_the_random_states_of_a_training_alone(tmp_path: Path) -> None:
    judge = function(
        "import random, numpy, torch\n"
        "random.seed(1), numpy.random.seed(1), torch.manual_seed(1)\n"
        "def score(prompts, completions):\n"
        "    return [random.random() + numpy.random.rand() + float(torch.rand(())) for _ in prompts]\n"
    )

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    for one in (judge, Judge(reward_model=str(save_classifier(tmp_path / "judge", num_labels=1)))):
        found = []
        for asks in (False, True):
            random.seed(5)
            np.random.seed(5)
            torch.manual_seed(5)
            if asks:
                ask(one)
            found.append(drawn())
        assert found[0] == found[1]


def test_a_file_in_the_working_folder_hides_no_library() -> None:
    Path("colorsys.py").write_text("raise RuntimeError('the wrong one')")
    sys.modules.pop("colorsys", None)  # so that it is looked for
    judge = function(
        "def score(prompts, completions):\n"
        "    import colorsys\n    return [colorsys.rgb_to_hls(1, 1, 1)[1] for _ in prompts]"
    )
    assert ask(judge)[0] == 1.0


def test_the_working_folder_holds_modules_for_the_judge_alone() -> None:
    Path("our_other.py").write_text("length = len")
    judge = function(
        "def score(prompts, completions):\n    from our_other import length\n    return map(length, completions)"
    )
    scored = load_judge(judge)
    assert find_spec("our_other") is None
    assert list(scored(PROMPTS, COMPLETIONS, ENDED)) == [len(text) for text in COMPLETIONS]
    assert str(Path.cwd()) not in sys.path


# ---- runs -----------------------------------------------------------------------------------------------------------

LENGTH = "def score(prompts, completions):\n    return [len(p) + 2.0 * len(c) for p, c in zip(prompts, completions)]\n"


@pytest.fixture
def runs(tmp_path: Path) -> Any:
    """`runs(judge, ...)`: configs of a few steps over pairs in a file, which have no gold reward of their own."""
    world = load_pairs(DataConfig(rows=64, eval_rows=16), 0, AutoTokenizer.from_pretrained(model_path()))
    train_file, evaluation_file = write_pairs(world, tmp_path / "pairs")

    def configs(judge: Judge, count: int = 2, **settings: Any) -> list[RunConfig]:
        return [
            RunConfig(
                study="s",
                variant="v",
                scenario="clean",
                trial=i,
                block=0,
                seed=0,
                settings={
                    **SETTINGS,
                    "max_steps": 4,
                    "warmup_steps": 0,
                    "learning_rate": 1e-2 * (i + 1),
                    "seed": 0,
                    **settings,
                },
                knobs={},
                data=DataConfig(path=str(train_file), eval_split=str(evaluation_file)),
                evaluation=EvaluationConfig(prompts=16, max_new_tokens=12, judge=judge),
            )
            for i in range(count)
        ]

    return configs


@pytest.mark.parametrize("together", [0, 2], ids=["alone", "in a pack"])
def test_gold_is_the_mean_of_what_the_judge_says_of_the_samples(runs: Any, tmp_path: Path, together: int) -> None:
    judge = function(LENGTH)
    configs = runs(judge)
    for config, result in zip(configs, train(tmp_path / "runs", configs, together), strict=True):
        assert result.cause is Cause.FINISHED, result.message
        assert result.facts["judge"] == "function our_judge:score"
        policy, tokenizer = load_adapter(config, tmp_path / "runs" / config.key / "adapter")
        drawn = samples(policy, tokenizer, load_pairs(config.data, 0, tokenizer), config.evaluation, 16)
        expected = sum(len(s.prompt) + 2.0 * len(s.completion) for s in drawn) / 16
        final = result.final()
        assert final["gold"].value == pytest.approx(expected)
        assert final["gold"].error is not None
        assert final["gold"].halves is not None
        with policy.disable_adapter():
            before = samples(policy, tokenizer, load_pairs(config.data, 0, tokenizer), config.evaluation, 16)
        ahead = [len(new.completion) - len(old.completion) for new, old in zip(drawn, before, strict=True)]
        assert any(ahead)
        assert final["win_rate"].value == sum(1.0 if a > 0 else 0.0 if a < 0 else 0.5 for a in ahead) / 16
        assert final["lc_win_rate"].error is not None


def test_a_reward_model_judges_the_runs_of_a_pack_as_it_judges_each_alone(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policies in float64, so that both write the same; the judge, in float32, rounds by what shares its batch."""
    folder = save_classifier(tmp_path / "judge", num_labels=1)
    scored_beside(monkeypatch)
    with float64(monkeypatch):
        configs = runs(Judge(reward_model=str(folder)))
        packed, alone = (train(tmp_path / f"runs{size}", configs, size) for size in (2, 0))
    golds = [[result.final()["gold"].value for result in results] for results in (packed, alone)]
    assert tuple(golds[0]) == near(folder, *golds[1])
    assert golds[0][0] != golds[0][1]


@pytest.mark.parametrize("together", [0, 2], ids=["alone", "in a pack"])
def test_a_run_whose_judge_fails_is_refused_before_it_trains(runs: Any, tmp_path: Path, together: int) -> None:
    judge = function("def score(prompts, completions): raise RuntimeError('no licence')")
    for result in train(tmp_path / "runs", runs(judge), together):
        assert result.cause is Cause.REFUSED
        assert "judge function our_judge:score: raised for 16 completions (RuntimeError: no licence)" in result.message
        assert result.curve == ()


@pytest.mark.parametrize("together", [0, 2], ids=["alone", "in a pack"])
def test_a_judge_that_fails_on_one_policy_ends_that_run_alone(runs: Any, tmp_path: Path, together: int) -> None:
    """The judge is asked of the reference first, then of the runs in turn."""
    judge = function(
        "asked = []\n"
        "def score(prompts, completions):\n"
        "    asked.append(1)\n"
        "    return [float('nan') if len(asked) == 2 else 1.0] * len(prompts)\n"
    )
    first, second = train(tmp_path / "runs", runs(judge), together)
    assert first.cause is Cause.REFUSED
    assert "16 of 16 scores are not finite" in first.message
    assert first.curve
    assert second.cause is Cause.FINISHED, second.message


def test_in_float64_what_is_left_of_a_finished_run_is_measured_again_as_it_was(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another judge, whose gold is the mean of its scores of the same samples."""
    (config,) = runs(function(LENGTH), count=1)
    with float64(monkeypatch):
        (trained,) = train(tmp_path / "runs", [config], 1)
    again = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"judge": Judge(function="our_judge:twice")})}
    )
    with Path("our_judge.py").open("a") as file:
        file.write("def twice(prompts, completions):\n    return [2 * x for x in score(prompts, completions)]\n")
    sys.modules.pop("our_judge")
    folder = tmp_path / "runs" / config.key
    before = (folder / "result.json").read_bytes()
    with float64(monkeypatch):
        (result,) = train_all(AdapterEvaluator(), [Job(again, folder, placement=Placement(bf16=False))])
    assert result.cause is Cause.FINISHED, result.message
    found, was = result.final(), trained.final()
    assert found["gold"].value == pytest.approx(2 * was["gold"].value)
    assert found["gold"].halves == pytest.approx([2 * half for half in was["gold"].halves or ()])
    for name in ("kl", "margin", "ranking_gain", "length_ratio"):
        assert found[name].value == pytest.approx(was[name].value, abs=1e-9), name
    assert result.facts["judge"] == "function our_judge:twice"
    assert (folder / "result.json").read_bytes() == before


def test_a_run_is_measured_and_measured_again_in_the_precision_of_its_job(runs: Any, tmp_path: Path) -> None:
    """In float32 again as it was, by a hundredth of what bf16 makes of it."""
    (pinned,) = runs(function(LENGTH), count=1)
    left_open = {name: value for name, value in pinned.settings.items() if name not in ("bf16", "fp16")}
    config = pinned.model_copy(update={"settings": left_open})
    (trained,) = train(tmp_path / "runs", [config], 1)
    folder, was = tmp_path / "runs" / config.key, trained.final()
    off = {}
    for bf16 in (False, True):
        (result,) = train_all(AdapterEvaluator(), [Job(config, folder, placement=Placement(bf16=bf16))])
        found = result.final()
        off[bf16] = sum(abs(found[name].value - was[name].value) for name in ("kl", "margin", "chosen_shift"))
    assert off[False] < 0.01 * off[True]


def test_a_run_without_an_adapter_or_with_another_base_is_refused_and_not_measured(runs: Any, tmp_path: Path) -> None:
    configs = runs(function(LENGTH), count=2)
    trained = train(tmp_path / "runs", configs[:1], 1)
    assert trained[0].cause is Cause.FINISHED
    jobs = [Job(configs[1], tmp_path / "runs" / "nobody"), Job(configs[0], tmp_path / "runs" / configs[0].key)]
    none, found = train_all(AdapterEvaluator(), jobs)
    assert (none.cause, found.cause) == (Cause.REFUSED, Cause.FINISHED)
    assert "holds no adapter" in none.message


def test_the_worker_keeps_one_judge_for_all_of_its_runs(runs: Any, tmp_path: Path) -> None:
    judge = function("print('loaded once')\n" + LENGTH)
    worker = DPOTrainerWorker()
    configs = runs(judge, count=2)
    for config in configs:
        sys.modules.pop("our_judge", None)
        (result,) = train_all(worker, [Job(config, tmp_path / config.key)])
        assert result.cause is Cause.FINISHED
    assert "our_judge" not in sys.modules  # the second run did not import it again


# ---- pairwise judges ------------------------------------------------------------------------------------------------


def compare(text: str, answers: Sequence[str], others: Sequence[str]) -> Preferences:
    Path("our_judge.py").write_text(text)
    return load_pairwise(Judge(pairwise="our_judge:compare"))(["p"] * len(answers), answers, others)


def test_a_pairwise_judge_is_asked_in_both_orders_and_what_it_contradicts_is_a_tie() -> None:
    """It prefers the longer answer, and of equals the first: that taste for a place is a tie, and told."""
    text = (
        "def compare(prompts, answers_a, answers_b):\n"
        "    return [1.0 if len(a) >= len(b) else 0.0 for a, b in zip(answers_a, answers_b)]\n"
    )
    wins, contradicted = compare(text, ["long", "ab", "x"], ["a", "ba", "long"])
    assert wins == (1.0, 0.5, 0.0)
    assert contradicted == (False, True, False)


def test_preferences_that_agree_count_by_their_mean() -> None:
    """p(a, b) = .9 and p(b, a) = .3: a by .9 and by .7. One that is a half is on neither side."""
    text = (
        "said = {('a', 'b'): 0.9, ('b', 'a'): 0.3, ('c', 'd'): 0.5, ('d', 'c'): 0.2}\n"
        "def compare(prompts, answers_a, answers_b):\n"
        "    return [said[pair] for pair in zip(answers_a, answers_b)]\n"
    )
    wins, contradicted = compare(text, ["a", "c"], ["b", "d"])
    assert wins == pytest.approx((0.8, 0.65))
    assert contradicted == (False, False)


def test_a_preference_is_from_0_to_1() -> None:
    with pytest.raises(JudgeError, match="preferences are from 0 to 1, and 1 are not, such as 2"):
        compare("def compare(prompts, answers_a, answers_b): return [2]", ["a"], ["b"])


# ---- kept samples ---------------------------------------------------------------------------------------------------

ALL = (
    "def score(prompts, completions): return [len(c) for c in completions]\n"
    "def words(prompts, completions): return [c.count(' ') for c in completions]\n"
    "def ends(prompts, completions): return [float(c.endswith('.')) for c in completions]\n"
    "def compare(prompts, answers_a, answers_b):\n"
    "    return [(1 + (len(a) > len(b)) - (len(a) < len(b))) / 2 for a, b in zip(answers_a, answers_b)]\n"
)


@pytest.mark.parametrize("together", [pytest.param(0, marks=pytest.mark.slow), 2], ids=["alone", "in a pack"])
def test_judges_that_come_later_see_all_samples_and_need_no_adapter(runs: Any, tmp_path: Path, together: int) -> None:
    configs = runs(function(ALL))
    at = {"evaluation": configs[0].evaluation.model_copy(update={"at": (0.5, 1.0)})}
    configs = [config.model_copy(update=at) for config in configs]
    folders = [tmp_path / config.key for config in configs]
    jobs = [
        Job(config, folder, keep_adapter=False, keep_samples=True, placement=Placement(together=together))
        for config, folder in zip(configs, folders, strict=True)
    ]
    trained = train_all(DPOTrainerWorker(), jobs)
    texts, scores = read_texts(folders[1]), read_scores(folders[1])
    assert texts is not None
    assert scores is not None
    assert set(texts.texts) == set(scores.tokens) == {0, 2, 4}
    first = judge_at(configs[1], "judge")
    assert scores.scores_by(first) == {step: tuple(map(len, of)) for step, of in texts.texts.items()}
    final = trained[1].final()
    assert final["gold"].value == pytest.approx(np.mean(scores.scores_by(first)[4]))

    later = {
        "judge": Judge(function="our_judge:words"),
        "second_judge": Judge(pairwise="our_judge:compare"),
        "check": Check(function="our_judge:ends"),
    }
    later_ones = [c.model_copy(update={"evaluation": c.evaluation.model_copy(update=later)}) for c in configs]
    again = [Job(later_ones[i], folders[i], from_samples=True, against=(folders[1 - i],) if i else ()) for i in (0, 1)]
    found = train_all(AdapterEvaluator(), again)[1]
    assert found.cause is Cause.FINISHED, found.message
    spaces = {step: [text.count(" ") for text in of] for step, of in texts.texts.items()}
    golds = {m.step: m.value for m in found.measurements if m.name == "gold"}
    assert golds == pytest.approx({step: np.mean(spaces[step]) for step in (2, 4)})
    assert found.facts["reference_gold"] == pytest.approx(np.mean(spaces[0]))
    assert "kl" not in found.final()
    scores = read_scores(folders[1])
    assert scores is not None
    assert scores.scores_by(judge_at(later_ones[1], "check"))[4] == tuple(
        float(t.endswith(".")) for t in texts.texts[4]
    )
    other = read_texts(folders[0])
    assert other is not None
    against = {p.against: p for p in scores.preferred}
    assert against.keys() == {"", configs[0].key}
    lengths = [np.sign(len(a) - len(b)) for a, b in zip(texts.texts[4], other.texts[4], strict=True)]
    assert against[configs[0].key].wins == (tuple((1 + sign) / 2 for sign in lengths),)
    assert scores.scores_by(first)  # the first judge's word stays


def test_a_judge_that_comes_later_refuses_samples_of_which_some_were_too_long_to_be_kept(
    tmp_path: Path, runs: Any
) -> None:
    (config,) = runs(function(ALL), count=1)
    texts = KeptTexts(key=config.key, prompts=("a",), texts={0: ("b",)}, ended={0: (True,)})
    known = KeptScores(key=config.key, prompts=("1", "2"), seed=1, longest=8, tokens={0: (1, 1)})
    add_evaluation(tmp_path, texts, known)
    with pytest.raises(ValueError, match="keeps the samples of 1 of 2 prompts"):
        SampleJudge().judge(Job(config, tmp_path, from_samples=True))


def test_a_check_gives_shares(tmp_path: Path, runs: Any) -> None:
    (config,) = runs(function(ALL), count=1)
    folder = tmp_path / config.key
    train_all(DPOTrainerWorker(), [Job(config, folder, keep_samples=True)])
    checked = config.evaluation.model_copy(update={"check": Check(function="our_judge:score")})
    asked = config.model_copy(update={"evaluation": checked})
    (found,) = train_all(AdapterEvaluator(), [Job(asked, folder, from_samples=True)])
    assert found.cause is Cause.REFUSED
    assert "a check gives 0 to 1" in found.message
    (none,) = train_all(AdapterEvaluator(), [Job(asked, tmp_path / "nothing", from_samples=True)])
    assert "keeps no samples that can be read" in none.message
