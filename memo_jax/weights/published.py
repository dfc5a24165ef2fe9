"""The layout in which MEMO is published: PyTorch components, each a config and safetensors.

diffusion_net/ reference_net/ image_proj/ audio_proj/     config.json + *.safetensors
misc/audio_emotion_classifier/                            the same
misc/face_analysis/models/*.onnx  misc/vocal_separator/*.onnx
vae/ wav2vec2/ emotion2vec/       put here from their own releases
"""

# Where each component may lie; the first is where an exported one does, and what messages say.
PLACES = {
    "vae": ("vae", "sd-vae-ft-mse"),
    "reference_net": ("reference_net",),
    "diffusion_net": ("diffusion_net",),
    "image_proj": ("image_proj",),
    "audio_proj": ("audio_proj",),
    "wav2vec2": ("wav2vec2", "wav2vec2-base-960h"),
    "emotion_classifier": ("misc/audio_emotion_classifier", "audio_emotion_classifier"),
    "emotion2vec": ("emotion2vec", "emotion2vec_plus_large", "misc/emotion2vec_plus_large"),
    "unet": ("unet",),
    "motion_adapter": ("motion_adapter",),
}
