"""Kernels in Triton for the operations between a GPU's matrix products: triton_operations.py launches them.

Arrays are contiguous but for weights, of which each member's lie a stride apart. Sums are fp32 and in a fixed order.
A mask of dropout is drawn again wherever it is read (model/dropout.py), each element by its index within a member.
"""

# pyright: basic, reportMissingImports=false
# ruff: noqa: D103
# (a kernel's arguments are traced, not typed)

from __future__ import annotations

import triton.language as tl

import triton


@triton.jit
def multiplier(key, limit, scale, e, index):
    """0 or 1/(1-p) for elements of member e's mask: randomness.keyed_bits."""
    x = index ^ tl.load(key + 2 * e)
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) ^ tl.load(key + 2 * e + 1)
    x = x * (0x846CA68B - 0x100000000)
    x = x ^ ((x >> 16) & 0xFFFF)
    return tl.where((x ^ -0x80000000) >= tl.load(limit + e), tl.load(scale + e), 0.0)


@triton.jit
def add_norm(
    stream, branch, key, limit, scale, weight, bias, total, out, mean, rstd, N, C, weight_stride, first, eps,
    ADDS: tl.constexpr, DROPS: tl.constexpr, CENTRED: tl.constexpr, BIASED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, c = tl.program_id(0), tl.arange(0, BLOCK)
    e, inside, at = (row // N).to(tl.int64), c < C, row.to(tl.int64) * C + c
    x = tl.load(stream + at, mask=inside, other=0.0)
    if ADDS:
        added = tl.load(branch + at, mask=inside, other=0.0).to(tl.float32)
        if DROPS:
            added = added * multiplier(key, limit, scale, e, first + (row % N) * C + c)
        x = x + added
        tl.store(total + at, x, mask=inside)
    average = tl.sum(x) / C if CENTRED else 0.0
    centred = tl.where(inside, x - average, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred) / C + eps)
    y = centred * inverse * tl.load(weight + e * weight_stride + c, mask=inside, other=0.0)
    if BIASED:
        y = y + tl.load(bias + e * weight_stride + c, mask=inside, other=0.0)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)
    tl.store(mean + row, average)
    tl.store(rstd + row, inverse)


