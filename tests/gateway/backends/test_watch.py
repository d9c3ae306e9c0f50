"""The gateway's regular looks: each goes on whatever becomes of the others."""

import asyncio

import pytest

from sciplat.gateway.backends import watch
from sciplat.gateway.site.schema import Lifetimes
from tests.gateway.identity_scene import asynchronous
from tests.gateway.quiet_gateway import QuietBackend, quiet_gateway, until


@pytest.mark.parametrize("trouble", ["hangs", "fails"])
def test_a_reaper_in_trouble_keeps_no_cluster_alive(tmp_path, monkeypatch, trouble):
    async def reap(_self, _owned):
        if trouble == "hangs":
            await asyncio.Event().wait()
        raise OSError("no squeue")

    monkeypatch.setattr(QuietBackend, "reap", reap)
    monkeypatch.setattr(watch, "_LOOK", 0.05)

    @asynchronous
    async def run():
        async with quiet_gateway(tmp_path / "state", limits=Lifetimes(lifetime=0.5)) as gateway:
            await asyncio.sleep(0.1)
            cluster = await gateway.cluster("alice")
            await until(lambda: not cluster.is_active(), 15)
            assert "the longest this gateway allows" in cluster.state["reason"]

    run()
