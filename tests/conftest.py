"""What every test runs under: exact matmuls, no silent rank promotion, checked shapes."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import checked_imports
import jax
import pytest
from golden_case import GoldenCase

checked_imports.install()

TESTS = Path(__file__).parent
STRICT_DTYPES = (TESTS / "models", TESTS / "diffusion")  # optax and bfloat16 Flax norms promote

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling is much of the suite's time, so it is kept between runs. JAX's own variables choose
# another folder (JAX_COMPILATION_CACHE_DIR) or none (JAX_ENABLE_COMPILATION_CACHE=false).
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home) / "memo_jax" / "test-compilations"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written
        cache = Path(tempfile.gettempdir()) / "memo_jax-test-compilations"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)  # for the commands that tests start
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # hundreds of small ones

# Converted models and hashes of this run's files are of no use to the user.
_kept = tempfile.TemporaryDirectory(prefix="memo_jax-tests-")
os.environ["MEMO_JAX_CACHE"] = _kept.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Model tests run under strict dtype promotion, their module's fixtures too."""
    strict = any(folder in item.path.parents for folder in STRICT_DTYPES)
    with jax.numpy_dtype_promotion("strict" if strict else "standard"):
        return (yield)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], GoldenCase]:
    """`golden("h_vae")` opens tests/golden/h_vae.npz."""
    return GoldenCase
