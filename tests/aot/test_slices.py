"""Programs cut into pieces: nothing is lost, equal pieces are one, and what they need adds up."""

import jax
import jax.numpy as jnp
import numpy as np

from memo_jax.aot import count, slices
from memo_jax.aot.slices import Compiled

WIDTH, LAYERS = 16, 6


def step(ws, x):
    """A gradient through layers that are computed again, as training's."""

    def loss(ws):
        y = x
        for w in ws:
            y = jax.checkpoint(lambda y, w: jnp.sin(jnp.sin(y @ w) @ w))(y, w)
        return jnp.sum(y**2)

    return jax.tree.map(lambda w, g: w - 0.1 * g, ws, jax.grad(loss)(ws))


def traced():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)), jnp.float32)
    args = [w * (i + 1) / 9 for i in range(LAYERS)], jnp.ones((4, WIDTH))
    return jax.jit(step).trace(*args).jaxpr, args


def run(jaxpr, values):
    known = dict(zip(jaxpr.invars, values, strict=True))
    for piece in slices.cut(jaxpr):
        out = piece.function()(*(known[v] for v in piece.reads))
        known |= dict(zip(piece.makes, out, strict=True))
    return [known[v] for v in jaxpr.outvars]


def test_the_pieces_one_after_the_other_are_the_program():
    closed, args = traced()
    assert len(slices.cut(closed.jaxpr)) > LAYERS
    found = run(closed.jaxpr, jax.tree.leaves(args))
    for a, b in zip(found, jax.tree.leaves(jax.jit(step)(*args)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_pieces_hold_every_equation_once():
    closed, _ = traced()
    pieces = slices.cut(closed.jaxpr)
    assert [e for p in pieces for e in p.equations] == list(closed.jaxpr.eqns)
    assert sum(p.weight for p in pieces) == sum(map(count.heavy, closed.jaxpr.eqns))


def test_what_lives_between_pieces_is_counted_at_the_worst_moment():
    # Each layer keeps what enters it until its gradient is made; all gradients live until the end.
    closed, _ = traced()
    seen = []

    def compiled(piece):
        seen.append(piece)
        return Compiled(temporary=1e6, results=0.0, moved=10.0, seconds=0.0)

    total = slices.compose(closed.jaxpr, compiled)
    assert total.moved >= 10.0 * len(seen)
    activation, gradient = 4 * WIDTH * 4, WIDTH * WIDTH * 4
    held = total.peak - 1e6
    # When the first gradient is made all kept activations live; when the last is, the gradients.
    assert held >= max(LAYERS * activation, (LAYERS - 1) * gradient)
    assert held <= LAYERS * (gradient + activation) + 2 * activation


def test_how_many_pieces_there_will_be_is_known_before_the_first():
    closed, _ = traced()
    seen = []
    slices.compose(closed.jaxpr, lambda p: seen.append(p) or Compiled(0.0, 0.0, 0.0, 0.0))
    assert len(seen) > LAYERS
    assert slices.pieces_to_compile(closed.jaxpr) == len(seen)


def test_a_results_padding_is_carried_on():
    closed, _ = traced()
    plain = slices.compose(closed.jaxpr, lambda p: Compiled(0.0, 0.0, 0.0, 0.0)).peak

    def padded(piece):
        return Compiled(0.0, 4 * sum(count.nbytes(v.aval) for v in piece.makes), 0.0, 0.0)

    assert slices.compose(closed.jaxpr, padded).peak > 2.5 * plain


def test_results_take_the_place_of_what_is_given_away():
    scaled = jax.make_jaxpr(lambda x: x * 2.0)(jnp.zeros(100)).jaxpr
    never = None  # light pieces are not compiled
    assert slices.compose(scaled, never).peak == 400
    assert slices.compose(scaled, never, donated=scaled.invars).peak == 0
