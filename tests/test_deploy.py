"""What the docs give to start clusters from: valid where a schema can say so, private, and with a token everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_docs import pinned

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy"
LAUNCHED = [ROOT / "cluster.yaml", DEPLOY / "on-premises.yaml"]

# KubeRay's API reference, ray.io/v1: https://ray-project.github.io/kuberay/reference/api/
RAY_JOB = {
    *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector"),
    *("submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode"),
    *("entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished", "suspend"),
    "shutdownAfterJobFinishes",
}
RAY_CLUSTER = {
    *("suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations", "enableInTreeAutoscaling", "authOptions"),
    *("gcsFaultToleranceOptions", "headGroupSpec", "rayVersion", "workerGroupSpecs"),
}
HEAD = {"template", "headService", "enableIngress", "rayStartParams", "serviceType"}
WORKERS = {
    *("suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "rayStartParams"),
    *("template", "scaleStrategy", "numOfHosts"),
}


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda path: path.name)
def test_a_launched_cluster_passes_ray_s_own_check(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(path.read_text())))


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda path: path.name)
def test_every_start_asks_for_the_token_and_the_dashboard_stays_on_loopback(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    head, workers = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    starts = [command for command in (*head, *workers) if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command and "VLMPROF_STORAGE=" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0] and "--num-gpus=0" in starts[0]
    assert any(source == "~/.ray" for source in config["file_mounts"].values()), "the token must reach every machine"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]


def test_the_manifest_says_only_what_kuberay_knows() -> None:
    manifest = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]
    assert set(spec) <= RAY_JOB and set(cluster) <= RAY_CLUSTER and set(cluster["headGroupSpec"]) <= HEAD
    assert all(set(group) <= WORKERS for group in cluster["workerGroupSpecs"])
    assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == pinned("ray")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all(isinstance(value, str) for group in groups for value in group["rayStartParams"].values())
    for group in groups:
        _mounts_exist(group["template"]["spec"])
    assert cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) == {"env_vars"}


def _mounts_exist(pod: dict[str, Any]) -> None:
    there = {volume["name"] for volume in pod["volumes"]}
    assert all(mount["name"] in there for container in pod["containers"] for mount in container["volumeMounts"])


def test_the_slurm_script_is_bash_and_holds_its_token_in_a_private_file() -> None:
    script = DEPLOY / "sweep.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "umask 077" in text and "RAY_AUTH_MODE=token" in text
    assert not re.search(r"RAY_AUTH_TOKEN=", text), "an exported token would stand in the job's record"
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, "-S", "error", script], check=True)
