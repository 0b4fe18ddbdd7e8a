"""``metarl push RUN TARGET``: export a run to a folder or upload it to the Hugging Face hub."""

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metarl.commands import cli
from metarl.commands.opened import opened
from metarl.drawing import require_video
from metarl.runs import Run, Subject, copy, hub, new_folder, newest_evaluation, unset
from metarl.runs.card import card
from metarl.util import warn


@dataclass(frozen=True)
class Push:
    """Share a run: one checkpoint, evaluations, metrics, pictures, and a model card as README.md.

    The result is a run folder without the paths of this machine. It includes the state of the
    optimizer, so that training can be resumed. Models of Stable-Baselines3 are shared as tensors,
    without pickles, which could run code.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    to: Annotated[str, tyro.conf.Positional]
    """Target: a repository hub:USER/NAME (or hub:USER/NAME@BRANCH), or a new folder."""
    checkpoint: Annotated[int | None, unset("the last")] = None
    """Iteration of the checkpoint."""
    license: Annotated[str | None, unset("none")] = None
    """License of the model, such as mit or apache-2.0."""
    private: bool = False
    """Make a new repository private."""
    picture: bool = True
    """Render a picture or video of the policy if the run has none."""
    message: Annotated[str | None, unset("run and iteration")] = None
    """Commit message."""


def main(args: Push) -> None:
    """Write the shared folder, and upload it if the target is a repository."""
    to = hub.place(args.to)
    if isinstance(to, Path):
        with new_folder(to) as folder:
            write(args, folder, to.name)
        print(
            f"written to the folder {to}; to the hub instead: metarl push {args.run} hub:USER/NAME"
        )
        return
    hub.require_token()  # fail before the work
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / args.run.resolve().name
        title = write(args, folder, str(to))
        page = hub.upload(folder, to, message=args.message or title, private=args.private)
    print(f"pushed to {page}; others take it with: metarl pull {to} --out RUN")


def write(args: Push, folder: Path, place: str) -> str:
    """Write the shared folder and return a one-line summary of its contents.

    Args:
        args: The settings.
        folder: The folder to create.
        place: Name of the shared run in the model card.
    """
    run, experiment = opened(args.run)
    iteration = run.choose_checkpoint(args.checkpoint)
    copy(run, experiment.config, iteration, folder, experiment.copy)
    new, subject = Run(folder), experiment.describe()
    if newest_evaluation(new, iteration) is None:
        warn(
            f"the model card has no results for iteration {iteration}; run `metarl evaluate "
            f"{args.run} --checkpoint {iteration}` and push again"
        )
    if args.picture and not any((folder / "media").iterdir()):
        draw(new, subject)
    text = card(new, iteration, subject, place=place, license=args.license)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return f"{subject.method} on {subject.what}, iteration {iteration}"


def draw(run: Run, subject: Subject) -> None:
    """Render a video of the shared checkpoint, or an image if that fails.

    The video is a .gif, which Markdown pages display. Without the video packages, or for runs that
    are plotted, only an image is drawn. The run is shared even if both fail.
    """
    kinds = ("gif", "png") if subject.shows == "render" and _films() else ("png",)
    reasons: dict[str, str] = {}
    for kind in kinds:
        out = run.folder / "media" / f"adaptation.{kind}"
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it names a temporary file
                cli.run([subject.shows, str(run.folder), "--out", str(out)])
            break
        except Exception as error:  # rendering code of user environments can raise anything
            out.unlink(missing_ok=True)
            reasons[kind] = str(error)
    if "png" in reasons:
        warn(
            f"shared without a picture ({reasons['png']}); run `metarl {subject.shows} RUN --out "
            "RUN/media/picture.png` and push again"
        )
    elif reasons:
        warn(f"shared an image instead of a video ({reasons['gif']})")


def _films() -> bool:
    try:
        require_video()
    except ImportError:
        return False
    return True
