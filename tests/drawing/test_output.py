"""Output files are complete or unchanged: full disks, failing encoders and killed processes."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metarl.drawing.video import write_video
from metarl.runs import Run
from metarl.util import replacing
from tests.support.commands import metarl


FRAMES = [np.random.default_rng(n).integers(0, 256, (64, 64, 3), np.uint8) for n in range(30)]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="target cannot be written: no space"):
        fail()
    with (
        pytest.raises(OSError, match="target cannot be written: the file is empty"),
        replacing(target) as temporary,
    ):
        temporary.touch()
    with pytest.raises(OSError, match="target cannot be written: No such file"), replacing(target):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"target": "old"}


@pytest.mark.skipif(sys.platform == "win32", reason="requires RLIMIT_FSIZE")
@pytest.mark.parametrize("name", ["video.mp4", "video.gif", "curves.png", "curves.svg"])
def test_a_full_disk_is_an_error_and_keeps_the_old_picture(
    name: str, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / name
    out.write_text("old")
    code = f"""
import sys
from pathlib import Path
from metarl.drawing.curves import figure
from metarl.drawing.video import write_video
from metarl.runs import Run
from tests.drawing.test_output import FRAMES
out = Path({str(out)!r})
if out.stem == "video":
    write_video(iter(FRAMES), out, fps=10.0)
else:
    figure([Run.open(Path({str(whole)!r}))], out)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],  # a limited file size would damage bytecode files
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"OSError: {out} cannot be written: " in done.stderr
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(sys.platform == "win32", reason="requires SIGKILL")
@pytest.mark.parametrize("name", ["curves.png", "paths.png", "video.mp4", "video.gif"])
def test_a_killed_process_does_not_damage_the_old_picture(
    name: str, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / name
    out.write_text("old")
    code = f"""
import os
import signal
from pathlib import Path
import imageio.v2
import matplotlib.figure
import numpy as np
import PIL.Image
from metarl.drawing.curves import figure
from metarl.drawing.paths import Panel, paths_figure
from metarl.drawing.video import write_video
from metarl.runs import Run
from tests.drawing.test_output import FRAMES
out = Path({str(out)!r})
def killed(*arguments, **options):
    (path,) = (x for x in arguments if isinstance(x, Path))
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
imageio.v2.get_writer = matplotlib.figure.Figure.savefig = PIL.Image.Image.save = killed
if out.stem == "curves":
    figure([Run.open(Path({str(whole)!r}))], out)
elif out.stem == "paths":
    paths_figure([[Panel("goal", (1.0, 1.0), [np.zeros((2, 3, 2))], [0.0])]], out)
else:
    write_video(iter(FRAMES), out, fps=10.0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert out.read_text() == "old"


def test_a_failing_encoder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", lambda path: (29, 2.9))
    with pytest.raises(OSError, match=r"video.mp4 cannot be written: the encoder wrote 29 of 30"):
        write_video(iter(FRAMES), tmp_path / "video.mp4", fps=10.0)
    assert not list(tmp_path.iterdir())


def test_empty_pictures_are_not_shared(copied: Path, tmp_path: Path) -> None:
    (copied / "media").mkdir()
    (copied / "media/empty.png").touch()
    (copied / "media/paths.png").write_bytes(b"picture")
    metarl("push", copied, tmp_path / "shared")
    assert [path.name for path in (tmp_path / "shared/media").iterdir()] == ["paths.png"]
    assert Run.open(tmp_path / "shared")
