"""Models from the Hugging Face hub: fetched once, every file checked before it is used.

A file's size and hash must be those of the manifest; where the manifest has none, or another
revision is asked for, those that the hub states for the revision (SHA-256 of large files, git's
blob hash of small ones). What the hub stated is kept, so that a later run without the hub checks
the same. HF_HUB_OFFLINE, HF_ENDPOINT, HF_HOME and HF_TOKEN mean what they mean to huggingface_hub.
A connection that breaks is taken up again where it stopped; a run that was ended keeps the files
that were whole.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from tqdm import tqdm

from memo_jax.errors import UserError, one_line
from memo_jax.weights import cache, manifest
from memo_jax.weights.manifest import File, Part, Source

ANSWER_SECONDS = 10  # how long the hub may take to answer what it has

# Hashing less than this takes no time worth a progress bar.
BAR_FROM = 2**28

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
TAKEN = (*PICKLES, ".safetensors", ".npz", ".onnx", ".json", ".yaml", ".yml", ".txt")


@dataclass(frozen=True)
class _Listing:
    """What the hub states of a revision: its commit and, of each file, (size, hash)."""

    commit: str
    files: Mapping[str, tuple[int | None, str | None]]
    licence: str = ""


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form of a hub id, owner/name or owner/name@revision, and is not the
    path of something that is there."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repository, at, revision = text.partition("@")
    if repository.count("/") != 1 or os.path.lexists(text):
        return False
    if at and (not revision or re.search(r"\s", revision)):
        return False
    try:
        validate_repo_id(repository)
    except HFValidationError:
        return False
    return True


def fetch(
    model_id: str, *, local_dir: Path | None = None, files: Collection[str] | None = None
) -> Path:
    """A local folder with the model of that id, fetched where it is not there yet.

    A model of the manifest comes with all its parts, each at its place in the published layout.
    Files stay in huggingface_hub's cache and the folder holds links to them; with `local_dir` the
    files themselves are put there. `files` are paths in the model's own repository to fetch
    instead of the usual ones.

    Raises:
      UserError: the id, revision or a file does not exist, the hub is out of reach, the disk is
        full, or a file is not what it should be (it is then removed).
    """
    if not is_hub_id(model_id):
        raise UserError(f"{model_id!r} is no hub id; expected owner/name or owner/name@revision")
    repository, _, revision = model_id.partition("@")
    known = manifest.model(repository)
    places: dict[str, Path] = {}
    for part in known.parts if known else [Part(Source(repository))]:
        own = part.source.repository == repository
        folder = local_dir / part.into if local_dir else None
        found = _fetch_part(part.source, revision if own else "", folder, files if own else None)
        if not known:
            return found.root
        places |= {f"{part.into}/{name}".lstrip("/"): found.root / name for name in found.names}
    if local_dir:
        return local_dir
    return _linked(cache.cache_folder() / "hub" / quote(model_id, safe="/@"), places)


def licences(model_id: str) -> dict[str, tuple[str, str]]:
    """Component -> (where it is from, its licence), of a model that the manifest has; else {}."""
    repository, _, revision = model_id.partition("@")
    known = manifest.model(repository)
    found: dict[str, tuple[str, str]] = {}
    for part, file in known.files() if known else ():
        own = revision if part.source.repository == repository else ""
        at = own or part.source.revision
        page = f"{part.source.page}/tree/{at}" if at else part.source.page
        found[file.component] = (page, file.licence)
    return found


@dataclass(frozen=True)
class _Found:
    root: Path
    names: list[str]


def _fetch_part(
    source: Source, revision: str, local_dir: Path | None, files: Collection[str] | None
) -> _Found:
    """A source's files, fetched and checked; `revision` is the user's ("" for none)."""
    repository = source.repository
    at = revision or source.revision or "main"
    described = {file.path: file for file in source.files}
    trouble: _OutOfReach | None = None
    listing: _Listing | None
    try:
        listing = _ask(repository, at)
    except _OutOfReach as error:
        listing, trouble = _recalled(repository, at), error
    stated = listing or _Listing(at, {})
    if files is not None:
        names = list(files)
    elif described:
        names = [file.path for file in source.files if file.usual]
    else:
        names = _wanted(stated.files)  # none: known only to huggingface_hub's cache, if at all
    if trouble is None:
        _remember(repository, at, stated)
        _download(source, stated, names, local_dir)
    found = _local(repository, stated, names, local_dir, trouble)
    _check(source, {} if revision else described, stated, found, local_dir)
    return found


class _OutOfReach(Exception):
    """The hub is not to be asked, or does not answer; the message says which and what to do."""


def _ask(repository: str, revision: str) -> _Listing:
    """What the hub states of a revision.

    Raises:
      _OutOfReach: it cannot be asked.
      UserError: it refuses.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        raise _OutOfReach("HF_HUB_OFFLINE is set; unset it to fetch")
    try:
        info = HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS
        )
    except OfflineModeIsEnabled as error:
        raise _OutOfReach("HF_HUB_OFFLINE is set; unset it to fetch") from error
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise _refusal(error, repository, revision) from error
        raise _OutOfReach(_unreachable(f"status {error.response.status_code}")) from error
    except (HTTPError, OSError, ValueError) as error:  # ValueError: an answer that is no JSON
        raise _OutOfReach(_unreachable(one_line(error) or type(error).__name__)) from error
    stated = {
        file.rfilename: (file.size, file.lfs.sha256 if file.lfs else file.blob_id)
        for file in info.siblings or []
    }
    licence = getattr(info.card_data, "license", None) or ""
    return _Listing(info.sha or revision, stated, str(licence))


