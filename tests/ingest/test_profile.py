"""Reader profiles: the built-in ones, a user's own, and what is refused."""

import pytest

from sciplat.errors import ProfileError
from sciplat.ingest.profile import BUILT_IN, EVERY_BIT, MaskMeaning, candidates, load_profile


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_profiles_load(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.header.band.keywords
    assert profile.time.start


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ({"INSTRUME": "SDSS    "}, "sdss"),
        ({"INSTRUME": "DECam", "PLVER": "V4.8.2a"}, "decam"),
        ({"INSTRUME": "DECam", "PLVER": "V3.5"}, "decam"),
        ({"INSTRUME": "DECam", "PLVER": "V2.1"}, "generic"),
        ({"INSTRUME": "WFC3"}, "generic"),
        ({}, "generic"),
    ],
)
def test_images_are_recognised(header, name):
    assert next(each.name for each in candidates("auto") if each.recognises(header.get)) == name


def write(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_profile_of_ones_own_lies_over_the_one_it_extends(tmp_path):
    name = write(tmp_path, 'extends = "generic"\n[header]\nband = {keywords = ["FILT2"]}\n[mask]\nbits = {HOT = 3}\n'
                           'bad = ["HOT"]')  # fmt: skip
    mine, generic = load_profile(name), load_profile("generic")
    assert mine.header.band.keywords == ("FILT2",)
    assert mine.header.gain == generic.header.gain
    assert mine.mask.bit_set(mine.mask.bad) == 8
    other = load_profile(write(tmp_path, 'extends = "mine.toml"\n[time]\nscale = "tai"', "other.toml"))
    assert other.time.scale == "tai"
    assert other.header.band.keywords == ("FILT2",)


def test_bits_and_codes_become_one_number():
    named = {"A": 1, "B": 3}
    assert MaskMeaning("bits", named).bit_set(("A", "B")) == 0b1010
    assert MaskMeaning("codes", named).bit_set(("A", "B")) == 0b101
    assert MaskMeaning("bits", named).bit_set(("*",)) == EVERY_BIT
    assert MaskMeaning("bits", named).bit_set(()) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour = 1", "colour"),
        ("[header]\nfilter = {keywords = ['FILTER']}", "header.filter"),
        ("[header.band]\nkeyword = 'FILTER'", "header.band.keyword"),
        ("[header]\nband = 'FILTER'", "header.band"),
        ("[header]\nband = {keywords = 'FILTER'}", "a list"),
        ("[header]\nband = {keywords = [1]}", "a list"),
        ("[header]\nband = {keywords = ['FILTER'], pattern = '('}", "header.band.pattern"),
        ("[header]\nband = {keywords = ['FILTER'], pattern = 'a'}", "no group"),
        ("[header]\nzero_point = {per_second = 1}", "true or false"),
        ("[recognise]\nINSTRUME = '['", "recognise.INSTRUME"),
        ("[time]\nscale = 'ut1'", "one of"),
        ("[mask]\nbad = ['HOT']", "HOT"),
        ("[mask]\nbits = {HOT = 32}", "0 to 31"),
        ("[mask]\nkind = 'codes'\nbits = {HOT = 0}", "1 to 32"),
        ("[mask]\nbits = {HOT = true}", "mask.bits"),
        ("[planes]\nscience = []", "planes.science"),
        ("[siblings]\nmask = ['_a_']", "siblings.mask"),
        ("name = 3", "name"),
        ("extends = 'mine.toml'", "itself"),
        ("extends = 4", "extends"),
        ("extends = 'absent.toml'", "absent"),
        ("not toml", "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tmp_path, text, says):
    with pytest.raises(ProfileError) as refused:
        load_profile(write(tmp_path, text))
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["hubble", "", "absent.toml"])
def test_an_absent_profile(name):
    with pytest.raises(ProfileError, match="no reader profile"):
        load_profile(name)
