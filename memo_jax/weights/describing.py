"""What a file or folder of weights is, in words and numbers."""

import json
from pathlib import Path
from typing import Any

from memo_jax.weights.comparing import module_of
from memo_jax.weights.found import Found, find


def describe(path: Path, *, as_json: bool = False) -> str:
    """Components below `path` with their form, dtype, origin, licence and parameters by module;
    raises as `find`."""
    found = [_facts(one) for one in find(path)]
    if as_json:
        return json.dumps({"path": str(path), "components": found}, indent=1)
    total = sum(one["parameters"] for one in found)
    lines = [f"{path}: {total / 1e6:,.1f} M parameters in {len(found)} component(s)"]
    for one in found:
        dtypes = ", ".join(
            kind if len(one["dtypes"]) == 1 else f"{kind} ({n / 1e6:,.1f} M)"
            for kind, n in one["dtypes"].items()
        )
        lines += [
            "",
            f"{one['component']}: {one['parameters'] / 1e6:,.1f} M parameters, {dtypes}",
            f"  form     {one['form']}",
            f"  where    {one['where']}",
            f"  origin   {one['origin'] or 'not stated'}",
            f"  licence  {one['licence'] or 'not stated'}",
        ]
        wide = max(len(name) for name in one["modules"])
        lines += [f"  {name:{wide}}  {n:13,d}" for name, n in one["modules"].items()]
    return "\n".join(lines)


def _facts(found: Found) -> dict[str, Any]:
    modules: dict[str, int] = {}
    for path, leaf in found.shapes.items():
        name = module_of("", path).lstrip(".")
        size = 1
        for n in leaf.shape:
            size *= n
        modules[name] = modules.get(name, 0) + size
    return {
        "component": found.component,
        "form": found.form,
        "where": str(found.where),
        "origin": found.origin,
        "licence": found.licence,
        "parameters": found.parameters,
        "dtypes": found.dtypes,
        "config": found.config.to_dict(),
        "modules": modules,
    }
