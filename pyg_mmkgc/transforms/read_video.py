r"""Videos as a few still images."""
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any, List, Sequence, Tuple

from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.transforms.encode_image import import_pillow, read_image, to_rgb

#: The animated formats that are left to Pillow.
_ANIMATED = ('GIF', 'PNG', 'WEBP')


def read_frames(path: PathLike, num_frames: int) -> List[Any]:
    r"""What a video shows in the middle of each of :math:`n` equal parts of its time:
    frames at :math:`(i + \frac12)/n` of its length for :math:`i = 0, \dots, n-1`. A frame may
    come more than once.

    Args:
        path (str or os.PathLike): An animated GIF, WebP or PNG, a folder of images (in the order
            of their names, each shown for the same time; other files are left out), which need
            Pillow, or a video file, which needs PyAV.
        num_frames (int): The number of frames, :math:`n`.

    Returns:
        List[PIL.Image.Image]: :obj:`num_frames` images in RGB.

    Raises:
        ImportError: If Pillow, or PyAV for a video file, is not installed.
        ValueError: If the file is damaged or no video.
    """
    Image = import_pillow()
    path = Path(path)
    if path.is_dir():
        suffixes = Image.registered_extensions()
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
        if not files:
            raise ValueError(f"The folder '{path}' holds no image (expected the frames of a video)")
        return [read_image(files[i]) for i in _shown([1] * len(files), num_frames)]
    try:
        image = Image.open(path, formats=_ANIMATED)
    except OSError:
        return _read_av(path, num_frames)
    with image:
        try:
            return _read_animation(image, num_frames)
        except Exception as error:  # Damaged files make Pillow raise errors of ten kinds.
            raise ValueError(f"'{path}' is no animation that can be read ({error})") from error


def _shown(durations: Sequence[float], num_frames: int) -> List[int]:
    # The indices of the frames that are seen in the middle of each part.
    if sum(durations) <= 0:
        durations = [1] * len(durations)
    end = list(accumulate(durations))
    index = [bisect_right(end, (i + 0.5) / num_frames * end[-1]) for i in range(num_frames)]
    return [min(i, len(end) - 1) for i in index]


def _read_animation(image: Any, num_frames: int) -> List[Any]:
    durations = []
    for i in range(getattr(image, 'n_frames', 1)):
        image.seek(i)
        image.load()  # Only then WebP tells the duration.
        durations.append(image.info.get('duration', 0))
    out = []
    for i in _shown(durations, num_frames):
        image.seek(i)
        out.append(to_rgb(image))
    return out


def _read_av(path: Path, num_frames: int) -> List[Any]:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"'{path}' is no animated image; video files need the package 'av': "
                          'pip install "pyg-mmkgc[video]"') from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError('there are no pictures in it')
            return _decode(container, container.streams.video[0], num_frames, av.time_base)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"'{path}' is no video that can be read ({error})") from error


def _decode(container: Any, stream: Any, num_frames: int, time_base: int) -> List[Any]:
    start, length = _span(container, stream, time_base)
    out = []
    for i in range(num_frames):
        time = start + (i + 0.5) / num_frames * length
        # To the key frame before, and from there on to the frame that is shown at the time.
        container.seek(int(time * time_base))
        shown = None
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            if shown is not None and frame.time > time:
                break
            shown = frame
        if shown is None:
            raise ValueError(f'there is no frame at {time:.3f} s')
        out.append(shown.to_image())
    return out


def _span(container: Any, stream: Any, time_base: int) -> Tuple[float, float]:
    # Start and length in seconds. Where no header tells them, all frames are asked.
    if stream.duration is not None:
        start = (stream.start_time or 0) * stream.time_base
        return float(start), float(stream.duration * stream.time_base)
    if container.duration is not None:
        return (container.start_time or 0) / time_base, container.duration / time_base
    times = [frame.time for frame in container.decode(stream) if frame.time is not None]
    if not times:
        raise ValueError('its frames do not say when they are shown')
    return times[0], times[-1] - times[0]
