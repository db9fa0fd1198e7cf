"""Numbers of the vector math: what a float format is made of, polynomials, tables for sin, cos and pow.

The polynomials are weighted Chebyshev (minimax) fits made once in 60-digit arithmetic: Lawson's iteration for least
maximum relative error of the function itself; then coefficients rounded to their format from the lowest power up, the
rest fitted anew after each. The comment at each says what it approximates, where, and its largest relative error.
The tables are computed here in integer arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import log
from struct import pack, unpack

from graphopt.ir.types import DType, f32, f64, i32, i64, u32, u64

LN2 = log(2.0)


@dataclass(frozen=True, slots=True)
class Format:
    """One float format and the constants that depend on it.

    magic: added to a number below 2^mantissa_bits/4, leaves its nearest integer in the low bits of the sum.
    ln2: (high, low); high has so few bits that its product with any exponent is exact.
    least_exp, most_exp: exp is 0, or infinite, beyond these; erf is 1 beyond erf_end, and tanh beyond tanh_end.
    """

    dtype: DType
    signed: DType
    unsigned: DType
    mantissa_bits: int
    bias: int
    ln2: tuple[float, float]
    least_exp: float
    most_exp: float
    least_expm1: float
    tanh_end: float
    erf_end: float
    exp: tuple[float, ...]
    expm1: tuple[float, ...]
    expm1_near: tuple[float, ...]
    exp_double: tuple[float, ...]
    tanh: tuple[float, ...]
    sqrt_half: int

    @property
    def magic(self) -> float:
        return 1.5 * 2.0**self.mantissa_bits


# exp(r) = 1 + r + r*r*q(r), relative to exp, |r| <= ln 2: 2^-26.0
_EXP32 = (0.5000003576278687, 0.1666661500930786, 0.041661184281110764, 0.008336040191352367, 0.0014105846639722586,
          0.00019621962564997375)  # fmt: skip
# the same relative to expm1, |r| <= ln 2: 2^-29.3
_EXPM1_32 = (0.5, 0.16666671633720398, 0.04166664555668831, 0.008332660421729088, 0.0013889747206121683,
             0.00020091487385798246, 2.4841201593517326e-05)  # fmt: skip
# relative to expm1, |r| <= ln(2)/2: 2^-26.1
_EXPM1_NEAR_32 = (0.4999999701976776, 0.1666654348373413, 0.041667502373456955, 0.008366581983864307, 0.001386486692354083)
# relative to expm1, |r| <= ln 2: 2^-60.4
_EXPM1_64 = (0.5, 0.1666666666666666, 0.04166666666666675, 0.008333333333336166, 0.0013888888888870638,
             0.0001984126983728872, 2.480158731567017e-05, 2.755732175691814e-06, 2.755731456032621e-07,
             2.5051300463330298e-08, 2.0877349164749675e-09, 1.6185107482774062e-10, 1.1476609737839921e-11)  # fmt: skip
# relative to expm1, |r| <= ln(2)/2: 2^-55.6
_EXPM1_NEAR_64 = (0.5000000000000006, 0.16666666666666605, 0.04166666666657334, 0.008333333333379813, 0.0013888888932496028,
                  0.00019841269740108615, 2.4801504274295134e-05, 2.7557388506449934e-06, 2.762640649724979e-07,
                  2.505989385065737e-08)  # fmt: skip
# exp(2 r) = 1 + r q(r), |r| <= ln(2)/4: 2^-28.2, 2^-57.9
_EXP_DOUBLE_32 = (2.0, 1.999999761581421, 1.3333215713500977, 0.6666919589042664, 0.26780322194099426, 0.088465616106987)
_EXP_DOUBLE_64 = (2.0, 2.0000000000000044, 1.333333333333315, 0.666666666664429, 0.2666666666713329, 0.08888888924426959,
                  0.02539682500909492, 0.006349182040111237, 0.0014109470096409422, 0.0002829363513312659,
                  5.121767770321209e-05)  # fmt: skip
# tanh(x) = x + x^3 q(x*x), |x| <= 0.55: 2^-29.7, 2^-60.6
_TANH32 = (-0.33333316445350647, 0.13332554697990417, -0.05384940281510353, 0.02106068655848503, -0.006259583402425051)
_TANH64 = (-0.333333333333333, 0.13333333333326589, -0.05396825396374322, 0.02186948838536203, -0.00886323259317312,
           0.0035920919439725667, -0.0014555422664136455, 0.0005884420024273453, -0.00023337498222570337,
           8.330663005842586e-05, -1.9488390738667862e-05)  # fmt: skip

F32 = Format(f32, i32, u32, 23, 127, (0.693145751953125, 1.428606765330187e-06), -104.0, 89.0, -20.0, 10.0, 4.0,
             _EXP32, _EXPM1_32, _EXPM1_NEAR_32, _EXP_DOUBLE_32, _TANH32, 0x3F3504F3)  # fmt: skip
F64 = Format(f64, i64, u64, 52, 1023, (0.6931471805598903, 5.497923018708371e-14), -746.0, 710.0, -40.0, 20.0, 6.0,
             _EXPM1_64, _EXPM1_64, _EXPM1_NEAR_64, _EXP_DOUBLE_64, _TANH64, 0x3FE6A09E667F3BCD)  # fmt: skip
FORMATS = {f32: F32, f64: F64}

# log1p(f) = f + f*f*q(f), sqrt(1/2) - 1 <= f <= sqrt(2) - 1: 2^-27.8
LOG32 = (-0.49999988079071045, 0.33333325386047363, -0.2500160336494446, 0.20001985132694244, -0.1660863310098648,
         0.1418154388666153, -0.13246437907218933, 0.12906965613365173, -0.07616046071052551)  # fmt: skip
# log((1 + s) / (1 - s)) = 2 s + s^3 q(s*s), |s| <= 0.1716: 2^-59.5
LOG64 = (0.6666666666666734, 0.39999999999416463, 0.2857142874214456, 0.2222219858419236, 0.1818356440770494,
         0.15314033126279114, 0.1479626649163361)  # fmt: skip
# the same to 2^-44.9, and exp(r) = 1 + r + r*r*q(r), |r| <= ln(2)/2, to 2^-34.2: pow of f32 computes in f64
LOG_SHORT = (0.6666666667580384, 0.3999999561737154, 0.28572109987665417, 0.2217613922824367, 0.1958506956502679)
EXP_SHORT = (0.5000000068496782, 0.16666665905063252, 0.0416662924450525, 0.008333488705664064, 0.0013944829264219477,
             0.00019795011719646346)  # fmt: skip
# log1p(r) = r - r*r/2 + r^3 q(r), -0.0053 <= r <= 0.0079: 2^-73.7
LOG1P_NEAR = (0.3333333333333333, -0.24999999999999944, 0.2000000000013292, -0.16666666674657077, 0.14285714429613874,
              -0.12500018834982718, 0.1102101366308679)  # fmt: skip

# sin(r) = r + r^3 q(r*r), |r| <= pi/4: 2^-27.9, 2^-57.9
SIN32 = (-0.16666655242443085, 0.008332188241183758, -0.00019518083718139678)
SIN64 = (-0.1666666666666663, 0.00833333333332191, -0.00019841269829447183, 2.7557313576983247e-06,
         -2.505074130292042e-08, 1.5895874641340566e-10)  # fmt: skip
# cos(r) = 1 - r*r/2 + r^4 q(r*r), |r| <= pi/4: 2^-33.0, 2^-63.9
COS32 = (0.04166664555668831, -0.0013887310633435845, 2.4432552891084924e-05)
COS64 = (0.041666666666666595, -0.0013888888888873342, 2.4801587289000375e-05, -2.7557314215883963e-07,
         2.0875705139345843e-09, -1.135873059584976e-11)  # fmt: skip

# -log(erfc(t)) = t + t q(t - c), relative to erf: 0 <= t <= 4 with c = 0 for f32: 2^-27.8
ERF32 = (0.12837916612625122, 0.6366195678710938, 0.10277628898620605, -0.01914772018790245, -0.0001697627449175343,
         0.0016759899444878101, -0.0006375594530254602, 0.00011892195470863953, -9.395276720169932e-06)  # fmt: skip
# and in pieces for f64: [0, 1], [1, 2], [2, 3.5], [3.5, 6], c in the middle of each: 2^-56.3, 2^-59.1, 2^-64.4, 2^-86.3
ERF64_EDGES = (1.0, 2.0, 3.5)
ERF64_CENTERS = (0.5, 1.5, 2.75, 4.75)
ERF64 = (
    (0.47002225967416883, 0.7253667632490595, 0.07537079985124945, -0.01664679727759226,
     0.0021123380863965298, 0.0003175059802455295, -0.0002945606825864186, 9.308175712958786e-05,
     -1.1007793537316086e-05, -4.7826152473572096e-06, 3.3191645905527123e-06, -9.80588071406057e-07,
     7.521615607677373e-08, 8.826911069082145e-08, -4.713110026754101e-08),
    (1.2563280597010351, 0.8349818280523282, 0.0384390017084809, -0.00840990738319026, 0.001602107330767078,
     -0.0002299270974650597, 9.309201654281478e-06, 8.776349976783013e-06, -4.086391262591596e-06,
     1.1434963050742797e-06, -2.1635513123322605e-07, 1.6620482634991428e-08, 7.494833739367686e-09,
     -5.531280712552249e-09, 1.6340767734418664e-09),
    (2.346960149208835, 0.9016639293877062, 0.018044658870264536, -0.003313237025032453,
     0.0005848077211130998, -9.60539645650483e-05, 1.3985814496076515e-05, -1.6018299061960135e-06,
     7.161171444638995e-08, 3.208620541124928e-08, -1.3949389745827591e-08, 3.7531474718222674e-09,
     -7.450284719366617e-10, 1.2607215825460221e-10, -3.704006557014368e-11),
    (4.202959777244279, 0.9471850104690914, 0.006980131920314835, -0.0009516934580477196,
     0.00012998978461837925, -1.7516654024932244e-05, 2.30185176074258e-06, -2.9139497205630064e-07,
     3.4946100643363385e-08, -3.850116972476473e-09, 3.689215365612595e-10, -2.6417254086496385e-11,
     -4.674842703855621e-12, -1.6238613374656973e-12, -7.612964914636107e-13),
)  # fmt: skip


def bits64(x: float) -> int:
    """The bits of a float64."""
    return int(unpack("<Q", pack("<d", x))[0])


_ONE = 1 << 256


@cache
def two_pi_inverse(bits: int) -> int:
    """floor(2^bits / (2 pi)), by Machin's formula pi/4 = 4 atan(1/5) - atan(1/239)."""
    one = 1 << (bits + 64)
    pi = 0
    for weight, n in ((16, 5), (-4, 239)):
        power, k, sign = one // n, 1, 1
        while power:
            pi += sign * weight * (power // k)
            power //= n * n
            k, sign = k + 2, -sign
    return (one << bits) // (2 * pi)


@cache
def turn_words(rows: int, first: int, words: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """For each row j the leading bits of the fraction of 2^(first + 8 j) / (2 pi), cut in words of these widths.

    Turns are taken mod 1: a whole number times 2^(first + 8 j) loses only whole turns.
    """
    width = sum(words)
    top = first + 8 * rows + width
    digits = two_pi_inverse(top)
    result = []
    for width_left, word in zip([width - sum(words[: k + 1]) for k in range(len(words))], words, strict=True):
        column = []
        for j in range(rows):
            fraction = (digits >> (top - (first + 8 * j) - width)) & ((1 << width) - 1)
            column.append((fraction >> width_left) & ((1 << word) - 1))
        result.append(tuple(column))
    return tuple(result)


LOG_ROWS = 128
LOG_START = 0x3FE6A00000000000  # significands are taken from [0.707, 1.414)


@cache
def log_table() -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """For 128 intervals of the significand: a short inverse of the middle, and minus its logarithm as high and low part.

    Columns hold float64 bits. The inverse is a multiple of 2^-10, so that products with half a significand are exact;
    it is 1 around 1. The high part is a multiple of 2^-42, so that adding exponent * ln2[0] to it is exact.
    """
    columns: tuple[list[int], list[int], list[int]] = ([], [], [])
    for k in range(LOG_ROWS):
        low = unpack("<d", pack("<Q", LOG_START + (k << 45)))[0]
        high = unpack("<d", pack("<Q", LOG_START + ((k + 1) << 45)))[0]
        j = round(1024 * 2.0 / (low + high))
        if low <= 1.0 <= high:
            j = 1024
        # -log(j / 1024) = 2 atanh((1024 - j) / (1024 + j))
        exact = 2 * _atanh_ratio(1024 - j, 1024 + j)
        unit = _ONE >> 42
        rounded = (exact + unit // 2) // unit
        for column, value in zip(columns, (j / 1024, rounded / 2.0**42, (exact - rounded * unit) / _ONE), strict=True):
            column.append(bits64(value))
    return tuple(columns[0]), tuple(columns[1]), tuple(columns[2])


def _atanh_ratio(p: int, q: int) -> int:
    """atanh(p / q) as a multiple of 1/_ONE."""
    sign, p = (-1, -p) if p < 0 else (1, p)
    total, power, k = 0, _ONE * p // q, 1
    while power:
        total += power // k
        power = power * p * p // (q * q)
        k += 2
    return sign * total
