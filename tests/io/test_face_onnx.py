"""SCRFD and ArcFace wrappers, on small ONNX models of the published signatures."""

import sys

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.io.face import ArcFace, Face, OnnxFinder
from memo_jax.io.face_onnx import ALIGNED_LANDMARKS, similarity

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

STRIDES = (8, 16, 32)


def save(path, nodes, inputs, outputs, constants):
    infos = [
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in group
        ]
        for group in (inputs, outputs)
    ]
    tensors = [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = onnx.helper.make_graph(nodes, "net", *infos, tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def save_detector(path, planted):
    """An SCRFD that sees what is planted: (stride, row, column, anchor, score, sides, points).

    Scores are multiplied by the first input pixel's value above the black of padding, so that
    the wrong place or range of the input would show.
    """
    constants, shapes = {}, {}
    for level, stride in enumerate(STRIDES):
        n = 2 * (640 // stride) ** 2
        for kind, width in (("score", 1), ("bbox", 4), ("kps", 10)):
            constants[f"c_{kind}_{level}"] = np.zeros((n, width), np.float32)
            shapes[f"{kind}_{level}"] = (n, width)
    for stride, row, column, anchor, score, sides, points in planted:
        level = STRIDES.index(stride)
        index = (row * (640 // stride) + column) * 2 + anchor
        constants[f"c_score_{level}"][index] = score
        constants[f"c_bbox_{level}"][index] = sides
        constants[f"c_kps_{level}"][index] = np.ravel(points)
    constants |= {"starts": np.array([0, 0, 0, 0]), "ends": np.array([1, 1, 1, 1])}
    make = onnx.helper.make_node
    nodes = [
        make("Slice", ["input", "starts", "ends"], ["pixel"]),
        make("ReduceSum", ["pixel"], ["gain"], keepdims=0),
    ]
    order = [f"{kind}_{k}" for kind in ("score", "bbox", "kps") for k in range(3)]
    for name in order:
        nodes.append(
            make("Mul", [f"c_{name}", "gain"], [name])
            if "score" in name
            else make("Identity", [f"c_{name}"], [name])
        )
    return save(
        path,
        nodes,
        [("input", (1, 3, "h", "w"))],
        [(name, shapes[name]) for name in order],
        constants,
    )


POINTS = np.array([[-1, -1], [1, -1], [0, 0], [-1, 1], [1, 1]], np.float32)


def test_planted_faces_are_decoded(tmp_path):
    path = save_detector(
        tmp_path / "scrfd.onnx",
        [
            (16, 10, 20, 1, 0.9, (2, 3, 4, 5), POINTS),
            (16, 10, 21, 0, 0.8, (3, 3, 3, 5), POINTS),  # the same face once more
            (8, 5, 6, 0, 0.7, (1, 1, 1, 1), POINTS * 0.5),
            (32, 12, 15, 1, 0.3, (3, 3, 3, 3), POINTS),  # too weak
        ],
    )
    image = np.full((960, 1280, 3), 255, np.uint8)  # (255 - 127.5) / 128 is about 1
    faces = OnnxFinder(path).find(image)
    assert len(faces) == 2
    # centre (20, 10) * 16 = (320, 160) of the 640 input, which is half the picture
    assert faces[0].box == pytest.approx((576, 224, 192, 256))
    assert faces[0].score == pytest.approx(0.9, rel=0.01)
    np.testing.assert_allclose(faces[0].landmarks, (np.array([320, 160]) + POINTS * 16) * 2)
    assert faces[1].box == pytest.approx((80, 64, 32, 32))


def test_weak_faces_are_found_when_there_is_no_other(tmp_path):
    path = save_detector(tmp_path / "scrfd.onnx", [(32, 8, 9, 0, 0.3, (3, 3, 3, 3), POINTS)])
    faces = OnnxFinder(path).find(np.full((320, 320, 3), 255, np.uint8))
    assert [f.score for f in faces] == pytest.approx([0.3], rel=0.01)
    assert faces[0].box == pytest.approx((96, 80, 96, 96))
    nothing = save_detector(tmp_path / "none.onnx", [])
    assert OnnxFinder(nothing).find(np.full((50, 70, 3), 255, np.uint8)) == []


def save_embedder(path, width=512):
    rng = np.random.default_rng(0)
    constants = {
        "conv": rng.normal(size=(4, 3, 16, 16)).astype(np.float32),
        "gemm": rng.normal(size=(196, width)).astype(np.float32),
    }
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["input", "conv"], ["maps"], strides=[16, 16]),
        make("Flatten", ["maps"], ["flat"]),
        make("MatMul", ["flat", "gemm"], ["out"]),
    ]
    return save(
        path, nodes, [("input", (1, 3, 112, 112))], [("out", (1, width))], constants
    ), constants


def test_embedding_of_an_aligned_face(tmp_path):
    path, constants = save_embedder(tmp_path / "arcface.onnx")
    image = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    face = Face((0, 0, 112, 112), 1.0, ALIGNED_LANDMARKS.astype(np.float32))
    got = ArcFace(path).embed(image, face)
    pixels = ((image - 127.5) / 127.5).transpose(2, 0, 1).reshape(3, 7, 16, 7, 16)
    maps = np.einsum("crisj,ocij->ors", pixels, constants["conv"])
    want = maps.reshape(-1) @ constants["gemm"]
    assert got.dtype == np.float32 and got.shape == (512,)
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())
    assert np.linalg.norm(got) > 10, "not of unit length"


def test_embedding_follows_the_landmarks(tmp_path):
    path, _ = save_embedder(tmp_path / "arcface.onnx")
    rows, columns = np.mgrid[0:224, 0:224]
    smooth = np.stack([rows, columns, (rows + columns) / 2], -1).astype(np.uint8)
    small = Face((0, 0, 112, 112), 1.0, ALIGNED_LANDMARKS.astype(np.float32))
    moved = Face(
        (40, 30, 112, 112), 1.0, (ALIGNED_LANDMARKS + np.array([40, 30])).astype(np.float32)
    )
    canvas = np.zeros_like(smooth)
    canvas[30:142, 40:152] = smooth[:112, :112]
    arcface = ArcFace(path)
    a, b = arcface.embed(smooth[:112, :112].copy(), small), arcface.embed(canvas, moved)
    np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())


def test_similarity_is_recovered():
    rng = np.random.default_rng(2)
    source = rng.normal(size=(5, 2)) * 30
    angle, scale, shift = 0.4, 1.7, np.array([5.0, -3.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(
        similarity(source, source @ turn.T + shift), np.column_stack([turn, shift]), atol=1e-12
    )


def test_mistakes_are_told(tmp_path, monkeypatch):
    (tmp_path / "text.onnx").write_text("no model")
    embedder, _ = save_embedder(tmp_path / "arcface.onnx")
    narrow, _ = save_embedder(tmp_path / "narrow.onnx", 128)
    detector = save_detector(tmp_path / "scrfd.onnx", [])
    image = np.zeros((64, 64, 3), np.uint8)
    face = Face((0, 0, 64, 64), 1.0, ALIGNED_LANDMARKS.astype(np.float32))
    cases = [
        (lambda: OnnxFinder(tmp_path / "no.onnx"), "does not exist"),
        (lambda: OnnxFinder(tmp_path / "text.onnx"), "not an ONNX model"),
        (lambda: OnnxFinder(embedder), "has 1 outputs; expected an SCRFD"),
        (lambda: ArcFace(embedder).embed(image, Face((0, 0, 9, 9), 1.0)), "no landmarks"),
        (lambda: ArcFace(narrow).embed(image, face), "gives 128 numbers"),
        (lambda: ArcFace(detector).embed(image, face), "expected an ArcFace|does not take"),
    ]
    for call, text in cases:
        with pytest.raises(UserError, match=text) as told:
            call()
        assert "\n" not in str(told.value)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install memo_jax\[onnx\]"):
        OnnxFinder(detector)
