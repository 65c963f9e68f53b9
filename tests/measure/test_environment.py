import PIL
import pytest
import tokenizers
import torch
import transformers

from vlmprof import __version__
from vlmprof.measure import versions
from vlmprof.measure.environment import environment
from vlmprof.measure.memory import read_peak, reset_peak
from vlmprof.store.schema import trials_schema


def test_every_fact_has_a_column_and_none_is_made_up() -> None:
    facts = environment("cpu")
    assert set(facts) <= set(trials_schema([]).names)
    assert facts["device"] == "CPU" and facts["gpu_driver"] is None and facts["gpu_clock_mhz"] is None
    assert facts["torch"] == torch.__version__
    assert facts["transformers"] == transformers.__version__
    assert facts["pillow"] == PIL.__version__ and facts["tokenizers"] == tokenizers.__version__
    assert facts["cuda"] == (torch.version.cuda or "none") and facts["torchvision"] == versions.installed("torchvision")
    assert facts["vlmprof"] == __version__
    assert facts["cpu_threads"] == torch.get_num_threads()


def test_what_is_not_installed_is_none() -> None:
    assert versions.installed("no-such-distribution") == "none"


def test_a_cpu_has_no_peak_to_report() -> None:
    reset_peak("cpu")
    assert read_peak("cpu") is None


def test_answers_are_combined_only_between_equal_decoders_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    before = versions.software.__wrapped__()
    assert all(f"{name} " in before for name in ("torch", "transformers", "tokenizers", "pillow", "torchvision"))
    real = versions.version
    monkeypatch.setattr(versions, "version", lambda name: "1.0" if name == "pillow" else real(name))
    assert versions.software.__wrapped__() != before
