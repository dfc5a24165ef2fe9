"""image_proj, audio_proj and audio_emotion_classifier of the published release."""

from memo_jax.config import EmotionClassifierConfig
from memo_jax.weights.rules import Rule, linear, norm

IMAGE_PROJ = (*linear("proj"), *norm("norm"))

AUDIO_PROJ = (*linear("proj1"), *linear("proj2"), *linear("proj3"), *norm("norm"))


def emotion_classifier_rules(config: EmotionClassifierConfig) -> tuple[Rule, ...]:
    """Every tensor of audio_emotion_classifier; its layers count from one."""
    return tuple(
        rule for i in range(config.layers) for rule in linear(f"layers.fc{i + 1}", f"layers/{i}")
    )
