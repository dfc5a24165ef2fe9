"""From what is left of two sets of videos to the table's rows and warnings."""

from collections.abc import Sequence

from memo_jax.metrics.frechet import BLOCK, by_count, frechet_distance, kernel_distance
from memo_jax.metrics.gather import Gathered
from memo_jax.metrics.identity import Identity
from memo_jax.metrics.meters import Meter
from memo_jax.metrics.table import Better, Group, Row

FRAMES_WANTED = 2048  # below, FID's covariances cannot have full rank
WINDOWS_WANTED = 256  # of which FVD was published; below, 400 numbers have no covariance

Counts = dict[str, list[tuple[int, float]]]

NO_EMOTION = (
    "no judge of the emotion that a face shows given (--emotion-judge), and none is published with "
    "the paper, whose figure is of its detector on labelled sound, which memo_jax.train.emotion "
    "measures as it trains one"
)
NO_EMOTIONS = "no emotions asked for given (--emotions)"
EMOTION = "share of frames, five a second, that show the emotion asked for, by the judge given"
NO_REGRESSOR = "no 3DMM regressor given, and no other features of a face are its expression alone"


def rows_of(
    real: Gathered, generated: Gathered, meters: Sequence[Meter]
) -> tuple[tuple[Row, ...], Counts]:
    """All rows, and the distances by count."""
    measured = {meter.name: meter for meter in meters}
    counts: Counts = {}
    rows = [
        _frechet("FVD", "fvd", "windows of 16 frames", real, generated, _absent("I3D")),
        _frechet("FID", "fid", "frames", real, generated, _absent("InceptionV3")),
        *_sync(real, generated, "sync" in measured),
        _identity(real, generated, measured.get("identity")),
        _frechet("E-FID", "expression", "faces", real, generated, NO_REGRESSOR),
        _emotion(real, generated, "emotion" in measured),
    ]
    if rows[1].generated is not None:
        rows.append(_kid(real, generated))
    if rows[0].generated is not None:
        counts["FVD"] = by_count(real.samples["fvd"].sample(), generated.samples["fvd"].sample())
    rows += [
        _mean("mouth and loudness", "mouth", "higher", real, generated, MOUTH, group="extra"),
        _mean("seconds apart", "late", "lower", real, generated, APART, group="extra"),
        _mean("identity kept", "kept", "higher", real, generated, KEPT, group="extra"),
    ]
    notes = {
        "sharpness": "variance of the Laplacian at 256 pixels; near the real videos' is good",
        "colour": "distance in CIELAB from the first second's colours",
        "flicker": "mean second difference in time of a grey thumbnail, of 255 levels",
        "motion": "mean first difference alike; near the real videos' is good",
        "frozen": "share of frames that repeat the one before",
    }
    for name, note in notes.items():
        better: Better = "" if name in ("sharpness", "motion") else "lower"
        rows.append(_mean(name, name, better, real, generated, note, group="quality"))
    return tuple(rows), counts


MOUTH = (
    "no published measure: how much of the loudness the mouth's movement explains, above other "
    "shifts"
)
APART = "no published measure: the shift at which it explains most, without its sign"
KEPT = "cosine of the last second's faces with the first face, by the same embeddings as identity"


def warnings_of(real: Gathered, generated: Gathered) -> tuple[str, ...]:
    """What makes figures mean less than they seem to."""
    found = []
    for name, key, wanted, what, why in (
        (
            *("FID", "fid", FRAMES_WANTED, "frames"),
            "the covariance of 2,048 features has no full rank, and the distance comes out too "
            "large; KID does not",
        ),
        (
            *("FVD", "fvd", WINDOWS_WANTED, "windows of 16 frames"),
            "with fewer than the 400 logits it compares, FVD is mostly too large by how few there "
            "are; published figures are of 256 to 2,048 windows",
        ),
    ):
        few = {
            side: one.moments[key].count
            for side, one in (("real", real), ("generated", generated))
            if key in one.moments and one.moments[key].count < wanted
        }
        if few:
            had = " and ".join(f"{n:,} {side}" for side, n in few.items())
            found.append(f"{name} is of {had} {what}, fewer than {wanted:,}: {why}")
    if generated.videos < 0.5 * real.videos or real.videos < 0.5 * generated.videos:
        found.append(
            f"{real.videos:,} real and {generated.videos:,} generated videos: distances are fair "
            "between sets of about one size"
        )
    if "fid" in real.moments:
        found.append(
            "FID counts frames, and frames of one video are alike: few videos of many frames are "
            "a small sample whatever their number of frames"
        )
    return tuple(found)