@triton.jit
def norm_backward(
    grad, total, mean, rstd, weight, key, limit, scale, grad_stream, dropped, weight_parts, bias_parts, N, C,
    weight_stride, first, n_rows,
    ADDS: tl.constexpr, DROPS: tl.constexpr, CENTRED: tl.constexpr, BIASED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of `n_rows` rows of a member; their part of the gradients of weights goes to a row of its own."""
    part, e, c = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, BLOCK)
    inside = c < C
    w = tl.load(weight + e * weight_stride + c, mask=inside, other=0.0)
    of_weight, of_bias = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for n in range(part * n_rows, tl.minimum(N, (part + 1) * n_rows)):
        row = e * N + n
        at = row * C + c
        g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(rstd + row)
        x = tl.load(total + at, mask=inside, other=0.0)
        normed = tl.where(inside, x - tl.load(mean + row), 0.0) * inverse
        of_weight += g * normed
        of_bias += g
        g = g * w
        change = g - normed * (tl.sum(g * normed) / C)
        if CENTRED:
            change = change - tl.sum(g) / C
        change = tl.load(grad_stream + at, mask=inside, other=0.0) + change * inverse
        tl.store(grad_stream + at, change, mask=inside)
        if ADDS:
            if DROPS:
                change = change * multiplier(key, limit, scale, e, first + n * C + c)
            tl.store(dropped + at, change.to(dropped.dtype.element_ty), mask=inside)
    at = (e * tl.num_programs(0) + part) * C + c
    tl.store(weight_parts + at, of_weight, mask=inside)
    if BIASED:
        tl.store(bias_parts + at, of_bias, mask=inside)


@triton.jit
def cross_entropy(logits, targets, scale, losses, N, W, V, GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
    """The logits' gradient takes their place."""
    row, v = tl.program_id(0), tl.arange(0, BLOCK)
    at = row.to(tl.int64) * W + v
    x = tl.load(logits + at, mask=v < V, other=float("-inf")).to(tl.float32)
    target = tl.load(targets + row)
    x = x - tl.max(x)
    powers = tl.exp(x)
    total = tl.sum(powers)
    hit = v == target
    tl.store(losses + row, tl.log(total) - tl.sum(tl.where(hit, x, 0.0)))
    if GRADIENT:
        grad = (powers / total - tl.where(hit, 1.0, 0.0)) * tl.load(scale + row // N)
        tl.store(logits + at, grad.to(logits.dtype.element_ty), mask=v < W)


@triton.jit
def gelu(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, other=0.0).to(tl.float32)
    y = value * 0.5 * (1 + tl.erf(value * 0.7071067811865476))
    tl.store(out + at, y.to(out.dtype.element_ty), mask=at < n)


@triton.jit
def gelu_backward(x, grad, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, other=0.0).to(tl.float32)
    density = 0.3989422804014327 * tl.exp(-0.5 * value * value)
    slope = 0.5 * (1 + tl.erf(value * 0.7071067811865476)) + value * density
    g = tl.load(grad + at, mask=at < n, other=0.0).to(tl.float32) * slope
    tl.store(grad + at, g.to(grad.dtype.element_ty), mask=at < n)


@triton.jit
def swiglu(x, out, n, F, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gate_at = at // F * 2 * F + at % F
    gate = tl.load(x + gate_at, mask=at < n, other=0.0).to(tl.float32)
    hidden = tl.load(x + gate_at + F, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out + at, (gate * tl.sigmoid(gate) * hidden).to(out.dtype.element_ty), mask=at < n)


@triton.jit
def swiglu_backward(x, grad, n, F, BLOCK: tl.constexpr):
    """The gradient of x takes its place."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gate_at = at // F * 2 * F + at % F
    gate = tl.load(x + gate_at, mask=at < n, other=0.0).to(tl.float32)
    hidden = tl.load(x + gate_at + F, mask=at < n, other=0.0).to(tl.float32)
    g, share = tl.load(grad + at, mask=at < n, other=0.0).to(tl.float32), tl.sigmoid(gate)
    of_gate = g * hidden * share * (1 + gate * (1 - share))
    tl.store(x + gate_at, of_gate.to(x.dtype.element_ty), mask=at < n)
    tl.store(x + gate_at + F, (g * gate * share).to(x.dtype.element_ty), mask=at < n)


@triton.jit
def update(
    flat, low, grad, first_moment, second_moment, lr, decay, divisor, skipped, counts, P, M, start, matrix_end,
    decay_end, matrix_rate, matrix_decay, beta1, beta2, eps,
    LOG_BETA1: tl.constexpr, LOG_BETA2: tl.constexpr, OPTIMIZER: tl.constexpr, LOW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step of every member that is not skipped; `counts` already count it."""
    e, p = tl.program_id(1), start + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if tl.load(skipped + e) == 0:
        inside, at = p < P, e.to(tl.int64) * P + p
        w = tl.load(flat + at, mask=inside, other=0.0)
        g = tl.load(grad + at, mask=inside, other=0.0) / tl.load(divisor + e)
        m = tl.load(first_moment + at, mask=inside, other=0.0)
        rate = tl.load(lr + e) * tl.where(p < matrix_end, matrix_rate, 1.0)
        shrinks = tl.load(decay + e) * tl.where(p < matrix_end, matrix_decay, 1.0) * tl.where(p < decay_end, 1.0, 0.0)
        if OPTIMIZER == "adamw":
            v = tl.load(second_moment + at, mask=inside, other=0.0)
            count = tl.load(counts + 2 * e).to(tl.float64)
            correction1 = (1 - tl.exp(count * LOG_BETA1)).to(tl.float32)
            correction2 = tl.sqrt(1 - tl.exp(count * LOG_BETA2)).to(tl.float32)
            m = m + (g - m) * (1 - beta1)
            v = v * beta2 + g * g * (1 - beta2)
            w = w - rate * shrinks * w
            w = w - rate / correction1 * m / (tl.sqrt(v) / correction2 + eps)
            tl.store(second_moment + at, v, mask=inside)
        elif OPTIMIZER == "lion":
            mixed = m + (g - m) * (1 - beta1)
            w = w * (1 - rate * shrinks) - rate * (tl.where(mixed > 0, 1.0, 0.0) - tl.where(mixed < 0, 1.0, 0.0))
            m = m + (g - m) * (1 - beta2)
        else:
            m = beta1 * m + (g + shrinks * w)
            w = w - tl.load(lr + e) * m
        tl.store(first_moment + at, m, mask=inside)
        tl.store(flat + at, w, mask=inside)
        if LOW:
            tl.store(low + e.to(tl.int64) * M + p, w.to(low.dtype.element_ty), mask=p < M)
