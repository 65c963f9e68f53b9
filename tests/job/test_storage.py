"""No path outside the storage root."""

from pathlib import Path

import pytest

from tests.jobs import job_file, small_job
from vlmprof.errors import SpecError
from vlmprof.job.spec import read
from vlmprof.job.storage import STORAGE, inside_root, results_place
from vlmprof.trial.resolve import prepare


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


@pytest.mark.parametrize("given", [{"storage": "link/x"}, {"storage": "results/link"}, {"storage": "", "name": "link"}])
def test_no_name_below_the_root_leads_out_of_it_by_a_link(
    given: dict[str, str], tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative ones, and those that a job's name makes: it is the place that counts, not how it was written."""
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "own").symlink_to(tmp_path / "root" / "inner")
    monkeypatch.setenv(STORAGE, str(tmp_path / "root"))
    assert read(job_file(tmp_path, tiny_checkpoint, storage="own/x")).storage == "own/x"
    with pytest.raises(SpecError, match="leads by a link out of"):
        read(job_file(tmp_path, tiny_checkpoint, **given))


@pytest.mark.parametrize("dots", ["%2e%2e", ".%2E", "%252e%252e", "%25252e.", "..%5cx", "a%2f..%2f..", "..\\x"])
@pytest.mark.parametrize("before", ["s3://bucket/root/", "file:///root/", "", "results/"])
def test_dots_that_are_encoded_lead_out_too(dots: str, before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow decodes what stands in a URI, and a relative path becomes a part of one below a root in a store."""
    for root in ("s3://bucket/root", "/root"):
        monkeypatch.setenv(STORAGE, root)
        with pytest.raises(ValueError, match=r"leads out of|expected a place inside"):
            inside_root(f"{before}{dots}/elsewhere")


@pytest.mark.parametrize(
    "storage",
    ["s3://bucket/root/x?endpoint_override=evil.example", "s3://bucket/root/x", "x?endpoint_override=evil", "x#y"],
)
def test_another_server_is_outside_a_root_in_an_object_store(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE, "s3://bucket/root?region=eu-1")
    assert results_place("x", "mine") == "s3://bucket/root/x?region=eu-1"
    assert inside_root("s3://bucket/root/x?region=eu-1")
    with pytest.raises(ValueError, match="expected a"):
        inside_root(storage)


def test_a_file_uri_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    monkeypatch.setenv(STORAGE, str(tmp_path / "root"))
    assert inside_root(f"file://{tmp_path}/root/x")
    with pytest.raises(ValueError, match="expected a place inside"):
        inside_root(f"file://{tmp_path}/root/%6cink/x")


@pytest.mark.parametrize("storage", ["~no-such-user/x", "/" + "x" * 300 + "/y", "a\0b"])
def test_a_path_that_leads_nowhere_is_a_fault(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE, "/root/inner")
    with pytest.raises(ValueError, match=r"expected a place|leads nowhere|NUL"):
        inside_root(storage)


KEY = "c4n4ry-K3Y"


@pytest.mark.parametrize(
    ("storage", "named"),
    [
        (f"abfs://c@a.dfs.core.windows.net/x?client_secret={KEY}", "client_secret"),
        (f"abfs://c@a.dfs.core.windows.net/x?se=2026&sig={KEY}", "'se'"),
        (f"abfs://c@a.dfs.core.windows.net/x?{KEY}", ""),
        (f"abfs://a:{KEY}@c/x", "'@'"),
        (f"abfs://a%3A{KEY}@c/x", "'@'"),
        (f"s3://AKIA:{KEY}@bucket/../x", "'@'"),
        (f"s3://AKIA:{KEY[:4]}/{KEY}@bucket/x", "':'"),
        (f"s3://bucket/x?access_key=AKIA&secret_key={KEY}", "access_key"),
        (f"s3://bucket/x?X-Amz-Signature={KEY}", "X-Amz-Signature"),
        (f"s3://bucket/x?endpoint_override=https://me:{KEY}@minio", "endpoint_override"),
        (f"gs://bucket/x?access_token={KEY}", "access_token"),
        (f"gs://{KEY}@bucket/x", "'@'"),
        (f"file:///x?password={KEY}", "password"),
    ],
)
def test_keys_in_a_uri_are_refused_by_the_name_of_the_parameter_and_never_shown(
    storage: str, named: str, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for root in ("", str(tmp_path)):
        monkeypatch.setenv(STORAGE, root)
        with pytest.raises(SpecError, match="a URI must not contain keys") as refused:
            read(job_file(tmp_path, tiny_checkpoint, storage=storage))
        assert named in str(refused.value)
        assert KEY not in str(refused.value) or storage.endswith(f"?{KEY}")
    monkeypatch.setenv(STORAGE, storage)
    with pytest.raises(SpecError, match=f"{STORAGE} names no place for results: a URI must not contain keys"):
        read(job_file(tmp_path, tiny_checkpoint, storage=""))


def test_a_place_without_keys_is_taken(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for storage in (
        "s3://bucket/sweeps/mine?endpoint_override=minio.example:9000&region=us-east-1&scheme=http",
        "gs://anonymous@bucket/x",
        "abfs://container@account.dfs.core.windows.net/x",
        "100%/a+b=c@d",
    ):
        assert read(job_file(tmp_path, tiny_checkpoint, storage=storage)).storage == storage


def test_no_url_of_a_job_may_hold_a_key(tmp_path: Path, tiny_checkpoint: Path) -> None:
    url = f"https://me:{KEY}@data.example/questions"
    tasks = [{"name": "local", "path": url, "metric": "exact_match"}]
    with pytest.raises(SpecError, match=r"tasks\.0\.path: a URL in a job must not contain keys"):
        prepare(job_file(tmp_path, tiny_checkpoint, tasks=tasks))


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
