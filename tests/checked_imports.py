"""Shapes and types of memo_jax's annotated functions, checked at every call while tests run.

Functions and methods only: dataclasses that are pytrees must not be checked, because JAX rebuilds
them with placeholders as leaves. jaxtyping's own import hook checks dataclasses too.
"""

import ast
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader

import jax
import numpy as np
from beartype import beartype
from jaxtyping import jaxtyped

CHECK = "from checked_imports import AnyArray as _AnyArray, checked as _checked"
DTYPES = {"Float", "Float32", "Int", "Int32", "UInt8", "Bool", "Shaped", "Num", "Key"}
AnyArray = jax.Array | np.ndarray  # JAX takes NumPy's arrays wherever it takes its own


def checked(function):
    """`function` with its shapes and dtypes checked; an axis name means one size per call."""
    return jaxtyped(function, typechecker=beartype)


def _has_shape(annotation: ast.expr | None) -> bool:
    """Whether an annotation holds one of jaxtyping's: `Float[Array, "b c"] | None`."""
    return annotation is not None and any(
        isinstance(part, ast.Subscript) and ast.unparse(part.value).split(".")[-1] in DTYPES
        for part in ast.walk(annotation)
    )


class _Checked(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        extra = [a for a in (node.args.vararg, node.args.kwarg) if a]
        shaped = [a for a in arguments if _has_shape(a.annotation)]
        if not shaped and not _has_shape(node.returns):
            return node
        for argument in [*arguments, *extra]:  # other types are the type checker's business
            argument.annotation = self._widened(argument.annotation)
        node.returns = self._widened(node.returns)
        decorator = ast.Name("_checked", ast.Load())
        node.decorator_list.append(ast.copy_location(decorator, node))  # innermost, below jit
        return node

    @staticmethod
    def _widened(annotation: ast.expr | None) -> ast.expr | None:
        if not _has_shape(annotation):
            return None
        for part in ast.walk(annotation):
            if isinstance(part, ast.Name) and part.id == "Array":
                part.id = "_AnyArray"
        return annotation


def _is_opening(node: ast.stmt) -> bool:
    """Whether a statement may stand before other code only: a docstring, `from __future__`."""
    return isinstance(node, ast.Expr) or (
        isinstance(node, ast.ImportFrom) and node.module == "__future__"
    )


class _Loader(SourceFileLoader):
    def get_code(self, fullname):
        """Compiles anew: bytecode with checks must not stay in __pycache__."""
        path = self.get_filename(fullname)
        tree = _Checked().visit(ast.parse(self.get_data(path), path))
        at = next((i for i, node in enumerate(tree.body) if not _is_opening(node)), 0)
        tree.body[at:at] = ast.parse(CHECK).body
        return compile(tree, path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] != "memo_jax":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Checks every memo_jax module imported from now on; none may have been imported before."""
    early = [name for name in sys.modules if name.split(".")[0] == "memo_jax"]
    assert not early, f"imported before their checks: {early}"
    sys.meta_path.insert(0, _Finder())