def _frechet(
    name: str, key: str, what: str, real: Gathered, generated: Gathered, absent: str
) -> Row:
    a, b = real.moments.get(key), generated.moments.get(key)
    if a is None or b is None:
        return Row(name, None, better="lower", note=absent)
    counted = f"{b.count:,} and {a.count:,} {what}"
    if min(a.count, b.count) < 2:
        return Row(name, None, better="lower", counted=counted, note=f"too few {what}")
    return Row(name, frechet_distance(a, b), better="lower", counted=counted)


def _kid(real: Gathered, generated: Gathered) -> Row:
    found = kernel_distance(real.samples["fid"].sample(), generated.samples["fid"].sample())
    note = f"± {found.deviation:.2g} over blocks of {found.block}"
    if found.block < BLOCK:
        note += f"; published ones are of {BLOCK:,}"
    samples = [len(one.samples["fid"].sample()) for one in (generated, real)]
    counted = f"{samples[0]:,} and {samples[1]:,} frames"
    return Row("KID", found.mean, better="lower", counted=counted, note=note, group="extra")


def _sync(real: Gathered, generated: Gathered, judged: bool) -> list[Row]:
    if not judged:
        absent = _absent("SyncNet")
        return [
            Row("Sync-C", None, better="higher", note=absent),
            Row("Sync-D", None, better="lower", note=absent),
        ]
    note = _lacking("sync", real, generated)
    offset = "frames at 25 a second; above 0 the picture is late"
    return [
        _mean("Sync-C", "sync_c", "higher", real, generated, note),
        _mean("Sync-D", "sync_d", "lower", real, generated, note),
        _mean("sync offset", "offset", "", real, generated, offset, group="extra"),
    ]


def _identity(real: Gathered, generated: Gathered, meter: Meter | None) -> Row:
    published = isinstance(meter, Identity) and meter.published
    name = "identity" if published else "pixel identity"
    notes = [_lacking("identity", real, generated)]
    if not published:
        notes.insert(
            0,
            "no face embedder given: of thumbnails of the head, which no paper's figure is of",
        )
    row = _mean(name, "identity", "higher", real, generated, "; ".join(n for n in notes if n))
    return row


def _absent(network: str) -> str:
    return f"no {network} weights given; python -m memo_jax.doctor says where to get them"


def _emotion(real: Gathered, generated: Gathered, judged: bool) -> Row:
    if not judged:
        return Row("emotion accuracy", None, better="higher", note=NO_EMOTION)
    note = "; ".join(n for n in (EMOTION, _lacking("emotion", real, generated)) if n)
    if not generated.count("emotion") and not real.count("emotion"):
        note = f"{NO_EMOTIONS}, or none of a video with a face"
    return _mean("emotion accuracy", "emotion", "higher", real, generated, note)


def _lacking(key: str, real: Gathered, generated: Gathered) -> str:
    sides = (("generated", generated), ("real", real))
    return "; ".join(f"{side}: {one.lacking(key)}" for side, one in sides if one.lacking(key))


def _mean(
    name: str,
    key: str,
    better: Better,
    real: Gathered,
    generated: Gathered,
    note: str,
    group: Group = "paper",
) -> Row:
    counted = f"{generated.count(key):,} and {real.count(key):,} videos"
    return Row(name, generated.mean(key), real.mean(key), better, counted, note, group)
