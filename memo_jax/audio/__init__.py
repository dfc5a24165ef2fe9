"""From a waveform to what the Diffusion Net hears: speech features, emotion labels, vocals."""
