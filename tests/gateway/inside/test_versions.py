"""Versions of a notebook's and a cluster's packages."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from sciplat.gateway.inside.versions import PACKAGES, installed_versions, mismatches

OURS = installed_versions()


def test_all_packages_are_found_without_importing_them():
    program = (
        "import sys; from sciplat.gateway.inside.versions import installed_versions as found; print(sorted(found()));"
        "print([n for n in ('dask', 'distributed', 'numpy', 'pyarrow', 'numba') if n in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [str(sorted(PACKAGES)), "[]"]
    assert OURS["numpy"] == version("numpy")


def test_equal_environments_have_no_mismatch():
    assert mismatches(OURS, dict(OURS)) == []


def test_python_differs_only_in_its_first_two_numbers():
    assert mismatches({"python": "3.11.2"}, {"python": "3.11.9"}) == []
    assert mismatches({"python": "3.11.2"}, {"python": "3.12.2"}) == ["python: 3.11.2 here, 3.12.2 on the cluster"]
    assert mismatches({"python": "3.1.2"}, {"python": "3.11.2"}) != []


@pytest.mark.parametrize("name", PACKAGES[1:])
def test_every_other_package_must_be_the_same(name):
    assert mismatches(OURS, OURS | {name: OURS[name] + "1"}) == [
        f"{name}: {OURS[name]} here, {OURS[name]}1 on the cluster"
    ]


def test_a_package_that_only_one_side_has_is_a_mismatch():
    without = {name: text for name, text in OURS.items() if name != "numba"}
    assert mismatches(OURS, without) == [f"numba: {OURS['numba']} here, none on the cluster"]
    assert mismatches(without, without) == []


def test_packages_that_nobody_compares_do_not_matter():
    assert mismatches(OURS | {"rich": "1"}, OURS | {"rich": "2"}) == []
