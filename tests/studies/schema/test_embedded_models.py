"""The embedded models in a study: which one a run trains, and whose pairs it gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.design.identity import question_of
from studies.records import EMBEDDED, EMBEDDED_GPT2, RunConfig
from studies.schema.contents import sources
from studies.spec import Study, StudyError, load_study, resolve_run

STUDY = """
study: two
base: {model_name_or_path: BASE, use_peft: true, learning_rate: 1.0e-3, max_steps: 10}
variants: {sigmoid: {}, other: {loss_type: sigmoid, base: {model_name_or_path: embedded-gpt2}}}
evaluate: {max_new_tokens: 32}
scenarios: {own: {}, gpt2: {base: {model_name_or_path: embedded-gpt2}}, llama: {base: {model_name_or_path: embedded}}}
"""


def study_of(folder: Path, text: str = STUDY, base: str = EMBEDDED) -> Study:
    (folder / "study.yaml").write_text(text.replace("BASE", base))
    return Study.of(load_study(folder / "study.yaml"))


def run_of(study: Study, variant: str, scenario: str) -> RunConfig:
    return resolve_run(study.spec, study.variants[variant], scenario, trial=0, knobs={}, block=100, seed=0)


@pytest.mark.parametrize(
    ("base", "variant", "scenario", "trained"),
    [
        (EMBEDDED, "sigmoid", "own", EMBEDDED),
        (EMBEDDED, "sigmoid", "gpt2", EMBEDDED_GPT2),
        (EMBEDDED, "other", "own", EMBEDDED_GPT2),
        (EMBEDDED_GPT2, "sigmoid", "own", EMBEDDED_GPT2),
        (EMBEDDED_GPT2, "sigmoid", "llama", EMBEDDED),
    ],
)
def test_a_run_gets_pairs_that_the_model_which_it_trains_wrote(
    tmp_path: Path, base: str, variant: str, scenario: str, trained: str
) -> None:
    config = run_of(study_of(tmp_path, base=base), variant, scenario)
    assert (config.settings["model_name_or_path"], config.data.path) == (trained, trained)
    assert sources(config.settings, config.data) == {}


def test_the_same_draw_of_two_embedded_models_is_two_runs_with_the_same_task_each_a_question_of_its_own(
    tmp_path: Path,
) -> None:
    study = study_of(tmp_path)
    llama, gpt2 = (run_of(study, "sigmoid", scenario) for scenario in ("own", "gpt2"))
    assert llama.key != gpt2.key
    assert llama.key == run_of(study, "sigmoid", "llama").key
    assert llama.key_of_first_tasks is not None
    assert gpt2.key_of_first_tasks is not None
    assert len({question_of(study.spec, scenario, study.variants["sigmoid"]) for scenario in ("own", "gpt2")}) == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            ("variants", "data: {path: embedded-gpt2}\nvariants"),
            ["data.path", "embedded-gpt2 is a model", "use embedded"],
        ),
        (
            ("variants", "data: {path: org/pairs}\nvariants"),
            ["base.model_name_or_path", "org/pairs", "data.path: embedded"],
        ),
        (
            ("gpt2: {base: {model_name_or_path: embedded-gpt2}}", "gpt2: {base: {model_name_or_path: [a]}}"),
            ["embedded-gpt2"],
        ),
        (("max_new_tokens: 32", "max_new_tokens: 58"), ["58", "embedded-gpt2 has positions for", "give 32"]),
        (("evaluate: {max_new_tokens: 32}", ""), ["evaluate.max_new_tokens", "256", "57"]),
        (("BASE", "org/model"), ["data.path", "written for the embedded models"]),
        (("BASE", "embedded-gpt3"), ["embedded-gpt3"]),
    ],
)
def test_a_model_and_data_that_do_not_go_together_are_refused(
    tmp_path: Path, changed: tuple[str, str], words: list[str]
) -> None:
    with pytest.raises(StudyError) as refused:
        study_of(tmp_path, STUDY.replace(*changed))
    assert all(word in str(refused.value) for word in words)
