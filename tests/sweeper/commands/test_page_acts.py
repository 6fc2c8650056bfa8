"""The acts of the live page: the next version of a study file, and what is said where no sweep runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboards.live.ports import Edit, Run
from studies.requests import Extend, Pause, Resume, Retry, Stop, Take
from sweeper.commands.page.acts import command, hands
from sweeper.commands.page.files import StudyFiles
from sweeper.commands.page.versions import clone, more, write

HEAD = """
study: small  # of mine
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
space: {beta: {low: 0.01, high: 1.0, log: true}}  # shared
budget: {trials: 3}
objective: {metric: ranking_gain}
"""
FLOW = HEAD + "variants: {sigmoid: {}, ipo: {space: {beta: {low: 0.3, high: 3.0}}}}  # two of them\n"
BLOCK = f"""{HEAD}variants:
  sigmoid: {{}}          # plain
  ipo:
    space:
      beta: {{low: 0.3, high: 3.0}}  # larger
# end
"""


@pytest.mark.parametrize("text", [FLOW, BLOCK], ids=["flow", "block"])
@pytest.mark.parametrize("variant", ["sigmoid", "ipo"])
@pytest.mark.parametrize("value", ["0.3", "{low: 0.2, high: 0.4}"])
def test_a_clone_is_added_and_all_else_stays_as_it_was_written(
    tmp_path: Path, text: str, variant: str, value: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    found = clone(tmp_path, "mine.yaml", variant, "copy", {"beta": value})
    assert found.problems == ()
    assert [line for line in found.diff if line.startswith("-") and not line.startswith("---")] == (
        []
        if text is BLOCK
        else ["-variants: {sigmoid: {}, ipo: {space: {beta: {low: 0.3, high: 3.0}}}}  # two of them"]
    )
    assert len([line for line in found.diff if line.startswith("+") and not line.startswith("+++")]) == 1
    assert f"loss_type: [{variant}]" in found.edit.text
    assert (tmp_path / "mine.yaml").read_text() == text  # nothing is written yet


@pytest.mark.parametrize(
    ("budget", "key", "value", "now"),
    [
        ("budget: {trials: 3}", "budget.trials", "5", "budget: {trials: 5}"),
        ("budget: {trials: 3}  # few", "budget.wall_clock", "8h", "budget: {trials: 3, wall_clock: 8h}  # few"),
        ("budget:\n  trials: 3  # few", "budget.trials", "5", "budget:\n  trials: 5  # few"),
        ("budget:\n  trials: 3", "budget.gpu_hours", "2", "budget:\n  gpu_hours: 2\n  trials: 3"),
        ("sampler_seed: 1", "budget.trials", "5", "sampler_seed: 1\nvariants: {sigmoid: {}}\nbudget: {trials: 5}"),
        ("budget: {trials: 3}", "replicates", "4", "budget: {trials: 3}\nvariants: {sigmoid: {}}\nreplicates: 4"),
    ],
)
def test_more_is_written_into_the_file_and_all_else_stays(
    tmp_path: Path, budget: str, key: str, value: str, now: str
) -> None:
    head = HEAD.replace("budget: {trials: 3}", budget)
    (tmp_path / "mine.yaml").write_text(f"{head}variants: {{sigmoid: {{}}}}\n")
    found = more(tmp_path, "mine.yaml", key, value)
    assert found.problems == ()
    assert set(now.splitlines()) <= set(found.edit.text.splitlines())
    assert len([line for line in found.diff if line.startswith("+") and not line.startswith("+++")]) == 1


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("budget.trials", "", "say how many"),
        ("budget.trials", "3", "says so already"),
        ("budget.trials", "-1", "budget.trials"),
        ("study", "other", "by hand"),
    ],
)
def test_more_that_cannot_be_is_refused_with_why(tmp_path: Path, key: str, value: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(FLOW)
    found = more(tmp_path, "mine.yaml", key, value)
    assert said in " ".join(found.problems)
    assert found.diff == ()


def test_the_version_before_is_kept_and_a_file_that_changed_since_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(FLOW)
    first = clone(tmp_path, "mine.yaml", "ipo", "copy", {"beta": "0.3"})
    assert write(tmp_path, "mine.yaml", first.edit).outcome == "done"
    assert (file.read_text(), (tmp_path / "mine.yaml.v1").read_text()) == (first.edit.text, FLOW)
    assert write(tmp_path, "mine.yaml", first.edit).outcome == "refused"
    second = clone(tmp_path, "mine.yaml", "ipo", "other", {"beta": "0.4"})
    assert second.kept_as == "mine.yaml.v2"


@pytest.mark.parametrize(
    ("variant", "name", "settings", "said"),
    [
        ("hinge", "copy", {"beta": "0.3"}, "no variant hinge"),
        ("ipo", "sigmoid", {"beta": "0.3"}, "a name of its own"),
        ("ipo", "copy", {"beta": ""}, "a name and a value"),
        ("ipo", "copy", {"no_such": "0.3"}, "no_such"),
        ("ipo", "copy", {"beta": "-1"}, "beta"),
        ("ipo", "a b: {", {"beta": "0.3"}, "a b"),
    ],
)
def test_what_the_study_could_not_run_is_refused_with_why(
    tmp_path: Path, variant: str, name: str, settings: dict[str, str], said: str
) -> None:
    (tmp_path / "mine.yaml").write_text(FLOW)
    found = clone(tmp_path, "mine.yaml", variant, name, settings)
    assert said in " ".join(found.problems)
    assert found.diff == ()


def test_every_act_has_its_command() -> None:
    acts = (
        Stop(),
        Stop(now=True),
        Pause("ipo"),
        Resume("ipo"),
        Retry(("refused",)),
        Extend(trials=4),
        Run(),
        Take("mine.yaml"),
    )
    assert [command(lambda _: "mine.yaml", "small", act) for act in acts] == [
        "sweeper stop mine.yaml",
        "sweeper stop mine.yaml --now",
        "sweeper pause mine.yaml ipo",
        "sweeper resume mine.yaml ipo",
        "sweeper retry mine.yaml --cause refused",
        "sweeper run mine.yaml --set budget.trials=4",
        "sweeper run mine.yaml --detach",
        "sweeper take mine.yaml",
    ]


def test_what_needs_a_sweep_is_refused_without_one_with_the_command_that_does_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs" / "small"
    runs.mkdir(parents=True)
    (runs / "study.json").write_text('{"id": "a", "owner": "b", "folder": "c", "format": "2", "version": "0"}')
    do = hands(tmp_path, lambda _: "mine.yaml", str, lambda _: ("sigmoid", "ipo")).do
    assert do("small", Stop()).outcome == "refused"
    assert "sweeper retry mine.yaml" in do("small", Retry()).message
    assert do("small", Pause("ipo")).outcome == "done"
    assert do("small", Pause("sigmoid")).outcome == "refused"  # none would be left
    assert do("small", Resume("ipo")).outcome == "done"
    assert do("other", Stop()).outcome == "refused"


def test_of_two_files_with_one_study_none_is_taken_and_the_acts_say_which(tmp_path: Path) -> None:
    for name in ("mine.yaml", "older.yaml"):
        (tmp_path / name).write_text(FLOW)
    (tmp_path / "link.yaml").symlink_to("mine.yaml")  # no other file
    files = StudyFiles(tmp_path, None)
    found = hands(tmp_path, files.file, files.why_none, lambda _: ())
    assert files.file("small") is None
    for said in (
        found.do("small", Run()).message,
        found.do("small", Edit(FLOW, "")).message,
        *found.clone("small", "ipo", "copy", {"beta": "0.3"}).problems,
    ):
        assert "link.yaml, older.yaml all name the study small" in said
    assert (tmp_path / "older.yaml").read_text() == FLOW
    assert StudyFiles(tmp_path, "older.yaml").file("small") == "older.yaml"
    (tmp_path / "older.yaml").write_text(FLOW.replace("study: small", "study: another"))
    assert files.file("small") == "link.yaml"


def test_a_file_is_parsed_once_and_one_that_names_no_study_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def read(file: Path) -> dict[str, str]:
        parsed.append(file.name)
        return {"study": "small"}

    monkeypatch.setattr("sweeper.commands.page.files.read_yaml", read)
    (tmp_path / "mine.yaml").write_text(FLOW)
    (tmp_path / "other.yaml").write_text("a: [1, 2]\n")
    files = StudyFiles(tmp_path, None)
    assert [files.file("small") for _ in range(3)] == ["mine.yaml"] * 3
    assert parsed == ["mine.yaml"]


def test_an_edit_keeps_a_link_and_the_permissions_of_the_file(tmp_path: Path) -> None:
    file, link = tmp_path / "real.yaml", tmp_path / "sub" / "mine.yaml"
    file.write_text(FLOW)
    file.chmod(0o600)
    link.parent.mkdir()
    link.symlink_to(file)
    assert write(tmp_path, "sub/mine.yaml", Edit(FLOW, BLOCK)).outcome == "done"
    assert link.is_symlink()
    assert file.read_text() == BLOCK
    assert [one.stat().st_mode & 0o777 for one in (file, tmp_path / "real.yaml.v1")] == [0o600, 0o600]
