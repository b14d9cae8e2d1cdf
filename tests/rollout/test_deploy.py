"""The cluster recipes: a shell that can read them, options that the command has, a scheduler that says what was run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from bench.cli import build_parser

DEPLOY = Path(__file__).parents[2] / "deploy"

SRUN = """#!/bin/bash
echo "srun $*" >> "$CALLS"
case "$*" in *"ray start"*) sleep 30;; esac
"""


def made(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("nodes", [1, 3])
def test_slurm_script_starts_a_head_the_others_and_one_driver(tmp_path: Path, nodes: int) -> None:
    made(tmp_path, "srun", SRUN)
    made(tmp_path, "ray", "#!/bin/bash\nexit 0\n")
    made(tmp_path, "scontrol", "#!/bin/bash\nprintf 'a1\\na2\\na3\\n'\n")
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "a[1-3]", "SLURM_NNODES": str(nodes), "SLURM_CPUS_PER_TASK": "8",
    }  # fmt: skip
    arguments = ["--policy", "dir with space", "--out", "o"]
    process = subprocess.Popen(
        ["bash", str(DEPLOY / "slurm.sh"), *arguments], env=environment, start_new_session=True
    )  # the script's steps end with it on Slurm; here its whole session is ended
    assert process.wait(60) == 0
    wanted, until = 2 if nodes == 1 else 3, time.monotonic() + 30
    while (tmp_path / "calls").read_text().count("\n") < wanted and time.monotonic() < until:
        time.sleep(0.05)  # the steps are started in the background
    os.killpg(process.pid, 15)
    calls = sorted((tmp_path / "calls").read_text().splitlines(), key=lambda line: "rollout" in line)
    assert len(calls) == wanted
    assert all("--cpus-per-task=8" in call and ("-w a1" in call or "-x a1" in call) for call in calls)
    head = next(call for call in calls if "--head" in call)
    assert "-N1 -n1 -w a1 ray start --head --port=23456 --num-cpus=8" in head
    if nodes == 3:
        assert any("-N2 -n2 -x a1 ray start --address=a1:23456 --num-cpus=8" in call for call in calls)
    assert "--overlap -N1 -n1 -w a1 wristbench rollout --ray-address a1:23456 --policy dir with space" in calls[-1]


def test_kubernetes_runs_a_command_that_exists() -> None:
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[0] == "wristbench"
    arguments = build_parser().parse_args(words[1:])
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert groups["policies"]["minReplicas"] == 1, "inference actors are placed on the GPUs that are there at the start"
    simulators = groups["simulators"]
    cores = int(simulators["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert arguments.workers <= simulators["maxReplicas"] * cores
    for group in (cluster["headGroupSpec"], *groups.values()):
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
        assert all(str(path).startswith("/data/") for path in (arguments.out, arguments.policy))


def test_autoscaler_has_room_for_the_workers_of_its_command() -> None:
    """What becomes of the node types when a rollout asks for them is seen in ``test_cluster.py``."""
    import ray

    text = (DEPLOY / "autoscaler.yaml").read_text()
    cluster = yaml.safe_load(text)
    jsonschema.validate(cluster, json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text()))
    (command,) = re.findall(r"'(wristbench rollout .*)'", text)
    arguments = build_parser().parse_args(shlex.split(command)[1:])
    head, simulators = (cluster["available_node_types"][name] for name in (cluster["head_node_type"], "simulators"))
    assert arguments.workers <= simulators["max_workers"] * simulators["resources"]["CPU"]
    assert simulators["max_workers"] <= cluster["max_workers"]
    assert (head["resources"]["CPU"], head["max_workers"]) == (0, 0)
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in start for start in starts if "ray start" in start)
    assert f"--port={arguments.ray_address.rpartition(':')[2]}" in starts[1]
