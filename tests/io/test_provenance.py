import json
import os
import pwd
import subprocess
import sys

import pytest
from prov.constants import XSD_LONG
from prov.model import Literal, ProvDocument

from sciplat.errors import StoreCorrupt
from sciplat.io.provenance import (
    Input,
    citations,
    environment,
    parse_provenance,
    provenance_document,
    recorded_plan,
)
from sciplat.io.storage import sha256

PLAN = {
    "format": 1,
    "node": "Select",
    "columns": ["ra", "dec", 'naïve "name"'],
    "inner": {"node": "Within", "region": {"cone": [10.5, -3.25, 0.1]}, "deep": True, "none": None, "n": 3, "x": 0.1},
    "odd key/é": "1 < 2 & 'x'",
}
CATALOG = Input("s3://survey/catalog", 3, "c" * 64, "catalog", "Doe et al. 2024, ApJ 1, 2")
IMAGES = Input("/data/images", 1, "d" * 64, "images", "")


def document(inputs=(CATALOG, IMAGES), plan=PLAN, **changes):
    arguments = {
        "name": "s3://results/mine",
        "digest": "a" * 64,
        "rows": 3_000_000_000,
        "fingerprint": "f" * 64,
        "started": "2025-01-02T03:04:05+00:00",
        "ended": "2025-01-02T03:05:06.5+00:00",
        "report": {"quote": {"rows": 10, "reads": 2.5}, "seconds": 61.5, "tasks": 7, "retried": False, "note": "ok"},
    }
    return provenance_document(**{**arguments, "inputs": inputs, "plan": plan, **changes})


def read_by_prov(made):
    return ProvDocument.deserialize(content=json.dumps(made), format="json")


@pytest.mark.parametrize("inputs", [(), (IMAGES,), (CATALOG, IMAGES), (CATALOG, CATALOG)])
def test_the_prov_library_reads_all_records_and_writes_them_back(inputs):
    made = document(inputs)
    read = read_by_prov(made)
    records = [key for kind, group in made.items() if kind != "prefix" for key in group]
    assert len(read.get_records()) == len(records)
    assert ProvDocument.deserialize(content=read.serialize(format="json"), format="json") == read
    unified = read.unified()
    assert len(unified.get_records()) == len(records)  # no two records share an identifier


def test_what_the_prov_library_reads_is_what_was_recorded():
    read = read_by_prov(document())
    result = attributes(read, "run:result")
    assert result["sciplat:rows"] == {3_000_000_000}
    assert result["prov:location"] == {"s3://results/mine"}
    assert result["sciplat:digest"] == {"a" * 64}
    catalog = attributes(read, "run:input-1")
    assert catalog["sciplat:version"] == {Literal("3", XSD_LONG)}
    assert catalog["dct:bibliographicCitation"] == {CATALOG.citation}
    activity = attributes(read, "run:activity")
    assert [time.isoformat() for time in activity["prov:endTime"]] == ["2025-01-02T03:05:06.500000+00:00"]
    assert activity["sciplat:seconds"] == {61.5}
    assert activity["sciplat:retried"] == {False}
    assert [json.loads(text) for text in activity["sciplat:quote"]] == [{"rows": 10, "reads": 2.5}]
    assert {str(kind) for kind in attributes(read, "run:plan")["prov:type"]} == {"prov:Plan"}
    assert attributes(read, "run:environment")["sciplat:packages"] == set(environment()[1])


def attributes(read, identifier):
    (record,) = read.get_record(identifier)
    found = {}
    for name, value in record.attributes:
        found.setdefault(str(name), set()).add(value)
    return found


def test_relations_join_result_inputs_plan_and_agents():
    made = document()
    (generation,) = made["wasGeneratedBy"].values()
    assert generation == {"prov:activity": "run:activity", "prov:entity": "run:result"}
    assert [each["prov:usedEntity"] for each in made["wasDerivedFrom"].values()] == ["run:input-1", "run:input-2"]
    assert [each["prov:role"] for each in made["used"].values()] == ["catalog", "images", "environment"]
    assert {each["prov:agent"]: each.get("prov:plan") for each in made["wasAssociatedWith"].values()} == {
        "run:sciplat": "run:plan",
        "run:user": None,
    }
    known = {*made["entity"], *made["activity"], *made["agent"]}
    for kind in ("used", "wasGeneratedBy", "wasDerivedFrom", "wasAssociatedWith", "wasInfluencedBy"):
        for relation in made[kind].values():
            assert {value for value in relation.values() if str(value).startswith("run:")} <= known


def test_every_value_of_the_plan_is_a_parameter_with_a_description():
    made = document()
    parameters = of_type(made, "voprov:Parameter")
    values = {each["voprov:name"]: each["prov:value"] for each in parameters}
    assert list(values) == [
        *("format", "node", "columns"),
        *("inner.node", "inner.region.cone", "inner.deep", "inner.none", "inner.n", "inner.x"),
        "odd key/é",
    ]
    assert values["inner.x"] == {"$": "0.1", "type": "xsd:double"}
    assert values["inner.node"] == "Within"
    described = {each["voprov:name"]: each["voprov:valueType"] for each in of_type(made, "voprov:ParameterDescription")}
    assert list(described) == list(values)
    assert (described["inner.deep"], described["inner.n"]) == ("xsd:boolean", "xsd:long")
    kinds = [each["prov:type"]["$"] for each in made["wasInfluencedBy"].values()]
    assert (kinds.count("voprov:WasConfiguredBy"), kinds.count("voprov:IsDescribedBy")) == (
        len(values),
        len(values) + 1,
    )


