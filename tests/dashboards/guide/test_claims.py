"""The guide's claims as data: each can be told from the others, says what would be tested, and fits a real loss."""

from __future__ import annotations

import pytest

from dashboards.guide.claims import CLAIMS, Situation, guide_words, situations
from studies.losses.table import LOSSES
from studies.records.world_units import BY_PROMPT
from studies.schema.types import Scenario


def test_every_claim_has_a_name_of_its_own_a_loss_that_exists_and_a_sentence() -> None:
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.loss in LOSSES, claim.id
        assert claim.words, claim.id
        assert claim.means, claim.id


def test_a_claim_without_a_test_says_why() -> None:
    assert all(claim.reason for claim in CLAIMS if claim.test is None)


def test_the_guides_table_has_three_words_for_each_of_its_losses() -> None:
    for loss in ("sigmoid", "ipo", "hinge", "robust", "bco_pair", "discopop", "apo_zero", "apo_down"):
        assert list(guide_words(loss)) == ["Speed", "Stability", "Best for"]
    assert guide_words("bco_pair")["Speed"] == "Medium"
    assert guide_words("nca_pair") == {}


@pytest.mark.parametrize(
    ("scenario", "kind"),
    [
        (Scenario(), "clean"),
        (Scenario(label_flip=0.0), "clean"),
        (Scenario(pairs_from="same"), "clean"),
        (Scenario(label_flip=0.2), "flipped"),
        (Scenario(label_flip=0.2, flip_by="chance", rejected_from="own"), "flipped"),
        (Scenario(label_flip=0.2, flip_by="length"), "biased"),
        (Scenario(rejected_from="another"), "shuffled"),
        (Scenario(rejected_from="another", label_flip=0.2), None),
        (Scenario(rejected_from="model"), None),
        (Scenario(rows=128), "small"),
        (Scenario(rows=1000), None),
        (Scenario(pairs_from="worse"), "worse"),
        (Scenario(pairs_from="better"), "better"),
        (Scenario(label_flip=0.2, rows=128), None),
    ],
)
def test_a_scenario_is_of_a_kind_where_it_changes_that_alone(scenario: Scenario, kind: Situation | None) -> None:
    assert situations({"it": scenario}) == ({} if kind is None else {kind: ("it",)})


@pytest.mark.parametrize(
    ("source", "found"),
    [("embedded", {}), (BY_PROMPT, {"shuffled": ("it",)}), ("org/pairs", {"shuffled": ("it",)})],
)
def test_answers_are_shuffled_only_where_the_prompt_decides_what_they_are_worth(
    source: str, found: dict[Situation, tuple[str, ...]]
) -> None:
    assert situations({"it": Scenario(rejected_from="another")}, source) == found


def test_scenarios_of_one_kind_are_kept_together() -> None:
    found = situations({"a": Scenario(label_flip=0.2), "b": Scenario(), "c": Scenario(label_flip=0.4)})
    assert found == {"flipped": ("a", "c"), "unflipped": ("b",), "clean": ("b",)}


def test_flips_of_few_pairs_are_held_against_as_few_pairs_without_them() -> None:
    few = {"rows": 512, "base": {"max_steps": 192}}
    found = situations(
        {
            "clean": Scenario(),
            "few": Scenario(**few),
            "flips": Scenario(**few, label_flip=0.4),
            "longer": Scenario(**few, label_flip=0.4, flip_by="length"),
            "other": Scenario(rows=512, label_flip=0.4),
        }
    )
    assert found == {"clean": ("clean",), "flipped": ("flips",), "unflipped": ("few",), "biased": ("longer",)}


def test_training_longer_leaves_a_scenario_of_its_kind_and_another_rate_does_not() -> None:
    longer, faster = Scenario(rows=128, base={"max_steps": 360}), Scenario(rows=128, base={"learning_rate": 1e-2})
    assert situations({"it": longer}) == {"small": ("it",)}
    assert situations({"it": faster}) == {}
