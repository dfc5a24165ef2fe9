"""`python -m memo_jax.train.emotion`: corpora of emotional speech -> the emotion classifier.

RUN/run.json            settings, and what identifies the examples
RUN/features/           what emotion2vec heard (`features.Store`), unless --features names a folder
RUN/state/              the linear head's and the MLP's last epochs; an interrupted run goes on
RUN/results.txt         accuracy on each corpus and overall; also .csv and .json
RUN/model/              the classifier, a native folder of that one component
"""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from memo_jax.command import INTERRUPTED, Parser, keep_compilations, run, stopping, with_config
from memo_jax.errors import UserError, one_line
from memo_jax.train.emotion.component import put_into, write_classifier, write_json
from memo_jax.train.emotion.corpora import corpus_named, read_corpus
from memo_jax.train.emotion.examples import TEST, Examples, Part, gather, part_of
from memo_jax.train.emotion.features import Hearer, Store, hear
from memo_jax.train.emotion.fit import FitConfig, Fitted, Stopped, fit, predict
from memo_jax.train.emotion.readers import FEATURES, Recording
from memo_jax.train.emotion.table import as_csv, as_text, row_of, table
from memo_jax.weights import hub
from memo_jax.weights.components import COMPONENTS, assemble
from memo_jax.weights.found import only
from memo_jax.weights.sources import preset_folder, presets

PROG = "memo_jax.train.emotion"

Found = dict[str, list[tuple[Recording, str]]]

_HELP = {
    "layers": "dense layers of the classifier",
    "channels": "width between its layers",
    "batch_size": "examples a step",
    "learning_rate": "AdamW's",
    "weight_decay": "AdamW's",
    "clip": "largest norm of the gradient",
    "contrastive": "weight of the contrastive term",
    "temperature": "of the contrastive term",
    "class_weights": "let all classes weigh the same",
    "epochs": "at most",
    "patience": "epochs without progress before stopping",
    "seed": "of the split, the first weights and the order of examples",
}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(prog=PROG, description="Trains the emotion classifier on corpora of speech.")
    p.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="NAME=PATH",
        help="a corpus and its folder as published, or a listing of it (json, jsonl, csv)",
    )
    p.add_argument("--run", help="folder for all that is made; an interrupted run goes on there")
    p.add_argument(
        "--model", help="whose emotion2vec listens: a model folder, published weights, or a hub id"
    )
    p.add_argument("--features", help="folder of features that runs share (RUN/features)")
    p.add_argument("--hear-batch", type=int, default=8, help="pieces of sound heard at once")
    p.add_argument("--into", help="also write a copy of --model that has the new classifier")
    p.add_argument("--config", help="a config file (configs/emotion.py) for options not given")
    p.add_argument("--quiet", action="store_true", help="no progress bars, no line an epoch")
    for f in dataclasses.fields(FitConfig):
        flag = f"--{f.name.replace('_', '-')}"
        if f.type is bool:
            p.add_argument(flag, action="store_true", help=_HELP[f.name])
        else:
            text = f"{_HELP[f.name]} ({f.default})"
            p.add_argument(flag, type=type(f.default), default=f.default, help=text)
    return p


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
    """
    args = with_config(parser(), arguments)
    config, places, folder = _check(args)
    found, notes = _read(places)
    keep_compilations()
    hearer = _hearer(args.model, args.hear_batch) if _has_sound(found) else None
    _make(folder)
    try:
        examples = _examples(args, places, found, hearer, folder, config.seed)
    except KeyboardInterrupt:
        _tell("what was heard is kept; the same line goes on from there")
        raise SystemExit(INTERRUPTED) from None
    for note in [*notes, *(note for part in examples.parts for note in part.notes)]:
        if not args.quiet:
            _tell(f"note: {note}")
    _same_run(folder, config, examples, hearer)
    linear = _fit(args, folder, "linear", config.linear, examples)
    mlp = _fit(args, folder, "mlp", config, examples)
    _write_results(folder, config, examples, linear, mlp)
    origin = f"trained on {', '.join(part.title for part in examples.parts)}"
    shutil.rmtree(folder / "model", ignore_errors=True)  # of the same run, which ended before
    write_classifier(folder / "model", mlp.module, origin)
    if args.into:
        put_into(_place(args.model), mlp.module, origin, Path(args.into))
        print(f"{args.into}: {args.model} with the new classifier")
    print(f"{folder / 'model'}: the classifier; {folder / 'results.txt'}:")
    print((folder / "results.txt").read_text("utf-8"), end="")


def _check(args: argparse.Namespace) -> tuple[FitConfig, dict[str, Path], Path]:
    """What can be refused before anything is read."""
    if not args.data:
        raise UserError("--data is missing; expected NAME=PATH for each corpus")
    if not args.run:
        raise UserError("--run is missing; expected a folder for what is made")
    if args.hear_batch < 1:
        raise UserError(f"--hear-batch {args.hear_batch}: expected 1 or more")
    if args.into and not args.model:
        raise UserError("--into is a copy of --model, which is missing")
    if args.into and Path(args.into).exists():
        raise UserError(f"--into {args.into!r} exists already; give a new folder")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: expected 0 to {2**32 - 1}")
    names = [f.name for f in dataclasses.fields(FitConfig)]
    config = FitConfig(**{name: getattr(args, name) for name in names})
    if config.layers < 2:
        raise UserError("--layers 1 is the linear head, which is trained for comparison anyway")
    places: dict[str, Path] = {}
    for text in args.data:
        name, given, path = text.partition("=")
        if not given or not name or not path:
            raise UserError(f"--data {text!r}: expected NAME=PATH, such as ravdess=corpora/RAVDESS")
        if name in places:
            raise UserError(f"--data names {name} twice; put its files into one folder or listing")
        places[name] = Path(path)
        corpus_named(name, places[name])
    return config, places, Path(args.run)


def _read(places: dict[str, Path]) -> tuple[Found, list[str]]:
    """The corpora's recordings, and notes on what of them is not used."""
    found, notes = {}, []
    for name, place in places.items():
        found[name], skipped = read_corpus(name, place)
        if skipped:
            notes.append(f"{name}: {len(skipped)} not used, such as {skipped[0]!r}")
    return found, notes


