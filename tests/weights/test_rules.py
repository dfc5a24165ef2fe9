"""The engine that applies rule tables: both ways to the bit, and every problem told at once."""

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.weights import rules
from memo_jax.weights.rules import ConversionError, Rule, export_tensors, import_tensors

TABLE = (
    *rules.linear("head.{i}.to_out.0", "head/{i}/to_out"),
    *rules.linear("plain", bias=False),
    *rules.conv2d("blocks.{i}.conv"),
    *rules.conv2d_1x1("squeeze"),
    *rules.conv1d("blocks.{i}.wave", bias=False),
    *rules.norm("norm"),
    *rules.under("deep.{j}", "deep/{j}", rules.under("er", "", rules.linear("fc"))),
    Rule("table", "table/embedding"),
    Rule("spare", "spare", optional="published files leave it out"),
)

SHAPES = {
    "head/0/to_out/kernel": (3, 2),
    "head/0/to_out/bias": (2,),
    "head/12/to_out/kernel": (5, 4),
    "head/12/to_out/bias": (4,),
    "plain/kernel": (3, 2),
    "blocks/1/conv/kernel": (5, 4, 3, 2),
    "blocks/1/conv/bias": (2,),
    "squeeze/kernel": (3, 2),
    "squeeze/bias": (2,),
    "blocks/1/wave/kernel": (4, 3, 2),
    "norm/scale": (3,),
    "norm/bias": (3,),
    "deep/7/fc/kernel": (3, 2),
    "deep/7/fc/bias": (2,),
    "table/embedding": (4, 3),
    "spare": (2,),
}


@pytest.fixture
def tensors():
    """Random tensors in PyTorch's names and layout."""
    shapes = {
        "head.0.to_out.0.weight": (2, 3),
        "head.0.to_out.0.bias": (2,),
        "head.12.to_out.0.weight": (4, 5),
        "head.12.to_out.0.bias": (4,),
        "plain.weight": (2, 3),
        "blocks.1.conv.weight": (2, 3, 5, 4),
        "blocks.1.conv.bias": (2,),
        "squeeze.weight": (2, 3, 1, 1),
        "squeeze.bias": (2,),
        "blocks.1.wave.weight": (2, 3, 4),
        "norm.weight": (3,),
        "norm.bias": (3,),
        "deep.7.er.fc.weight": (2, 3),
        "deep.7.er.fc.bias": (2,),
        "table": (4, 3),
        "spare": (2,),
    }
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def problems(tensors, table=TABLE, shapes=SHAPES):
    with pytest.raises(ConversionError) as error:
        import_tensors("net", table, tensors, shapes)
    assert isinstance(error.value, UserError)
    return error.value


def test_there_and_back_to_the_bit(tensors):
    imported = import_tensors("net", TABLE, tensors, SHAPES)
    assert {path: value.shape for path, value in imported.items()} == SHAPES
    back = export_tensors("net", TABLE, imported)
    assert set(back) == set(tensors)
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype and np.array_equal(back[name], value)
        assert back[name].flags.c_contiguous


def test_axes_land_where_they_belong(tensors):
    got = import_tensors("net", TABLE, tensors, SHAPES)
    conv, wave = tensors["blocks.1.conv.weight"], tensors["blocks.1.wave.weight"]
    assert got["blocks/1/conv/kernel"][4, 3, 2, 1] == conv[1, 2, 4, 3]
    assert got["blocks/1/wave/kernel"][3, 2, 1] == wave[1, 2, 3]
    assert got["plain/kernel"][2, 1] == tensors["plain.weight"][1, 2]
    assert got["squeeze/kernel"][2, 1] == tensors["squeeze.weight"][1, 2, 0, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_tensor_keeps_its_dtype(tensors, dtype):
    tensors["plain.weight"] = tensors["plain.weight"].astype(dtype)
    imported = import_tensors("net", TABLE, tensors, SHAPES)
    assert imported["plain/kernel"].dtype == dtype
    assert export_tensors("net", TABLE, imported)["plain.weight"].dtype == dtype


def test_an_optional_tensor_may_be_absent(tensors):
    del tensors["spare"]
    got = import_tensors("net", TABLE, tensors, SHAPES)["spare"]
    assert got.shape == (2,) and got.dtype == np.float32 and not got.any()


def test_everything_amiss_is_told_at_once(tensors):
    del tensors["norm.bias"]
    del tensors["head.12.to_out.0.weight"]
    tensors["stranger.weight"] = np.zeros(1)
    tensors["blocks.9.conv.bias"] = np.zeros(2)
    tensors["plain.weight"] = np.zeros((2, 4))
    tensors["blocks.1.conv.weight"] = np.zeros((2, 3))
    error = problems(tensors)
    assert sorted(error.problems) == sorted(
        [
            "missing tensor norm.bias (for norm/bias)",
            "missing tensor head.12.to_out.0.weight (for head/12/to_out/kernel)",
            "unknown tensor stranger.weight",
            "unknown tensor blocks.9.conv.bias (this config has no blocks/9/conv/bias)",
            "plain.weight gives plain/kernel shape (4, 2), expected (3, 2)",
            "blocks.1.conv.weight has shape (2, 3), expected axes o i h w -> h w i o",
        ]
    )
    assert str(error).startswith("net: 6 problem(s)\n")
    assert all(problem in str(error) for problem in error.problems)


def test_the_summary_is_one_line(tensors):
    for name in list(tensors):
        del tensors[name]
    error = problems(tensors)
    assert len(error.problems) == len(SHAPES) - 1  # the optional one is not missed
    assert "\n" not in error.summary and error.summary.startswith("net: missing tensor ")
    assert error.summary.endswith(f"; and {len(error.problems) - 3} more")
    tensors |= {"stranger": np.zeros(1)}
    few = problems(tensors, table=(), shapes={})
    assert few.summary == "net: unknown tensor stranger"


def test_no_two_tensors_go_to_one_parameter(tensors):
    table = (*TABLE, Rule("plain2.weight", "plain/kernel", "o i -> i o"))
    error = problems({**tensors, "plain2.weight": np.zeros((2, 3))}, table)
    assert error.problems == ("plain/kernel is written twice, last by plain2.weight",)


def test_no_tensor_has_two_rules(tensors):
    table = (*TABLE, Rule("norm.weight", "table/embedding"))
    assert "norm.weight has two rules" in problems(tensors, table).problems


def test_no_two_parameters_go_to_one_tensor():
    table = (Rule("same", "first"), Rule("same", "second"))
    with pytest.raises(ConversionError, match="same is written twice, last by second"):
        export_tensors("net", table, {"first": np.zeros(1), "second": np.zeros(1)})


def test_every_parameter_has_a_rule():
    with pytest.raises(ConversionError) as error:
        export_tensors("net", TABLE, {"lost": np.zeros(1), "found/kernel": np.zeros((1, 1))})
    assert error.value.problems == (
        "no rule for parameter lost",
        "no rule for parameter found/kernel",
    )


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("head.3.to_out.0.weight", "head/3/to_out/kernel"),
        ("head.31.to_out.0.weight", "head/31/to_out/kernel"),
        ("head.x.to_out.0.weight", None),
        ("head.3.to_out.1.weight", None),
        ("head.3.to_out.0.weights", None),
        ("ahead.3.to_out.0.weight", None),
        ("head.3.to_outx0.weight", None),  # a dot is a dot
    ],
)
def test_names_match_whole_and_literally(name, path):
    rule = TABLE[0]
    assert rule.jax_name(name) == path
    assert path is None or rule.torch_name(path) == name
