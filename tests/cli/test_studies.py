"""`sweep studies`, and the names that a shell completes."""

import pytest

from sweep.cli.data_options import complete_data
from sweep.cli.options import complete_studies
from sweep.cli.studies import questions, studies
from sweep.data.packaged import DATA_SETS
from sweep.errors import UsageError
from sweep.machine.device import device_named
from sweep.study.finding import study_names


def test_every_study_has_its_question(capsys: pytest.CaptureFixture[str]) -> None:
    studies()
    said = capsys.readouterr().out
    for name in study_names():
        assert name in said
        assert len(questions()[name]) > 20
    assert "Which learning rate, rank and loss? The search to start with." in said


def test_completion() -> None:
    assert complete_studies("lr_") == [name for name in study_names() if name.startswith("lr_")] != []
    assert "mini-vtab" in complete_data("mini")
    assert set(DATA_SETS) <= set(complete_data(""))
    assert complete_data("no-such") == []


def test_a_mac_s_gpu_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"64-bit floats.*Use --device cpu"):
        device_named("mps")
