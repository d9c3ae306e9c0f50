"""What Prometheus is told, read back with its own parser."""

from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.identity_scene import asynchronous
from tests.gateway.quiet_gateway import quiet_gateway, until


async def collect(gateway, token):
    """Return the metrics: name and labels to value."""
    async with gateway.session.get(gateway.url + "/metrics", headers={"Authorization": f"Bearer {token}"}) as reply:
        assert reply.status == 200
        assert reply.content_type == "text/plain"
        text = await reply.text()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {
        (sample.name.removeprefix("sciplat_gateway_"), *sample.labels.values()): sample.value for sample in samples
    }
    return found, text


@asynchronous
async def test_metrics_count_clusters_workers_and_what_they_hold(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        cluster = await gateway.cluster("alice", cores=2, memory="3 GiB")
        await gateway.beat(cluster, 3)
        await until(lambda: len(cluster.workers) == 3)
        await gateway.beat(cluster, 3, list(cluster.workers)[:2])
        other = await gateway.cluster("bob")
        await until(lambda: other.status.name == "SUBMITTED")
        found, text = await collect(gateway, gateway.token("carol", "metrics"))
        assert (found["clusters", "running"], found["clusters", "waiting"]) == (1, 1)
        assert (found["workers", "running"], found["workers", "waiting"]) == (2, 1)
        assert found["users",] == 2
        assert (found["cores", "running"], found["cores", "waiting"]) == (1 + 2 * 2, 2 + 1)
        assert found["memory_bytes", "running"] == (2 + 2 * 3) * 1024**3
        for hidden in ("alice", "bob", cluster.name[:8], cluster.token):
            assert hidden not in text


@asynchronous
async def test_metrics_count_requests_by_route_and_not_by_what_is_in_them(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        for name in ("a" * 32, "b" * 32):
            await gateway.ask("GET", f"/api/sciplat/clusters/{name}", "alice")
        for path in ("/one", "/two"):
            async with gateway.session.request("PROPFIND", gateway.url + path):
                pass
        found, text = await collect(gateway, gateway.token("admin"))
        assert found["requests_total", "GET", "/api/sciplat/clusters/{cluster}", "404"] == 2
        assert found["requests_total", "other", "unknown", "404"] == 2
        assert "PROPFIND" not in text


@asynchronous
async def test_metrics_tell_which_quotas_stand_in_the_way(tmp_path):
    async with quiet_gateway(tmp_path / "state", quotas={"default": {"workers": 1}}) as gateway:
        cluster = await gateway.cluster("alice")
        await gateway.beat(cluster, 2)
        await until(lambda: gateway.backend.refusals)
        gateway.backend.refused["workers"] += 3
        found, _ = await collect(gateway, gateway.token("admin"))
        assert found["clusters_short_of_quota", "workers"] == 1
        assert found["clusters_short_of_quota", "cores"] == 0
        assert found["quota_refusals_total", "workers"] == 3


@asynchronous
async def test_metrics_are_for_who_collects_them(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        assert (await gateway.ask("GET", "/metrics"))[0] == 401
        assert (await gateway.ask("GET", "/metrics", token=gateway.token("alice", "read", "clusters")))[0] == 403