def _unreachable(why: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT} cannot be reached ({why}); check the network or HF_ENDPOINT"


def _wanted(files: Iterable[str]) -> list[str]:
    """What a model of any repository may need.

    Of a native model that is all in its folders. Elsewhere weights, configs and licences; no
    pickles beside safetensors, which hold the same weights.
    """
    names = sorted(name for name in files if not PurePosixPath(name).name.startswith(".git"))
    if "model.json" in names:
        return [name for name in names if "/" in name or _is_text(name)]
    safe = {PurePosixPath(name).parent for name in names if name.endswith(".safetensors")}
    return [
        name
        for name in names
        if _is_text(name)
        or (name.endswith(TAKEN) and not (name.endswith(PICKLES) and _folder(name) in safe))
    ]


def _folder(name: str) -> PurePosixPath:
    return PurePosixPath(name).parent


def _is_text(name: str) -> bool:
    upper = PurePosixPath(name).name.upper()
    return upper == "MODEL.JSON" or upper.startswith(("LICENSE", "LICENCE", "NOTICE"))


def _download(source: Source, listing: _Listing, names: list[str], local_dir: Path | None) -> None:
    """Fetch what is not there yet; say what it is and under which licence.

    Raises:
      UserError: the revision lacks a file, the disk is full, or the hub refuses or breaks off.
    """
    from huggingface_hub import constants, snapshot_download

    repository = source.repository
    lacking = [name for name in names if name not in listing.files]
    if lacking or not names:
        what = ", ".join(lacking[:3]) or "file that a model needs"
        raise UserError(
            f"{repository} has no {what} at {listing.commit[:12]}; give another id or @revision"
        )
    new = [n for n in names if _present(repository, listing, n, local_dir) is None]
    if not new:
        return
    needed = sum(listing.files[name][0] or 0 for name in new)
    target = local_dir or Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(_existing(target)).free
    if needed > free:
        raise UserError(
            f"{repository} needs {size_text(needed)} and {target} has {size_text(free)} free; "
            "make room, or name another disk with HF_HOME"
        )
    print(f"fetching {repository}: {len(new)} files, {size_text(needed)}", file=sys.stderr)
    for line in _licences(source, listing, new):
        print(line, file=sys.stderr)
    try:
        snapshot_download(
            repository,
            revision=listing.commit,
            allow_patterns=[glob.escape(name) for name in new],
            local_dir=local_dir,
        )
    except Exception as error:  # huggingface_hub and what it is made of raise many kinds
        raise _refusal(error, repository, listing.commit) from error


