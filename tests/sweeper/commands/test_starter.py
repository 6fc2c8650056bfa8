"""Facts about the studies that `sweeper init` and `sweeper tune` design: what they look at, and what fits."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from studies.records import DataConfig
from studies.spec import Study, StudySpec, load_study
from sweeper.commands.starter.cost import Machine
from sweeper.commands.starter.design import Design, design
from sweeper.commands.starter.facts import Facts, look
from sweeper.commands.starter.judge import NamedJudge
from sweeper.commands.starter.text import duration, study_name, study_text
from sweeper.planning.plan import make_plan
from tests.sweeper.conftest import Sweeper
from trainers.data.pairs import DataError, read_local
from trainers.data.sources import Rows
from trainers.examine.data import look_at_rows
from trainers.examine.lengths import Lengths
from trainers.examine.model import ModelFacts, look_at_model

CORES = Machine(2, gpu=False)
ONE_GPU = Machine(1, gpu=True)
QWEN = ModelFacts("Qwen/Qwen2.5-0.5B-Instruct", True, 494_000_000, "bfloat16", 32768, has_template=True)
README = Path(__file__).parents[3] / "README.md"


def facts(rows: int, model: ModelFacts = QWEN, tokens: int = 300, evaluation: int | None = None) -> Facts:
    made = [{"prompt": f"Q{i}", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(rows)]
    own = None if evaluation is None else made[:evaluation]
    found = Rows(made, own, [], [], rows, Counter(), ())
    some = tuple([tokens // 2] * min(rows, 300))
    return Facts(model, DataConfig(path="pairs.jsonl"), found, look_at_rows(found.train), Lengths(some, some, some))


def as_study(about: Facts, made: Design, folder: Path) -> tuple[StudySpec, str]:
    text = study_text(about, made, folder / "mine.yaml", ("A study.",))
    (folder / "mine.yaml").write_text(text)
    (folder / "pairs.jsonl").write_text("{}")
    return load_study(str(folder / "mine.yaml"), ()), text


def test_what_is_designed_can_conclude(tmp_path: Path) -> None:
    about = facts(5000)
    made = design(about, 8.0, ONE_GPU)
    spec, text = as_study(about, made, tmp_path)
    assert (spec.baseline, spec.replicates, spec.objective.tie_within) == ("sigmoid", made.replicates, 0.02)
    assert (spec.budget.wall_clock, spec.budget.trials) == (8 * 3600, made.trials)
    plan = make_plan(Study.of(spec))
    assert plan.runs == made.runs
    assert made.fits
    assert made.seconds <= 0.8 * 8 * 3600
    assert "replicates find a difference to sigmoid" in plan.power
    assert not spec.notices
    assert not any(arm.warnings for arm in plan.arms)
    assert max(map(len, text.splitlines())) <= 120
    assert [line for line in text.splitlines() if "#" not in line and re.search(r"\d", line)] == [
        '  model_name_or_path: "Qwen/Qwen2.5-0.5B-Instruct"'
    ], "every number has a comment"


def test_the_front_page_shows_what_is_designed(tmp_path: Path) -> None:
    """For the model of its example, on a GPU, within the hours that it names."""
    _, _, block = README.read_text().partition("```yaml\n")
    (tmp_path / "shown.yaml").write_text(block.partition("```")[0])
    (tmp_path / "pairs.jsonl").write_text("{}")
    shown = load_study(str(tmp_path / "shown.yaml"), ())
    about, judge = facts(5000), NamedJudge(model="ORG/REWARD-MODEL")
    made, _ = as_study(about, judge.within(design(about, 8.0, ONE_GPU)), tmp_path)
    assert made.evaluation.judge == shown.evaluation.judge
    for key in ("baseline", "replicates", "objective", "budget"):
        assert getattr(made, key) == getattr(shown, key), key
    assert set(made.variants) == set(shown.variants)
    assert made.base["max_steps"] == shown.base["max_steps"]
    assert made.base["lora_r"] == shown.base["lora_r"]


@pytest.mark.parametrize("rows", [1, 12, 60, 400, 20_000])
@pytest.mark.parametrize("size", [1e5, 1.35e8, 7e9, 7e10])
def test_a_design_fits_or_says_that_it_does_not(rows: int, size: float, tmp_path: Path) -> None:
    about = facts(rows, ModelFacts("org/m", True, int(size), "bfloat16", 4096, has_template=True))
    for machine, hours in product((CORES, ONE_GPU), (0.02, 0.2, 1.0, 8.0, 100.0)):
        made = design(about, hours, machine)
        assert made.fits != ("give more hours" in " ".join(made.told))
        assert 3 <= made.replicates <= made.most_replicates <= 24
        assert made.held_out >= 1
    spec, _ = as_study(about, made, tmp_path)
    assert spec.replicates == made.replicates


def test_few_rows_give_fewer_replicates_and_that_is_said() -> None:
    made = design(facts(200), 8.0, ONE_GPU)
    assert (made.replicates, made.held_out) == (4, 50)
    assert "200 rows are few: 4 replicates with 50 held-out pairs each" in made.told[0]
    assert not design(facts(5000), 8.0, ONE_GPU).told


def test_where_pairs_share_prompts_prompts_are_counted(tmp_path: Path) -> None:
    about = facts(760)
    for i, row in enumerate(about.rows.train):
        row["prompt"] = f"Q{i % 152}"
    made = NamedJudge(function="my_judge:score").within(design(about, 8.0, ONE_GPU))
    assert (made.held_out, made.held_out_prompts, made.prompts, made.most_replicates) == (125, 25, 25, 3)
    assert "152 prompts are few: 3 replicates with 25 held-out prompts each" in made.told[0]


def test_held_out_pairs_come_from_the_split_of_the_data(tmp_path: Path) -> None:
    made = design(facts(5000, evaluation=96), 8.0, ONE_GPU)
    assert made.replicates * made.held_out <= 96


def test_more_hours_are_never_for_a_smaller_study() -> None:
    runs = [design(facts(5000), hours, ONE_GPU).runs for hours in (0.1, 0.5, 2.0, 8.0, 50.0)]
    assert runs == sorted(runs)


def test_a_model_whose_positions_end_bounds_pairs_prompts_and_samples() -> None:
    gpt2 = ModelFacts("gpt2", True, 124_000_000, "float32", 1024, is_table=True, has_template=False)
    made = design(facts(5000, gpt2, tokens=3000), 8.0, ONE_GPU)
    assert made.max_length == 1024
    assert made.max_prompt_length + made.new_tokens - 1 <= 1024


def test_a_model_that_is_not_here_is_designed_for_by_plain_defaults(tmp_path: Path) -> None:
    about = look("org/none", "org/pairs", lambda _: None)
    made = design(about, 8.0, CORES)
    assert (made.replicates, made.trials) == (8, 4)
    spec, text = as_study(about, made, tmp_path)
    assert "org/none is not here yet" in text
    assert spec.replicates == 8


def test_the_embedded_model_has_as_many_replicates_as_it_has_tasks(tmp_path: Path) -> None:
    about = look("embedded", "embedded", lambda _: None)
    for hours in (0.05, 8.0):
        made = design(about, hours, CORES)
        assert made.most_replicates == 24
        spec, _ = as_study(about, made, tmp_path)
        assert spec.objective.metric == "gold"
        assert make_plan(Study.of(spec)).runs == made.runs


def test_a_model_is_told_by_its_config_and_the_heads_of_its_weights(tmp_path: Path) -> None:
    found = look_at_model("embedded")
    assert (found.parameters, found.dtype, found.positions, found.has_template) == (94_528, "float32", 64, False)
    assert "q_proj" in found.modules
    config: dict[str, Any] = {"model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "intermediate_size": 128, "torch_dtype": "bfloat16", "n_positions": 99}
    (tmp_path / "config.json").write_text(json.dumps(config))
    bare = look_at_model(str(tmp_path))
    assert bare.parameters == 2 * (4 * 64 * 64 + 3 * 64 * 128) + 64 * 1000
    assert (bare.dtype, bare.positions, bare.has_template) == ("bfloat16", 99, None)
    assert "no weights" in bare.problems[0]


def test_splits_of_a_folder_are_found_by_their_names(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "Q", "chosen": " a", "rejected": " b"}) + "\n"
    (tmp_path / "data").mkdir()
    for split in ("train_sft", "train_prefs", "test_prefs", "test_sft"):
        (tmp_path / "data" / f"{split}-00000-of-00001.jsonl").write_text(row * 3)

    def read(data: DataConfig) -> Rows | DataError | None:
        return read_local(data)

    found = look("org/none", str(tmp_path), read)
    assert (found.data.split, found.data.eval_split) == ("train_prefs", "test_prefs")


def test_messages_are_written_out_for_a_model_without_a_chat_template(tmp_path: Path) -> None:
    chat = [
        {
            "prompt": [{"role": "user", "content": f"Q{i}"}],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for i in range(30)
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, chat)))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "tokenizer_config.json").write_text("{}")
    found = look(str(tmp_path / "m"), str(tmp_path / "p.jsonl"), read_local)
    assert found.data.messages == "text"
    assert "messages, written as plain text" in found.in_words()[0]


@pytest.mark.parametrize(("hours", "said"), [(8.0, "8h"), (1.5, "90m"), (0.05, "3m"), (0.001, "4s"), (0.0001, "1s")])
def test_hours_are_written_as_a_study_says_them(hours: float, said: str) -> None:
    assert duration(hours) == said


@pytest.mark.parametrize(("file", "name"), [("a b.yaml", "a-b"), ("長.yaml", "study-"), ("-x.yaml", "study-x")])
def test_a_study_is_named_after_its_file(file: str, name: str) -> None:
    assert study_name(Path(file)) == name


def test_a_model_and_data_that_do_not_go_together_are_refused(sweeper: Sweeper, tmp_path: Path) -> None:
    for given in (("--data", "pairs.jsonl"), ("--model", "org/m"), ("--hours", "-1")):
        assert sweeper(tmp_path, "init", "mine.yaml", *given).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_judge_that_is_named_decides_and_is_shown_more_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_judge.py").write_text(
        "def score(prompts, completions):\n    return [len(c) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    plain = design(facts(5000), 8.0, ONE_GPU)
    own, _ = as_study(facts(5000), NamedJudge(function="my_judge:score").within(plain), tmp_path)
    assert own.evaluation.judge is not None
    assert own.evaluation.judge.function == "my_judge:score"
    assert own.objective.metric == "win_rate"
    assert (own.evaluation.prompts or 0) > plain.prompts


@pytest.mark.parametrize(
    ("judge", "data", "wrong"),
    [
        (NamedJudge("ORG/MODEL", "my:score"), "pairs.jsonl", "one judge decides"),
        (NamedJudge(function="score"), "pairs.jsonl", "must be module:name"),
        (NamedJudge("ORG/MODEL"), "embedded", "have a true reward"),
    ],
)
def test_a_judge_that_cannot_be_is_refused(judge: NamedJudge, data: str, wrong: str) -> None:
    (problem,) = judge.problems(data)
    assert wrong in problem
