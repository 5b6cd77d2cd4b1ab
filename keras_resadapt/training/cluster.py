"""The cluster of workers, as `TF_CONFIG` or SLURM describes it."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

_JOBS = ("chief", "worker")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers that train together, and which of them this process is.

    Attributes:
        jobs: Addresses `"host:port"` by job, `"chief"` (at most one) and `"worker"`.
        job: The job of this process.
        task: The index of this process in its job.
        origin: What described the cluster, for messages.
    """

    jobs: dict[str, list[str]]
    job: str
    task: int
    origin: str

    @property
    def addresses(self) -> list[str]:
        """The addresses of all workers, the chief first."""
        return [address for job in _JOBS for address in self.jobs.get(job, ())]

    @property
    def index(self) -> int:
        """The index of this process among all workers; the chief's is 0."""
        chiefs = len(self.jobs.get("chief", ()))
        return self.task + (chiefs if self.job == "worker" else 0)

    def resolver(self) -> Any:
        """Returns the cluster for `tf.distribute`."""
        import tensorflow as tf

        return tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(self.jobs),
            task_type=self.job,
            task_id=self.task,
            num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
            rpc_layer="grpc",
        )


def find_cluster(environment: Mapping[str, str] | None = None) -> Cluster:
    """Returns the cluster that the environment describes.

    Args:
        environment: The environment variables; by default those of the process.
            `TF_CONFIG` counts first, then the variables of a SLURM step.

    Raises:
        ValueError: If neither is there, or if what is there is no valid cluster.
    """
    environment = os.environ if environment is None else environment
    if environment.get("TF_CONFIG", "").strip():
        return _from_tf_config(environment["TF_CONFIG"])
    if "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment:
        return _from_slurm(environment)
    raise ValueError(
        "Training on several workers needs a description of the cluster: the "
        "environment variable TF_CONFIG, such as "
        '\'{"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
        '"task": {"type": "worker", "index": 0}}\', or a SLURM step (`srun`). '
        "Received: neither"
    )


def _from_tf_config(text: str) -> Cluster:
    """Returns the cluster of a `TF_CONFIG`."""

    def refuse(rule: str):
        raise ValueError(f"TF_CONFIG must {rule}. Received: TF_CONFIG={text}")

    try:
        config = json.loads(text)
    except ValueError:
        refuse("be valid JSON")
    jobs = config.get("cluster") if isinstance(config, dict) else None
    task = config.get("task") if isinstance(config, dict) else None
    if not isinstance(jobs, dict) or not isinstance(task, dict):
        refuse("be an object with the objects `cluster` and `task`")
    if not jobs or not set(jobs) <= set(_JOBS):
        refuse("have the jobs `chief` and `worker` alone in its `cluster`")
    for addresses in jobs.values():
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            refuse("list addresses of the form `host:port` for each job")
    cluster = [address for job in _JOBS for address in jobs.get(job, ())]
    if not cluster or len(set(cluster)) < len(cluster):
        refuse("name each worker once")
    if len(jobs.get("chief", ())) > 1:
        refuse("have at most one `chief`")
    job, index = task.get("type"), task.get("index")
    if job not in jobs:
        refuse("have one of the jobs of `cluster` as the `type` of its `task`")
    if type(index) is not int or not 0 <= index < len(jobs[job]):
        refuse(
            "have an `index` in its `task` that counts from 0 to the number of "
            f"addresses of `{job}` less one"
        )
    return Cluster(jobs, job, index, "TF_CONFIG")


def _is_address(address) -> bool:
    if not isinstance(address, str):
        return False
    host, _, port = address.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65536


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
    """Returns the cluster of a SLURM step, one worker per task."""
    import tensorflow as tf

    # Jobs that share a node need ports of their own.
    port = 20_000 + int(environment.get("SLURM_JOB_ID", 0)) % 1000 * 10
    try:
        # Which GPUs a task sees is SLURM's decision: the resolver only names hosts.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port,
            gpus_per_node=int(environment["SLURM_STEP_NUM_TASKS"]),
            gpus_per_task=1,
            auto_set_gpu=False,
        )
        jobs = resolver.cluster_spec().as_dict()
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            "The environment variables of the SLURM step do not describe a cluster: "
            f"{error}"
        ) from error
    cluster = Cluster(jobs, resolver.task_type, resolver.task_id, "SLURM")
    host = cluster.addresses[cluster.index].rpartition(":")[0]
    if environment.get("SLURMD_NODENAME", host) != host:
        raise ValueError(
            "SLURM must number its tasks in the alphabetical order of the nodes, in "
            "which TensorFlow lists them: set TF_CONFIG instead. Received: task "
            f"{cluster.index} on {environment['SLURMD_NODENAME']}, where TensorFlow "
            f"expects {host}"
        )
    return cluster