def _licences(source: Source, listing: _Listing, new: list[str]) -> list[str]:
    files = [file for file in source.files if file.path in new]
    owners = {(file.licence, file.licence_url): file.component for file in files}
    own = (source.licence, source.licence_url)
    lines = [
        f"licence of {source.repository}: {source.licence or listing.licence or 'see its page'}"
    ]
    if source.licence_url:
        lines[0] += f", {source.licence_url}"
    if source.note:
        lines[0] += f" ({source.note})"
    lines += [
        f"licence of its {component}: {licence}, {url}"
        for (licence, url), component in owners.items()
        if (licence, url) != own
    ]
    return lines


def _present(repository: str, at: _Listing, name: str, local_dir: Path | None) -> Path | None:
    """The file where it lies already, of this revision as far as can be told."""
    from huggingface_hub import try_to_load_from_cache

    if local_dir is None:
        cached = try_to_load_from_cache(repository, name, revision=at.commit)
        return Path(cached) if isinstance(cached, str) and os.path.isfile(cached) else None
    path = local_dir / name
    tag = _tag(local_dir, name)
    digest = at.files.get(name, (None, None))[1]
    return path if path.is_file() and (not tag or not digest or tag == digest) else None


def _tag(local_dir: Path, name: str) -> str:
    """The hub's hash of a file in a folder when it was fetched, "" for one that never was."""
    note = local_dir / ".cache" / "huggingface" / "download" / f"{name}.metadata"
    try:
        return note.read_text("utf-8").splitlines()[1]
    except (OSError, ValueError, IndexError):
        return ""


def _local(
    repository: str,
    at: _Listing,
    names: list[str],
    local_dir: Path | None,
    trouble: _OutOfReach | None,
) -> _Found:
    """The files on this machine; `trouble` is why no others can be fetched."""
    from huggingface_hub import snapshot_download

    if not names:  # a repository never listed here: what its cache holds of it, if anything
        try:
            root = Path(
                snapshot_download(
                    repository, revision=at.commit, local_dir=local_dir, local_files_only=True
                )
            )
        except OSError as error:
            raise UserError(f"{repository} is not on this machine, and {trouble}") from error
        inside = (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        return _Found(root, _wanted(inside))
    root = Path()
    for name in names:
        path = _present(repository, at, name, local_dir)
        if path is None:
            why = trouble or "it went away while it was fetched; run this again"
            raise UserError(f"{repository}: {name} is not on this machine, and {why}")
        root = path.parents[len(PurePosixPath(name).parts) - 1]
    return _Found(root, names)


def _check(
    source: Source,
    described: Mapping[str, File],
    at: _Listing,
    found: _Found,
    local_dir: Path | None,
) -> None:
    """Compare every file with the manifest, else with the hub's record.

    Raises:
      UserError: one is not what it should be; all such are removed, so that they are fetched anew.
    """
    wrong = []
    for name in found.names:
        size, digest = at.files.get(name, (None, None))
        if file := described.get(name):
            size, digest = file.size or size, file.sha256 or digest
        path = found.root / name
        try:
            problem = _problem(path, size, digest)
        except OSError as error:
            raise UserError(
                f"{path} cannot be read: {one_line(error)}; check its rights"
            ) from error
        if not problem:
            continue
        if local_dir and not _tag(local_dir, name):  # the user's own, not for us to remove
            raise UserError(f"{path} {problem}; it was not fetched by this: move it away")
        for copy in {path, Path(os.path.realpath(path))}:
            with contextlib.suppress(FileNotFoundError):
                copy.unlink()
        wrong.append(f"{source.repository}: {name} {problem}")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        raise UserError(
            f"{wrong[0]}{more}; it was removed: run this again to fetch it anew, and if that does "
            "not help its publisher has changed it: name the revision you trust with @"
        )


def _problem(path: Path, size: int | None, digest: str | None) -> str:
    actual = path.stat().st_size
    if size is not None and actual != size:
        return f"has {actual} bytes, expected {size}"
    if digest is None:
        return ""
    if len(digest) == 64:
        with tqdm(
            total=actual, unit="B", unit_scale=True, desc="checking", disable=actual < BAR_FROM
        ) as bar:
            got = cache.sha256(path, bar.update)
        kind = "SHA-256"
    else:
        content = path.read_bytes()
        got = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
        kind = "git hash"
    return "" if got == digest else f"has {kind} {got}, expected {digest}"


def _linked(folder: Path, places: Mapping[str, Path]) -> Path:
    """A folder of links to the files, by their places in it; other links are removed."""
    try:
        for place, target in places.items():
            link = folder / place
            link.parent.mkdir(parents=True, exist_ok=True)
            if link.is_symlink() and os.readlink(link) == str(target):
                continue
            unfinished = link.with_name(f".{link.name}.{os.getpid()}")
            unfinished.symlink_to(target)
            os.replace(unfinished, link)
        for path in folder.rglob("*"):
            if path.is_symlink() and path.relative_to(folder).as_posix() not in places:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({one_line(error)}); name another with MEMO_JAX_CACHE"
        ) from error
    return folder


