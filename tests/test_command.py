"""What the commands share: exit codes, one-line errors, configs, signals."""

import os
import signal
import subprocess
import sys

import jax
import pytest

from memo_jax.command import Parser, keep_compilations, read_config, run, with_config
from memo_jax.errors import UserError
from memo_jax.weights.rules import ConversionError


@pytest.fixture
def exits(monkeypatch, capsys):
    """`exits(main)` is (status, stdout, stderr) of a command whose main that is."""

    def exits(main, *arguments):
        monkeypatch.setattr("sys.argv", ["x", *arguments])
        with pytest.raises(SystemExit) as end:
            run("memo_jax.x", main)
        return end.value.code, *capsys.readouterr()

    before = signal.getsignal(signal.SIGTERM)
    yield exits
    signal.signal(signal.SIGTERM, before)


def raises(error):
    def main(arguments):
        raise error

    return main


def test_success(exits):
    got = []
    assert exits(lambda arguments: got.extend(arguments), "--a", "b") == (0, "", "")
    assert got == ["--a", "b"]


def test_the_users_mistake_is_one_line(exits):
    error = UserError("no such\nthing;  do\tthis")
    assert exits(raises(error)) == (2, "", "memo_jax.x: no such thing; do this\n")


def test_a_conversion_that_fails_is_one_line(exits):
    problems = [f"missing tensor {i}" for i in range(40)]
    status, _, err = exits(raises(ConversionError("vae", problems)))
    assert status == 2 and err.count("\n") == 1
    assert "missing tensor 0" in err and "and 37 more" in err


def test_interruption(exits):
    status, _, err = exits(raises(KeyboardInterrupt()))
    assert status == 130 and err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    """`command | head -1`: no traceback."""
    program = (
        "import sys; from memo_jax.command import run\n"
        "run('x', lambda arguments: [print('line', i) for i in range(100_000)])"
    )
    command = f'{sys.executable} -c "$PROGRAM" | head -1'
    done = subprocess.run(
        ["bash", "-c", command + "; echo ${PIPESTATUS[0]}"],
        env={**os.environ, "PROGRAM": program},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split("\n")[:2] == ["line 0", "141"] and done.stderr == ""


def test_sigterm_is_an_exception(exits):
    """Blocks are left in order, also when a second signal follows."""
    left = []

    def main(arguments):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            left.append(True)

    assert exits(main) == (143, "", "") and left == [True]


def test_our_own_mistakes_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run("memo_jax.x", lambda arguments: 1 / 0)


@pytest.fixture
def parser():
    parser = Parser(prog="memo_jax.x")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rate", type=float, default=1.5)
    parser.add_argument("--face-models")
    parser.add_argument("--kind", choices=("a", "b"), default="a")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--config")
    return parser


@pytest.fixture
def write(tmp_path):
    """`write(lines)` is a config file whose get_config has these lines."""

    def write(lines):
        path = tmp_path / "experiment.py"
        body = "".join(f"    {line}\n" for line in lines.splitlines())
        path.write_text(
            "import ml_collections\n\n\ndef get_config(arg=''):\n"
            f"    c = ml_collections.ConfigDict()\n{body}    return c\n"
        )
        return str(path)

    return write


def test_usage_is_one_line(parser, capsys):
    for arguments in (["--steps", "x"], ["--kind", "c"], ["--unknown"], ["stray"], ["--steps"]):
        with pytest.raises(SystemExit) as end:
            with_config(parser, arguments)
        assert end.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("memo_jax.x: ") and err.count("\n") == 1


def test_what_is_typed_wins(parser, write):
    source = write("c.steps = 3\nc.rate = 2.5\nc.face_models = 'f'\nc.quiet = True\nc.kind = 'b'")
    args = with_config(parser, ["--config", source])
    assert (args.steps, args.rate, args.face_models) == (3, 2.5, "f")
    assert (args.quiet, args.kind, args.config) == (True, "b", source)
    args = with_config(parser, ["--steps", "7", "--config", source, "--kind=a"])
    assert (args.steps, args.rate, args.kind) == (7, 2.5, "a")


def test_none_and_false_are_options_left_out(parser, write):
    args = with_config(parser, ["--config", write("c.steps = None\nc.quiet = False\nc.rate = -1")])
    assert (args.steps, args.quiet, args.rate) == (None, False, -1.0)


@pytest.mark.parametrize("name", ["stepps", "config", "help"])
def test_a_field_that_is_no_option(parser, write, name):
    with pytest.raises(UserError, match=f"sets {name}, which is no option"):
        with_config(parser, ["--config", write(f"c.{name} = 3")])


@pytest.mark.parametrize(
    "line", ["c.steps = 'x'", "c.steps = 2.5", "c.steps = (1, 2)", "c.kind = 'c'", "c.quiet = 'y'"]
)
def test_a_field_that_an_option_cannot_have(parser, write, capsys, line):
    with pytest.raises(SystemExit) as end:
        with_config(parser, ["--config", write(line)])
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no get_config"),
        ("def get_config(:", "SyntaxError"),
        ("import no_such_module_at_all", "ModuleNotFoundError"),
        ("def get_config(arg): return {}", "must return a ConfigDict"),
        ("def get_config(): pass", "TypeError"),
        ("def get_config(arg): raise ValueError('no variant')", "no variant"),
        ("\0", "source code"),
    ],
)
def test_configs_that_are_none(tmp_path, text, message):
    path = tmp_path / "c.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(f"{path}:x")


@pytest.mark.parametrize("name", ["missing.py", "c.txt", "folder.py", "", "x" * 5000], ids=range(5))
def test_configs_that_are_no_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.txt").write_text("x")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(UserError, match=r"expected a path|cannot"):
        read_config(name)


@pytest.fixture
def cache():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_compilations_are_kept(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("MEMO_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compilations()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "memo_jax" / "compilations")
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "mine"))
    keep_compilations()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine" / "compilations")
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "file"))
    keep_compilations()
    assert capsys.readouterr().err.startswith("no compilation cache")


def test_jaxs_own_variable_wins(cache, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/nowhere")
    keep_compilations()
    assert jax.config.jax_compilation_cache_dir == before
