"""Every error says what, found and try, travels between processes, and is caught as the builtin it also is."""

import inspect
import pickle

import pytest

from sciplat import errors
from sciplat.errors import SciplatError

CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, SciplatError)]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(cls, protocol):
    error = cls("no such thing", found="another 'thing'", hint="this one")
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is cls
    assert (back.what, back.found, back.hint) == ("no such thing", "another 'thing'", "this one")
    assert (back.code, back.kind, str(back)) == (error.code, error.kind, str(error))


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_reads_the_same_whatever_builtin_it_is(cls):
    error = cls("no such thing", found="another 'thing'", hint="this one")
    assert str(error) == "no such thing\n  found  another 'thing'\n  try    this one"
    assert str(cls("no such thing")) == "no such thing"
    assert str(cls("no such thing", hint="this one")) == "no such thing\n  try    this one"


def test_codes_tell_the_classes_apart():
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)
    assert {cls.kind for cls in CLASSES} == {"usage", "transient", "fatal"}
    for cls in CLASSES:
        assert cls.__doc__
        builtin = [base for base in cls.__mro__ if base.__module__ == "builtins"]
        assert cls is SciplatError or builtin[0] is not Exception