def _has_sound(found: Found) -> bool:
    return any(
        recording.path.suffix.lower() != FEATURES for own in found.values() for recording, _ in own
    )


def _place(model: str) -> Path:
    """Where a model's files are: a bundled one's, the user's own, or a hub id's once downloaded."""
    if model in presets():
        return preset_folder(model)
    if not Path(model).exists() and hub.is_hub_id(model):
        return hub.fetch(model)
    return Path(model)


def _hearer(model: str | None, batch: int) -> Hearer | None:
    """emotion2vec of a model or of its own files.

    Raises:
      UserError: there is none.
    """
    if model is None:
        raise UserError(
            "--model is missing; the corpora hold sound, and emotion2vec must hear it: give a "
            f"model or file that has it, or {FEATURES} files with features in place of sound"
        )
    try:
        weights = only(_place(model), "emotion2vec")
    except UserError as error:
        raise UserError(
            f"--model {model!r} has no emotion2vec to hear the corpora with: {one_line(error)}"
        ) from error
    graph, _ = COMPONENTS["emotion2vec"].abstract(weights.config)
    read = weights.read(list(weights.shapes))
    values = {name: jnp.asarray(value, jnp.float32) for name, value in read.items()}
    return Hearer(assemble(graph, values), shortest=weights.config.shortest, batch=batch)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--run {str(folder)!r} cannot be made: {one_line(error)}") from error


def _examples(
    args: argparse.Namespace,
    places: dict[str, Path],
    found: Found,
    hearer: Hearer | None,
    folder: Path,
    seed: int,
) -> Examples:
    store = Store(Path(args.features) if args.features else folder / "features")
    parts: list[Part] = []
    for name, own in found.items():
        corpus = corpus_named(name, places[name])
        recordings = [recording for recording, _ in own]
        heard = hear(recordings, store, hearer, name=name, quiet=args.quiet)
        parts.append(
            part_of(
                name,
                corpus.title,
                corpus.language,
                own,
                heard,
                by_speaker=corpus.speakers,
                seed=seed,
            )
        )
    return gather(parts)


def _same_run(folder: Path, config: FitConfig, examples: Examples, hearer: Hearer | None) -> None:
    """Write run.json, or compare with the one that is there.

    Raises:
      UserError: the folder is another run's.
    """
    path = folder / "run.json"
    now = {
        **dataclasses.asdict(config),
        "examples": examples.digest(),
        "corpora": ", ".join(part.name for part in examples.parts),
        "emotion2vec": hearer.identity if hearer else "",
    }
    if path.exists():
        try:
            before = json.loads(path.read_text("utf-8"))
            changed = [name for name in now if before.get(name) != now[name]]
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{path} cannot be read ({one_line(error)}); remove the run") from error
        if changed:
            raise UserError(
                f"--run {str(folder)!r} holds a run with other {', '.join(changed)}; give another "
                "folder, or the same settings to go on"
            )
        return
    write_json(path, now)


def _fit(
    args: argparse.Namespace, folder: Path, name: str, config: FitConfig, examples: Examples
) -> Fitted:
    """One classifier, gone on from where it stopped."""
    with stopping("stopping after this epoch; once more loses what is not kept yet") as stop:
        try:
            return fit(
                examples,
                config,
                keep=folder / "state" / name,
                stop=lambda: bool(stop.asked),
                tell=(lambda line: None) if args.quiet else lambda line: _tell(f"{name} {line}"),
            )
        except Stopped:
            _tell(f"the last epoch is kept in {folder}; the same line goes on from there")
            raise SystemExit(128 + stop.asked) from None


def _write_results(
    folder: Path, config: FitConfig, examples: Examples, linear: Fitted, mlp: Fitted
) -> None:
    features = examples.features[examples.sides == TEST]
    predicted = {
        "linear": np.asarray(predict(linear.module, features)),
        "mlp": np.asarray(predict(mlp.module, features)),
    }
    rows = table(examples, predicted)
    (folder / "results.txt").write_text(as_text(rows), "utf-8")
    (folder / "results.csv").write_text(as_csv(rows), "utf-8")
    write_json(
        folder / "results.json",
        {
            "table": [dict(row_of(row)) for row in rows],
            "settings": dataclasses.asdict(config),
            "linear": {"best_epoch": linear.best_epoch, "history": linear.history},
            "mlp": {"best_epoch": mlp.best_epoch, "history": mlp.history},
        },
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    run(PROG, main)
