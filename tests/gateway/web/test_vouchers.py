"""Texts that stand for something for a while."""

import time

from sciplat.gateway.web.vouchers import Vouchers


def test_a_text_stands_for_its_value_until_it_is_ended():
    vouchers = Vouchers(60.0)
    first, second = vouchers.make("one"), vouchers.make("two")
    assert (vouchers.find(first), vouchers.find(second)) == ("one", "two")
    vouchers.end(first)
    vouchers.end("never made")
    assert (vouchers.find(first), vouchers.find(second)) == (None, "two")
    assert vouchers.find("\udcff\x00") is None


def test_a_text_is_good_for_its_lifetime():
    vouchers = Vouchers(0.05)
    text = vouchers.make("one")
    assert vouchers.find(text) == "one"
    time.sleep(0.06)
    assert vouchers.find(text) is None


def test_memory_is_bounded_and_holds_no_texts():
    vouchers = Vouchers(60.0, most=3)
    texts = [vouchers.make(number) for number in range(5)]
    assert [vouchers.find(text) for text in texts] == [None, None, 2, 3, 4]
    assert not any(text in repr(vars(vouchers)) for text in texts)
