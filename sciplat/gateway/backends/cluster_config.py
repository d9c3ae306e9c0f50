"""What the gateway knows of a cluster that it starts: its worker's shape, its environment, its place in the queue."""

from typing import Any

from dask_gateway_server.backends.base import ClusterConfig
from traitlets import Dict, Integer, List, Unicode

from sciplat.gateway.quota.ledger import Lease
from sciplat.gateway.quota.limits import Amount


class SiteClusterConfig(ClusterConfig):  # type: ignore[misc]
    """Adds to upstream's configuration what a profile and its user may say.

    It is kept in the gateway's database with the cluster, so that a cluster goes on by the rules it began with.
    """

    profile = Unicode("", help="The profile's name.")
    walltime = Integer(0, help="Seconds after which a worker ends; 0: no limit.")
    lifetime = Integer(0, help="Seconds after which the cluster is stopped; 0: no limit.")
    gpus = Integer(0, help="GPUs of a worker.")
    gpu_type = Unicode("", help="Kind of GPU, as the batch system calls it.")
    prefix = Unicode("", help="The virtual environment in which scheduler and workers run.")
    kernels = Unicode("", help="A folder of compiled kernels that the site provides.")
    setup = List(Unicode(), help="Lines of the job script before anything runs.")
    partition = Unicode("", help="Partition of the batch system.")
    scheduler_partition = Unicode("", help="The scheduler's partition; empty: the same.")
    qos = Unicode("", help="Quality of service of the batch system.")
    account = Unicode("", help="Account of the batch system.")
    constraint = Unicode("", help="Features that a node must have.")
    reservation = Unicode("", help="Reservation of the batch system.")
    flags = List(Unicode(), help="Further options of the batch system.")
    variables = Dict(help="Environment variables of scheduler and workers.")
    owner_groups = List(Unicode(), help="Groups of the owner when the cluster was asked for: their quotas count.")


def scheduler_amount(config: Any) -> Amount:
    """Return what a cluster takes before it has workers."""
    return Amount(clusters=1, cores=config.scheduler_cores, memory=config.scheduler_memory)


def worker_amount(config: Any) -> Amount:
    """Return what one worker takes."""
    return Amount(workers=1, cores=config.worker_cores, memory=config.worker_memory, gpus=config.gpus)


def owner(cluster: Any) -> tuple[str, tuple[str, ...]]:
    """Return whose quotas a cluster counts against: its user's and those of the groups they were in."""
    return cluster.username, tuple(cluster.config.owner_groups)


def scheduler_lease(cluster: Any) -> Lease:
    """Return the lease that a cluster has before it has workers."""
    amount = scheduler_amount(cluster.config)
    return Lease(cluster.name, "", *owner(cluster), cores=amount.cores, memory=amount.memory, gpus=0)


def worker_lease(worker: Any) -> Lease:
    """Return the lease of one worker of a cluster."""
    cluster, amount = worker.cluster, worker_amount(worker.cluster.config)
    return Lease(cluster.name, worker.name, *owner(cluster), cores=amount.cores, memory=amount.memory, gpus=amount.gpus)


def staying(cluster: Any) -> list[Any]:
    """Return a cluster's workers that are there or will be, without those that are about to end."""
    return [worker for worker in cluster.active_workers() if not worker.close_expected]
