"""Grounding DINO by transformers, tiny and with random weights: its boxes, batches, thresholds."""

import sys

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.io.crop import Crop
from memo_jax.prepare import dino, heads
from memo_jax.prepare.dino import GroundingDino
from memo_jax.prepare.heads import HeadConfig

torch = pytest.importorskip("torch", reason="Grounding DINO runs in PyTorch")
transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "GroundingDinoForObjectDetection"):
    pytest.skip("this transformers has no Grounding DINO", allow_module_level=True)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "head", "face", "a"]
HEADS = {"finder": "dino", "prompt": "head."}


def tiny():
    """A network of the published kind with everything small."""
    swin = transformers.SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_indices=[2, 3, 4],
    )
    bert = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=32,
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=swin,
        text_config=bert,
        num_queries=12,
        d_model=32,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        encoder_n_points=2,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        decoder_n_points=2,
        max_text_len=16,
    )
    torch.manual_seed(3)
    network = transformers.GroundingDinoForObjectDetection(config)
    with torch.no_grad():  # as they start, all boxes are small and alike
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return tiny()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("dino")
    network.save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer.from_pretrained(path).save_pretrained(path)
    size = {"shortest_edge": 64, "longest_edge": 96}
    from transformers.models.grounding_dino import image_processing_pil_grounding_dino as images

    images.GroundingDinoImageProcessorPil(size=size).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (6, 60, 100, 3), np.uint8)
    return list(noise.repeat(5, axis=1).repeat(5, axis=2))


def published(network, folder, picture, threshold):
    """The boxes of one picture by the library's own processor, as corners."""
    from transformers import AutoImageProcessor, AutoTokenizer, GroundingDinoProcessor

    parts = (AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    processor = GroundingDinoProcessor(*parts)
    inputs = processor(images=picture, text="head.", return_tensors="pt")
    with torch.no_grad():
        out = network(**inputs)
    (found,) = processor.post_process_grounded_object_detection(
        out, inputs["input_ids"], threshold=threshold, target_sizes=[picture.shape[:2]]
    )
    return found["scores"].numpy(), found["boxes"].numpy()


def corners(face):
    x, y, w, h = face.box
    return x, y, x + w, y + h


def test_boxes_are_those_of_the_librarys_own_processor(network, folder, pictures, monkeypatch):
    monkeypatch.setattr(dino, "OVERLAP", 1.0)  # no box is another one's
    scores, _ = published(network, folder, pictures[0], 0.0)
    assert np.ptp(scores) > 1e-3
    threshold = float(np.median(scores))
    finder = GroundingDino(str(folder), HeadConfig(**HEADS, score=threshold))
    (found,) = finder(pictures[:1])
    scores, boxes = published(network, folder, pictures[0], threshold)
    boxes = np.clip(boxes, 0, [500, 300, 500, 300])
    wide = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= 1
    assert 1 <= wide.sum() < 12 and len(found) == wide.sum()
    order = np.argsort([face.score for face in found])
    got = np.array([corners(found[i]) for i in order])
    want = boxes[wide][np.argsort(scores[wide])]
    assert np.abs(got - want).max() < 1e-2  # of a pixel
    areas = [face.area for face in found]
    assert areas == sorted(areas, reverse=True)


def test_a_higher_threshold_keeps_fewer_and_one_box_is_left_of_many(network, folder, pictures):
    scores, _ = published(network, folder, pictures[0], 0.0)
    low, high = np.sort(scores)[[2, -3]] - 1e-6
    many, few = (
        GroundingDino(str(folder), HeadConfig(**HEADS, score=float(score)))(pictures[:1])[0]
        for score in (low, high)
    )
    assert {f.score for f in few} <= {f.score for f in many} and 1 <= len(few) <= 3
    for i, face in enumerate(many):
        for other in many[:i]:
            a, b = np.array(corners(face)), np.array(corners(other))
            sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
            common = np.prod(np.maximum(sides, 0))
            assert common <= dino.OVERLAP * (face.area + other.area - common) + 1e-6


def test_a_batch_is_its_pictures(folder, pictures):
    finder = GroundingDino(str(folder), HeadConfig(**HEADS, score=0.01))
    assert len(pictures) > dino.AT_ONCE
    together = finder(pictures)
    alone = [finder([picture])[0] for picture in pictures]
    for some, own in zip(together, alone, strict=True):
        assert len(some) == len(own) > 0
        assert np.allclose([f.box for f in some], [f.box for f in own], atol=1e-2)


def test_boxes_are_in_pixels_of_the_picture_without_bars(folder, pictures):
    finder = GroundingDino(str(folder), HeadConfig(**HEADS, score=0.01))
    (want,) = finder([pictures[0]])
    boxed = np.pad(pictures[0], ((20, 4), (8, 0), (0, 0)))
    ((*found,),) = heads.search([boxed], Crop(8, 20, 500, 300), finder)
    assert np.allclose([f.box for f in found], [f.box for f in want])
    double = np.repeat(np.repeat(pictures[0], 2, axis=0), 2, axis=1)
    finder.searched = 500
    ((*found,),) = heads.search([double], Crop(0, 0, 1000, 600), finder)
    assert np.allclose([f.box for f in found], 2 * np.array([f.box for f in want]), atol=1e-3)


def test_what_is_missing_is_one_line(network, folder, tmp_path, monkeypatch):
    def message(path):
        with pytest.raises(UserError) as error:
            GroundingDino(str(path), HeadConfig(**HEADS))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "has no config.json" in message(tmp_path)
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    assert "pickled weights are not read" in message(tmp_path)
    state = {k: v for k, v in network.state_dict().items() if "class" not in k}
    network.save_pretrained(tmp_path, state_dict=state)
    assert "cannot be read" in message(tmp_path)  # no tokenizer
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    gone = sorted(name for name in tensors if "enc_output" in name)
    kept = {name: tensor for name, tensor in tensors.items() if name not in gone}
    assert gone
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    assert f"lacks {gone[0]}" in message(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install memo_jax[prepare,convert]" in message(folder)
