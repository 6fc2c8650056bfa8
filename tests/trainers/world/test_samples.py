"""Facts about the command that prints reviews before and after training."""

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from trainers.world.pairs import load_model
from trainers.world.samples import main


def test_it_prints_gold_and_text_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get_peft_model(load_model(), LoraConfig(r=2, target_modules="all-linear")).save_pretrained(str(tmp_path))
    main([str(tmp_path), "--n", "3", "--task", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "gold task 1: censure"
    assert (lines[1], lines[5]) == ("before training:", "after training:")
    # a fresh adapter changes nothing, and both use the same seed
    assert lines[2:5] == lines[6:9]
    assert all(" review of the " in line and line.strip()[0] in "+-" for line in lines[2:5])


def test_without_an_adapter_it_prints_the_reference_alone(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--n", "2"])
    assert len(capsys.readouterr().out.splitlines()) == 4
