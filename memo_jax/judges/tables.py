"""Rule tables of the judges, names as their authors published them."""

from memo_jax.weights.rules import Rule, conv2d, conv2d_1x1, linear, norm, under

# Where the convolutions of either SyncNet stream stand in PyTorch's list, each before its norm.
SYNCNET_CONVS = (0, 4, 8, 11, 14, 18)
TRANSNET_DILATIONS = (1, 2, 4, 8)


def _fixed_norm(torch: str, jax: str) -> tuple[Rule, ...]:
    """A batch norm with its statistics."""
    return (
        *norm(torch, jax),
        Rule(f"{torch}.running_mean", f"{jax}/mean"),
        Rule(f"{torch}.running_var", f"{jax}/variance"),
    )


def _bare_conv(torch: str, jax: str) -> Rule:
    """A 2-d convolution without bias."""
    return Rule(f"{torch}.weight", f"{jax}/kernel", "o i h w -> h w i o")


def _transnet() -> tuple[Rule, ...]:
    block = tuple(
        rule
        for i, dilation in enumerate(TRANSNET_DILATIONS)
        for rule in (
            Rule(
                f"Conv3D_{dilation}.layers.0.weight",
                f"branches/{i}/spatial/kernel",
                "o i 1 h w -> h w i o",
            ),
            Rule(
                f"Conv3D_{dilation}.layers.1.weight",
                f"branches/{i}/temporal/kernel",
                "o i t 1 1 -> t 1 i o",
            ),
        )
    )
    return (
        *under(
            "SDDCNN.{i}.DDCNN.{j}", "stacks/{i}/blocks/{j}", (*block, *_fixed_norm("bn", "norm"))
        ),
        *linear("frame_sim_layer.projection", "frame_similarity/projection"),
        *linear("frame_sim_layer.fc", "frame_similarity/out"),
        *linear("color_hist_layer.fc", "colour_similarity/out"),
        *linear("fc1", "hidden"),
        *linear("cls_layer1", "single"),
        *linear("cls_layer2", "many"),
    )


def _syncnet() -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for ours, cnn, fc, axes in (
        ("sound", "netcnnaud", "netfcaud", "o i h w -> h w i o"),
        ("lips", "netcnnlip", "netfclip", "o i 1 h w -> h w i o"),
    ):
        for i, place in enumerate(SYNCNET_CONVS):
            path = f"{ours}/convs/{i}"
            whole = ours == "lips" and i == 0  # the one kernel that spans frames
            layout = "o i t h w -> h w t i o" if whole else axes
            rules += [
                Rule(f"{cnn}.{place}.weight", f"{path}/kernel", layout),
                Rule(f"{cnn}.{place}.bias", f"{path}/bias"),
                *_fixed_norm(f"{cnn}.{place + 1}", f"{ours}/norms/{i}"),
            ]
        rules += linear(f"{fc}.0", f"{ours}/head/hidden")
        rules += _fixed_norm(f"{fc}.1", f"{ours}/head/norm")
        rules += linear(f"{fc}.3", f"{ours}/head/out")
    return tuple(rules)


def _hyperiqa() -> tuple[Rule, ...]:
    bottleneck = tuple(
        rule
        for i in (1, 2, 3)
        for rule in (_bare_conv(f"conv{i}", f"conv{i}"), *_fixed_norm(f"bn{i}", f"norm{i}"))
    )
    shortcut = (
        _bare_conv("downsample.0", "shortcut"),
        *_fixed_norm("downsample.1", "shortcut_norm"),
    )
    backbone = [
        _bare_conv("conv1", "conv1"),
        *_fixed_norm("bn1", "norm1"),
        *(
            rule
            for level in range(4)
            for rule in under(
                f"layer{level + 1}.{{j}}", f"levels/{level}/{{j}}", (*bottleneck, *shortcut)
            )
        ),
    ]
    for i in range(4):
        if i < 3:
            backbone.append(_bare_conv(f"lda{i + 1}_pool.0", f"local/{i}/reduce"))
        backbone += linear(f"lda{i + 1}_fc", f"local/{i}/out")
    hyper = [rule for i in range(3) for rule in conv2d_1x1(f"conv1.{2 * i}", f"reduce/{i}")]
    for i in range(4):
        hyper += conv2d(f"fc{i + 1}w_conv", f"kernels/{i}")
        hyper += linear(f"fc{i + 1}b_fc", f"biases/{i}")
    hyper += linear("fc5w_fc", "last_kernel")
    hyper += linear("fc5b_fc", "last_bias")
    return (*under("res", "backbone", backbone), *hyper)


TRANSNET = _transnet()
SYNCNET = _syncnet()
HYPERIQA = _hyperiqa()