def _record(repository: str, revision: str) -> Path:
    return (
        cache.cache_folder() / "hub-records" / f"{quote(f'{repository}@{revision}', safe='')}.json"
    )


def _remember(repository: str, revision: str, listing: _Listing) -> None:
    path = _record(repository, revision)
    with contextlib.suppress(OSError):  # a later run without the hub then checks less
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps({"commit": listing.commit, "files": dict(listing.files)}))
        os.replace(unfinished, path)


def _recalled(repository: str, revision: str) -> _Listing | None:
    """What the hub stated when it was last asked, if it ever was."""
    try:
        data = json.loads(_record(repository, revision).read_text("utf-8"))
        return _Listing(data["commit"], {k: (v[0], v[1]) for k, v in data["files"].items()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _refusal(error: Exception, repository: str, revision: str) -> UserError:
    """Why the hub or the disk does not give the files, in one line."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repository}"
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) is None and cause.__cause__:
        cause = cause.__cause__
    number = getattr(cause, "errno", None)
    if isinstance(error, errors.GatedRepoError):
        text = f"{repository} is gated; accept its terms at {page}, then log in with: hf auth login"
    elif isinstance(error, errors.RevisionNotFoundError):
        text = f"{repository} has no revision {revision!r}; {page} lists them"
    elif isinstance(error, errors.RepositoryNotFoundError):
        text = (
            f"no model {repository} at {constants.ENDPOINT}; check the name, and if it is private "
            "log in with: hf auth login"
        )
    elif isinstance(error, errors.DisabledRepoError):
        text = f"{repository} was disabled by the hub; see {page}"
    elif isinstance(error, errors.HfHubHTTPError):
        text = (
            f"{constants.ENDPOINT} answers {error.response.status_code} for {repository}; "
            "log in with hf auth login, or try again later"
        )
    elif number in (errno.ENOSPC, errno.EDQUOT):
        text = f"the disk is full while fetching {repository}; make room, or set HF_HOME"
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        text = f"{repository} cannot be stored ({one_line(error)}); change rights, or set HF_HOME"
    else:
        text = (
            f"fetching {repository} broke off ({one_line(error)[:200] or type(error).__name__}); "
            "run this again: whole files are kept"
        )
    return UserError(text)


def size_text(size: float) -> str:
    """A number of bytes for people: 1.9 GB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
