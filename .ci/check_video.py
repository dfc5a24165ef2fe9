"""Is VIDEO what a browser plays, with the sound of AUDIO at its length?"""

import sys

import av


def seconds_of_sound(path: str) -> float:
    """Length of the first sound stream as decoded, in s."""
    with av.open(path) as media:
        return sum(frame.samples / frame.sample_rate for frame in media.decode(audio=0))


def main(video: str, audio: str) -> None:
    """Exits with a message unless everything holds."""
    with av.open(video) as media:
        stream = media.streams.video[0]
        codec, layout, rate = (
            stream.codec_context.name,
            stream.codec_context.pix_fmt,
            stream.average_rate,
        )
        assert rate, "no frame rate"
        frames = [frame.to_ndarray(format="gray") for frame in media.decode(stream)]
    length, wanted = len(frames) / float(rate), seconds_of_sound(audio)
    sound = seconds_of_sound(video)  # AAC may add up to one block of 1024 samples at each end
    print(f"{video}: {len(frames)} frames, {length:.3f} s {codec} {layout}, sound {sound:.3f} s")
    if (codec, layout) != ("h264", "yuv420p"):
        sys.exit("expected h264 yuv420p")
    if not abs(length - wanted) < 1 / float(rate):
        sys.exit(
            f"the video is {length:.3f} s, the recording {wanted:.3f} s: a frame or more apart"
        )
    if abs(sound - wanted) > 0.15:
        sys.exit(f"the sound is {sound:.3f} s, the recording {wanted:.3f} s")
    if max(float(frame.std()) for frame in frames) < 1:
        sys.exit("every frame is one flat colour")


if __name__ == "__main__":
    main(*sys.argv[1:])
