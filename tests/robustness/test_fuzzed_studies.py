"""Any bytes given as a study file are a study or are refused: in time, in words, with nothing created."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings

from tests.robustness.harness import call, check_refusal, contents, folder_with
from tests.robustness.study_files import settings_of_a_study, study_files

# Without `explain`, which traces every line and would count as time of the program.
patient = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    phases=[phase for phase in Phase if phase is not Phase.explain],
)


def plan_and_run_agree(content: bytes, options: list[str]) -> None:
    """`plan` shows the study or refuses it; what it refuses `run` refuses too. Neither creates anything."""
    chosen = [word for option in options for word in ("--set", option)]
    with folder_with({"study.yaml": content}) as folder:
        code, out, err = call("plan", "study.yaml", *chosen)
        event(f"exit code {code}")
        if code != 0:
            check_refusal(code, out, err)
            check_refusal(*call("run", "study.yaml", *chosen))
        assert contents(folder) == {"study.yaml"}


@pytest.mark.slow
@settings(patient, max_examples=120)
@given(study_files())
def test_no_study_file_gives_a_traceback_or_leaves_anything(content: bytes) -> None:
    plan_and_run_agree(content, [])


@settings(patient, max_examples=40)
@given(settings_of_a_study())
def test_no_set_option_gives_a_traceback_or_leaves_anything(options: list[str]) -> None:
    plan_and_run_agree(b"study: s\nbase: {model_name_or_path: embedded}\nvariants: {sigmoid: {}}\n", options)


@pytest.mark.soak
@settings(patient, max_examples=5000)
@given(study_files())
def test_no_study_file_of_5000_gives_a_traceback_or_leaves_anything(content: bytes) -> None:
    plan_and_run_agree(content, [])
