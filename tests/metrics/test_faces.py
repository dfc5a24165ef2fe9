"""Identity by a face embedder, expression by a 3DMM regressor: ONNX models that compute what is
known; chunks and the boxes in them; curves by second."""

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.io.boxes import Face
from memo_jax.io.crop import HEAD_MARGIN, crop_around
from memo_jax.io.face import ArcFace
from memo_jax.io.face_onnx import ALIGNED_LANDMARKS
from memo_jax.metrics.compare import _meters
from memo_jax.metrics.emotion import Emotion, OnnxEmotions
from memo_jax.metrics.expression import Expression, Regressor
from memo_jax.metrics.gather import Seconds
from memo_jax.metrics.identity import Identity, cosines, drift
from memo_jax.metrics.quality import NAMES, Quality, by_second
from memo_jax.metrics.videos import Chunk, list_videos, portrait_face

onnx = pytest.importorskip("onnx", reason="models are made with it")
pytest.importorskip("onnxruntime")


def save(path, side, width, weights):
    """A model: means of a 4 x 4 grid of colours times `weights` [48, width]."""
    make = onnx.helper.make_node
    grid = side // 4
    nodes = [
        make("AveragePool", ["x"], ["means"], kernel_shape=[grid, grid], strides=[grid, grid]),
        make("Flatten", ["means"], ["flat"]),
        make("MatMul", ["flat", "weights"], ["y"]),
    ]
    info = onnx.helper.make_tensor_value_info
    float_ = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [info("x", float_, [1, 3, side, side])],
        [info("y", float_, [1, width])],
        [onnx.numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def chunk(frames, finder, first=0, fps=25.0, before=None):
    return Chunk(frames, first, fps, finder, before)


class Planted:
    """Finds a face where it was put, by the picture's first pixel; none where it is 0."""

    def __init__(self, landmarks=True):
        self.landmarks = landmarks

    def find(self, image):
        at = float(image[0, 0, 0])
        marks = (ALIGNED_LANDMARKS + at).astype(np.float32) if self.landmarks else None
        return [Face((at, at, 40.0, 50.0), 1.0, marks)] if at else []


def pictures(places, side=160, seed=0):
    """Noise that moves with the face planted at each place."""
    rng = np.random.default_rng(seed)
    patch = rng.integers(0, 256, (112, 112, 3), np.uint8)
    frames = np.zeros((len(places), side, side, 3), np.uint8)
    for frame, at in zip(frames, places, strict=True):
        if at:
            frame[at : at + 112, at : at + 112] = patch[: side - at, : side - at]
        frame[0, 0, 0] = at
    return frames


def read(meter, *chunks):
    reading = meter.start(None, 25.0)
    for one in chunks:
        reading.add(one)
    return reading.finish()


def test_identity_by_an_embedder(tmp_path):
    """Faces are looked at every fifth of a second; their place in the picture does not matter."""
    rng = np.random.default_rng(1)
    embedder = ArcFace(save(tmp_path / "arc.onnx", 112, 512, rng.normal(size=(48, 512))))
    meter = Identity(embedder, "weights")
    frames = pictures([5] * 10 + [0] * 5 + [20] * 10)
    found = read(meter, chunk(frames[:16], Planted()), chunk(frames[16:], Planted(), 16))
    assert found["seconds"] == pytest.approx([0, 0.2, 0.6, 0.8])
    assert np.linalg.norm(found["embeddings"], axis=1) == pytest.approx(np.ones(4))
    values = cosines(found["embeddings"], found["embeddings"][0])
    assert values == pytest.approx(np.ones(4), abs=1e-3)
    other = read(meter, chunk(pictures([5], seed=9), Planted()))
    assert cosines(other["embeddings"], found["embeddings"][0])[0] < 0.9
    none = read(meter, chunk(frames, Planted(landmarks=False)))
    assert len(none["embeddings"]) == 0


def test_embeddings_of_another_network():
    with pytest.raises(UserError, match="of 4 numbers against a reference of 5"):
        cosines(np.zeros((2, 4)), np.ones(5))


def test_drift_is_means_of_seconds():
    found = drift(np.array([1.0, 3, 5, 9]), np.array([0.0, 0.99, 1.0, 3.2]))
    assert found == pytest.approx([2, 5, np.nan, 9], nan_ok=True)
    assert len(drift(np.zeros(0), np.zeros(0))) == 0


def test_expression_by_a_regressor(tmp_path):
    """The coefficients are the columns asked for, of the square around the face."""
    weights = np.random.default_rng(2).normal(size=(48, 257))
    path = save(tmp_path / "three.onnx", 64, 257, weights)
    meter = Expression(Regressor(path), "w")
    frames = pictures([9] * 7 + [0] * 4 + [30])
    found = read(meter, chunk(frames, Planted()))["coefficients"]
    assert found.shape == (2, 64) and meter.width == 64
    whole = Expression(Regressor(path, slice(0, 257)), "w")
    every = read(whole, chunk(frames, Planted()))["coefficients"]
    assert np.array_equal(every[:, 80:144], found) and whole.key != meter.key
    none = read(meter, chunk(frames[7:11], Planted(), 7))["coefficients"]
    assert none.shape == (0, 64)


@pytest.mark.parametrize(
    ("width", "columns", "told"),
    [
        (100, None, "gives 100 numbers, expected 257; say which"),
        (257, slice(300, 310), "are 0; expected two"),
        (257, slice(3, 4), "are 1; expected two"),
    ],
)
def test_regressors_of_other_sizes(tmp_path, width, columns, told):
    path = save(tmp_path / "three.onnx", 32, width, np.zeros((48, width)))
    with pytest.raises(UserError, match=told):
        Regressor(path, columns)


def test_an_emotion_by_a_classifier(tmp_path):
    """Its largest output for the face alone: red faces are class 0, blue ones class 2."""
    weights = np.zeros((48, 3))
    weights[:16, 0] = weights[32:, 2] = 1
    judge = OnnxEmotions(save(tmp_path / "emotions.onnx", 64, 3, weights), ("angry", "calm", "sad"))
    frames = np.full((32, 96, 96, 3), 90, np.uint8)
    frames[:16, :, :, 0], frames[16:, :, :, 2] = 200, 200
    frames[:, 0, 0] = 20  # where the face is
    frames[10, 0, 0] = 0  # no face in this one
    reading = Emotion(judge).start(None, 25.0)
    reading.add(chunk(frames, Planted()))
    assert reading.finish()["labels"].tolist() == [0, 0, 0, 2, 2, 2]
    assert Emotion(judge).start(None, 25.0).finish()["labels"].shape == (0,)
    for classes in (("angry", "sad"), ("angry", "angry", "angry"), ()):
        with pytest.raises(UserError, match=r"gives 3 numbers, and the classes are|each once"):
            OnnxEmotions(tmp_path / "emotions.onnx", classes)


def test_a_regressor_that_is_none(tmp_path):
    path = tmp_path / "three.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match="not an ONNX model"):
        Regressor(path)
    grey = save(tmp_path / "four.onnx", 8, 257, np.zeros((48, 257)))
    model = onnx.load(str(grey))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(model, str(grey))
    with pytest.raises(UserError, match=r"does not take a picture \[1, 3, 8, 8\]|not an ONNX"):
        Regressor(grey)


def test_meters_with_all_face_models(tmp_path):
    from memo_jax.metrics.compare import Settings

    path = save(tmp_path / "three.onnx", 32, 257, np.zeros((48, 257)))
    arc = save(tmp_path / "arc.onnx", 112, 512, np.zeros((48, 512)))
    weights = {"regressor": path, "face_embedder": arc, "face_detector": arc}
    names = [meter.name for meter in _meters(weights, Settings())]
    assert names == ["quality", "mouth", "identity", "expression"]
    with pytest.raises(UserError, match="search faces"):
        _meters(weights, Settings(faces="portrait"))


def test_boxes_between_sampled_frames():
    """A straight line from find to find, across chunks; where nothing was found yet, nothing."""
    places = [0] * 5 + [10] * 5 + [20] * 6
    frames = pictures(places)
    first = chunk(frames[:4], Planted())
    assert first.boxes is None
    second = chunk(frames[4:12], Planted(), 4)
    # Found at frames 5 and 10, at 10 and 20, with boxes of 40 x 50.
    assert second.boxes[:, 0] == pytest.approx([30, 30, 32, 34, 36, 38, 40, 40])
    assert second.boxes[:, 2] == pytest.approx(np.full(8, 50))
    third = chunk(frames[12:], Planted(), 12, before=second.boxes[-1])
    assert third.boxes[:, 0] == pytest.approx([40] * 4)
    lost = chunk(np.zeros_like(frames[:3]), Planted(), 15, before=second.boxes[-1])
    assert lost.boxes[:, 0] == pytest.approx([40] * 3) and not lost.faces


def test_the_face_of_a_portrait_is_where_crops_have_it():
    """The square around a face in a large picture, then the face in that square."""
    face = Face((400.0, 300.0, 200.0, 200.0), 1.0)
    square = crop_around(face, (1000, 1000))
    found = portrait_face((square.height, square.width, 3))
    assert found.box[2] == pytest.approx(square.width / HEAD_MARGIN)
    assert found.box[0] + square.x == pytest.approx(400, abs=1)
    assert found.box[1] + square.y == pytest.approx(300, abs=1)


def test_seconds_of_frames():
    values = np.arange(60.0)[:, None] * [1, 10]
    assert by_second(values, 25.0) == pytest.approx(np.array([[12, 120], [37, 370]]))
    assert by_second(values[:10], 25.0) == pytest.approx(np.array([[4.5, 45]]))
    assert len(by_second(np.ones((90, 1)), 30000 / 1001)) == 3


def test_quality_of_a_frame_or_two():
    """Values that need a frame before or after are 0 where there is none."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    for n in (1, 2):
        found = read(Quality(), chunk(frames[:n], None))["frames"]
        assert found.shape == (n, len(NAMES)) and np.isfinite(found).all()
        assert found[0, 0] > 0 and found[0, 2:].tolist() == [0, 0, 0]


def test_curves_of_videos_of_several_lengths():
    curve = Seconds()
    assert curve.means() == []
    curve.add(np.array([1.0, 2.0, 3.0]))
    curve.add(np.array([3.0]))
    curve.add(np.array([np.nan, 4.0, np.nan, np.nan, 9.0]))
    assert curve.means() == [2, 3, 3]  # nothing is known of the fourth second


def test_which_files_are_videos(tmp_path):
    for name in ("b.MP4", "a.webm", "c.txt", ".d.mp4", "sub/e.mkv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in list_videos(tmp_path, "--real")]
    assert found == ["a.webm", "b.MP4", "sub/e.mkv"]
