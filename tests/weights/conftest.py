"""The recorded configurations of every component."""

import pytest

# Component -> (case, key of its configuration, prefix of its weights).
RECORDED = {
    "vae": ("h_vae", "kwargs", ""),
    "reference_net": ("d_reference_net", "kwargs", ""),
    "diffusion_net": ("e_diffusion_net", "kwargs", ""),
    "image_proj": ("f_projections", "image_proj", "image_proj"),
    "audio_proj": ("f_projections", "audio_proj", "audio_proj"),
    "emotion_classifier": ("f_projections", "emotion_classifier", "emotion_classifier"),
    "wav2vec2": ("g_wav2vec", "wav2vec2_config", ""),
    "emotion2vec": ("m_emotion2vec", "model_conf", ""),
}


@pytest.fixture(scope="session")
def recorded(golden):
    """`recorded(component)`: the PyTorch config and weights of a recorded case."""

    def recorded(name):
        case, key, prefix = RECORDED[name]
        case = golden(case)
        return case.config[key], case.w(prefix)

    return recorded
