"""No path outside the storage root."""

from pathlib import Path

import pytest

from tests.jobs import job_file, small_job
from vlmprof.errors import SpecError
from vlmprof.job.spec import read
from vlmprof.job.storage import STORAGE, inside_root, results_place


@pytest.mark.parametrize(
    ("storage", "without", "within"),
    [
        ("", "results/mine", "/root/mine"),
        ("results/other", "results/other", "/root/other"),
        ("other/deep", "other/deep", "/root/other/deep"),
        ("/root/there", "/root/there", "/root/there"),
        ("results", "results", "/root/."),
    ],
)
def test_the_root_stands_for_the_folder_results(
    storage: str, without: str, within: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STORAGE, raising=False)
    assert results_place(storage, "mine") == without
    monkeypatch.setenv(STORAGE, "/root/")
    assert results_place(storage, "mine") == within


@pytest.mark.parametrize("storage", ["/elsewhere", "/root", "/rootless/x", "~/x", "s3://other/x", "../x", "a/../../x"])
def test_a_job_that_leads_out_of_the_root_is_a_fault(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE, "/root/inner")
    with pytest.raises(ValueError, match=r"leads out of|expected a place inside /root/inner"):
        inside_root(storage)


def test_a_link_out_of_the_root_leads_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    monkeypatch.setenv(STORAGE, str(tmp_path / "root"))
    assert inside_root(str(tmp_path / "root" / "fine"))
    with pytest.raises(ValueError, match="expected a place inside"):
        inside_root(str(tmp_path / "root" / "link" / "x"))


def test_a_bucket_can_be_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE, "s3://bucket/sweeps")
    assert results_place("", "mine") == "s3://bucket/sweeps/mine"
    assert inside_root("s3://bucket/sweeps/x")
    with pytest.raises(ValueError, match="inside s3://bucket/sweeps"):
        inside_root("s3://bucket/sweeps-of-others")


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "A", "x y", "", "x\n"])
def test_a_name_is_a_slug(name: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(SpecError, match="name"):
        read(job_file(tmp_path, tiny_checkpoint, name=name))


def test_a_job_is_told_with_its_field(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(SpecError, match=r"storage: .*'\.\.' leads out"):
        small_job(tmp_path, tiny_checkpoint, storage="../elsewhere")


def test_yaml_that_would_build_an_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    mark = tmp_path / "ran"
    path.write_text(f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]\n")
    with pytest.raises(SpecError, match=r"is not YAML: line 1 has the tag .*; a job has no tags"):
        read(path)
    assert not mark.exists()
