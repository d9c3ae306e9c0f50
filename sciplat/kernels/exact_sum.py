"""Exact sums of float64: every value is added as an integer to a wide fixed-point number for each group.

The fixed-point numbers are "limbs" of 32 bits in int64, the lowest first, so that carries wait in the upper half: no
limb overflows before 2**30 values have been added to a group. The order of the values makes no difference at all.

Source: U. W. Kulisch, "Computer Arithmetic and Validity" (2008), chapter 8, the long accumulator; small limbs with
delayed carries as in R. M. Neal, "Fast exact summation using small and large superaccumulators" (2015),
arXiv:1505.05571, section 2.
"""

from sciplat.kernels._jit import kernel

_FRACTION = (1 << 52) - 1
_MAGNITUDE = (1 << 63) - 1
_INFINITE = 0x7FF << 52
_LIMB = (1 << 32) - 1
_LOW = (1 << 27) - 1


@kernel
def add_values(bits, groups, exponent, out_limbs):
    """Add finite values to the sums of their groups; others are left out.

    Parameters
    ----------
    bits : ndarray of int64, shape (n,)
        The values' bit patterns: `values.view(np.int64)`.
    groups : ndarray of int64, shape (n,)
        Row of `out_limbs` that each value is added to.
    exponent : int
        Limb j counts units of 2**(32 j + exponent); no bit of a value lies below or above the limbs.
    out_limbs : ndarray of int64, shape (groups, limbs)
        Sums, added to.
    """
    for i in range(bits.shape[0]):
        magnitude = bits[i] & _MAGNITUDE
        if magnitude == 0 or magnitude >= _INFINITE:
            continue
        integer, power = decode(magnitude)
        deposit(integer, power - exponent, bits[i] < 0, groups[i], out_limbs)


@kernel
def add_products(left, right, groups, exponent, out_limbs):
    """Add the products of finite values to the sums of their groups; see `add_values`.

    The 53-bit integers are cut into 26 and 27 bits, so that no partial product exceeds 54 bits.
    """
    for i in range(left.shape[0]):
        a, b = left[i] & _MAGNITUDE, right[i] & _MAGNITUDE
        if a == 0 or b == 0 or a >= _INFINITE or b >= _INFINITE:
            continue
        first, power = decode(a)
        second, other_power = decode(b)
        shift = power + other_power - exponent
        negative = (left[i] < 0) != (right[i] < 0)
        a_high, a_low, b_high, b_low = first >> 27, first & _LOW, second >> 27, second & _LOW
        deposit(a_low * b_low, shift, negative, groups[i], out_limbs)
        deposit(a_high * b_low + a_low * b_high, shift + 27, negative, groups[i], out_limbs)
        deposit(a_high * b_high, shift + 54, negative, groups[i], out_limbs)


@kernel
def decode(magnitude):
    """Return the integer and the power of two whose product is a finite float64 without its sign bit."""
    power = magnitude >> 52
    if power == 0:  # subnormal
        return magnitude, power - 1074
    return (magnitude & _FRACTION) | (_FRACTION + 1), power - 1075


@kernel
def deposit(integer, shift, negative, group, out_limbs):
    """Add `integer` * 2**`shift`, an integer below 2**55, to one row of limbs."""
    place, low = shift >> 5, shift & 31
    lower = (integer & _LIMB) << low
    upper = (integer >> 32) << low
    middle = (lower >> 32) + (upper & _LIMB)
    if negative:
        out_limbs[group, place] -= lower & _LIMB
        out_limbs[group, place + 1] -= middle
        out_limbs[group, place + 2] -= upper >> 32
    else:
        out_limbs[group, place] += lower & _LIMB
        out_limbs[group, place + 1] += middle
        out_limbs[group, place + 2] += upper >> 32