def of_type(made, kind):
    return [entity for entity in made["entity"].values() if entity["prov:type"]["$"] == kind]


def test_names_that_look_alike_stay_apart():
    made = document(plan={"a b": 1, "a-b": 2, "a": {"b": 3}, "a.c": 4, "ä": 5})
    assert len(of_type(made, "voprov:Parameter")) == 5
    assert len(read_by_prov(made).unified().get_records()) == len(read_by_prov(made).get_records())


def test_the_document_and_its_plan_come_back():
    made = document()
    back = parse_provenance(json.dumps(made).encode())
    assert back == made
    assert recorded_plan(back) == PLAN
    assert list(recorded_plan(back)) == list(PLAN)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://KEY:SECRET@bucket/path", "s3://bucket/path"),
        ("https://user@host:8080/a/b?sig=SECRET&x=1", "https://host:8080/a/b"),
        ("https://user:SE?CRET@host/a", "https://host/a"),
        ("https://user:SE@CRET@host/a@b", "https://host/a@b"),
        ("https://host?token=SECRET", "https://host"),
        ("memory://a/b", "memory://a/b"),
        ("/data/what?/me@home", "/data/what?/me@home"),
    ],
)
def test_no_credentials_are_recorded(url, shown):
    plan = {"inner": {"urls": [url, {"url": url}]}, "where": "a = 'x@y?z'"}
    made = document([Input(url, 1, "", "catalog", "")], plan, name=url, report={"store": {"url": url}})
    assert "SECRET" not in json.dumps(made)
    assert "CRET" not in json.dumps(made)
    assert made["entity"]["run:input-1"]["prov:location"] == shown
    assert made["entity"]["run:result"]["prov:location"] == shown
    assert recorded_plan(made) == {"inner": {"urls": [shown, {"url": shown}]}, "where": "a = 'x@y?z'"}


def test_two_versions_of_one_store_are_two_inputs():
    old, new = (Input("s3://survey/catalog", number, str(number) * 64, "catalog", "Doe") for number in (1, 2))
    made = document([old, new])
    versions = [made["entity"][f"run:input-{number}"]["sciplat:version"]["$"] for number in (1, 2)]
    assert versions == ["1", "2"]
    assert len(made["wasDerivedFrom"]) == 2
    assert citations(made) == ["Doe"]


def test_an_empty_citation_is_left_out():
    made = document([IMAGES, CATALOG])
    assert "dct:bibliographicCitation" not in made["entity"]["run:input-1"]
    assert citations(made) == [CATALOG.citation]
    assert citations(document([IMAGES])) == []


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xff", b"[]", b"3", b"{}", b'{"entity": []}', b'{"entity": {}}', b"[" * 100_000),
        *(b'{"entity": {"run:plan": {"prov:value": "[1]"}}}', b'{"entity": {"run:plan": {"prov:value": "{"}}}'),
        b'{"entity": {"run:plan": {"prov:value": "{}"}, "run:input-1": 3}}',
    ],
)
def test_what_is_no_provenance_is_refused(data):
    with pytest.raises(StoreCorrupt, match="provenance"):
        parse_provenance(data)


def test_a_cut_document_is_refused():
    data = json.dumps(document()).encode()
    for size in range(0, len(data), 97):
        with pytest.raises(StoreCorrupt):
            parse_provenance(data[:size])


def test_the_environment_lists_what_is_installed():
    digest, lines = environment()
    assert digest == sha256("\n".join(lines).encode())
    assert lines == sorted(set(lines))
    names = [line.split("==")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert {"numpy", "sciplat", "pytest-timeout"} <= set(names)
    lines.clear()
    assert environment()[1]  # a caller cannot spoil what others get


def test_duplicates_and_broken_installations_are_no_obstacle(tmp_path):
    for folder, name in (("first", "My_Odd.Package"), ("second", "my-odd-package")):
        info = tmp_path / folder / "odd-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.{folder}\n")
    for number, content in enumerate([None, b"", b"\xff\xfe", b"Name: only-a-name\n", b"Version: 3\n"]):
        info = tmp_path / "first" / f"broken{number}-1.dist-info"
        info.mkdir()
        if content is not None:
            (info / "METADATA").write_bytes(content)
    code = "from sciplat.io.provenance import environment; print('\\n'.join(environment()[1]))"
    path = os.pathsep.join([str(tmp_path / "first"), str(tmp_path / "second")])
    run = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(run, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "my-odd-package==1.first" in lines
    assert [line for line in lines if "odd" in line] == ["my-odd-package==1.first"]
    assert [line.partition("==")[0] for line in lines if "==" not in line or line.endswith("==None")] == []
    assert set(environment()[1]) <= set(lines)


def test_a_user_without_a_name_can_work():
    code = (
        "import os, pwd\n"
        "from sciplat.io.provenance import provenance_document\n"
        "if os.getuid() == 0: os.setuid(54321)\n"  # has no entry among the users
        "made = provenance_document(name='', digest='', rows=0, plan={}, fingerprint='', inputs=[], started='', "
        "ended='', report={})\n"
        "print(made['agent']['run:user']['voprov:name'])"
    )
    environ = {key: value for key, value in os.environ.items() if key not in {"LOGNAME", "USER", "LNAME", "USERNAME"}}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ("unknown" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)
