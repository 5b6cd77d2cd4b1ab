"""TensorFlow's stateless uniform numbers, in operations that every backend compiles.

The generator is Philox 4x32 with 10 rounds (Salmon et al., Parallel Random Numbers:
As Easy as 1, 2, 3, SC 2011). XLA's own version of `tf.random.stateless_uniform`
returns other numbers than TensorFlow's, and JAX has another generator.
"""

from typing import Any

from keras import ops

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
# The key with which TensorFlow mixes a seed
_SEED_KEY = (0x3EC8F720, 0x02461E29)


def stateless_uniform(count: int, seed: int, step: Any, dtype: str) -> Any:
    """Returns `tf.random.stateless_uniform((count,), (seed, step), dtype=tf.float64)`.

    Args:
        count: How many numbers to return.
        seed: Non-negative integer.
        step: Non-negative scalar integer tensor.
        dtype: The dtype of the result. In `"float32"`, the numbers are rounded.

    Returns:
        A vector of numbers in [0, 1).
    """
    zero = _uint32(0)
    seeds = [_uint32(seed & 0xFFFFFFFF), _uint32(seed >> 32), ops.cast(step, "uint32")]
    *key, low, high = _philox([*seeds, zero], [_uint32(k) for k in _SEED_KEY])
    blocks = ops.cast(ops.arange((count + 1) // 2, dtype="int32"), "uint32")
    same = ops.zeros_like(blocks)
    a, b, c, d = _philox([blocks, same, same + low, same + high], key)
    pairs = [_unit_interval(a, b, dtype), _unit_interval(c, d, dtype)]
    return ops.reshape(ops.stack(pairs, axis=1), (-1,))[:count]


def _unit_interval(high, low, dtype):
    """Returns the number in [0, 1) of 52 random bits."""
    high = ops.cast(ops.bitwise_and(high, _uint32(0xFFFFF)), dtype)
    return high * 2.0**-20 + ops.cast(low, dtype) * 2.0**-52


def _philox(counter: list, key: list) -> list:
    """Returns four random words for four words of a counter and two of a key."""
    a, b, c, d = counter
    for _ in range(_ROUNDS):
        high_0, low_0 = _product(_MULTIPLIERS[0], a)
        high_1, low_1 = _product(_MULTIPLIERS[1], c)
        a = ops.bitwise_xor(ops.bitwise_xor(high_1, b), key[0])
        c = ops.bitwise_xor(ops.bitwise_xor(high_0, d), key[1])
        b, d = low_1, low_0
        key = [k + _uint32(step) for k, step in zip(key, _KEY_STEPS)]
    return [a, b, c, d]


def _product(constant: int, word) -> tuple:
    """Returns the high and the low word of a product of 64 bits."""
    # Of halves, because JAX has no integers of 64 bits by default
    c_low, c_high = _uint32(constant & 0xFFFF), _uint32(constant >> 16)
    w_low, w_high = _low_half(word), _high_half(word)
    middle = c_high * w_low + _high_half(c_low * w_low)
    cross = c_low * w_high + _low_half(middle)
    high = c_high * w_high + _high_half(middle) + _high_half(cross)
    return high, _uint32(constant) * word


def _low_half(word):
    return ops.bitwise_and(word, _uint32(0xFFFF))


def _high_half(word):
    return ops.right_shift(word, _uint32(16))


def _uint32(number: int):
    return ops.convert_to_tensor(number, "uint32")
