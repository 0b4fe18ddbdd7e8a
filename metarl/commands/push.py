"""Share a run, in a folder or on the Hugging Face hub: ``metarl push runs/quick hub:USER/NAME``."""

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

    What is written is a run folder again, without what belongs to this machine. Optimizer moments
    go with it, so that others can train on; of Stable-Baselines3 the tensors alone, without the
    pickles that would run code.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    to: Annotated[str, tyro.conf.Positional]
    """Where: hub:USER/NAME (or hub:USER/NAME@BRANCH) is a repository of the hub, all else a new
    folder."""
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
    """Write the folder, and upload it if that was asked for."""
    to = hub.place(args.to)
    if isinstance(to, Path):
        with new_folder(to) as folder:
            write(args, folder, to.name)
        print(
            f"written to the folder {to}; to the hub instead: metarl push {args.run} hub:USER/NAME"
        )
        return
    hub.require_token()  # before the work
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / args.run.resolve().name
        title = write(args, folder, str(to))
        page = hub.upload(folder, to, message=args.message or title, private=args.private)
    print(f"pushed to {page}; others take it with: metarl pull {to} --out RUN")


def write(args: Push, folder: Path, place: str) -> str:
    """Write the folder that is shared; return what it holds, in a line.

    Args:
        args: The settings.
        folder: Where; it does not exist.
        place: What others will call it.
    """
    run, experiment = opened(args.run)
    iteration = run.choose_checkpoint(args.checkpoint)
    copy(run, experiment.config, iteration, folder, experiment.copy)
    new, subject = Run(folder), experiment.describe()
    if newest_evaluation(new, iteration) is None:
        warn(
            f"the model card has no results of iteration {iteration}; `metarl evaluate {args.run} "
            f"--checkpoint {iteration}` makes some for the next push"
        )
    if args.picture and not any((folder / "media").iterdir()):
        draw(new, subject)
    text = card(new, iteration, subject, place=place, license=args.license)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return f"{subject.method} on {subject.what}, iteration {iteration}"


def draw(run: Run, subject: Subject) -> None:
    """Film the shared checkpoint, or else draw a picture; without one, it is shared all the same.

    A film is a .gif, which every page of Markdown shows. Without the packages for it, and for what
    is plotted, there is a picture only.
    """
    kinds = ("gif", "png") if subject.shows == "render" and _films() else ("png",)
    reasons: dict[str, str] = {}
    for kind in kinds:
        out = run.folder / "media" / f"adaptation.{kind}"
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # where is nobody's business
                cli.run([subject.shows, str(run.folder), "--out", str(out)])
            break
        except Exception as error:  # whatever an environment's own drawing may raise
            out.unlink(missing_ok=True)
            reasons[kind] = str(error)
    if "png" in reasons:
        warn(
            f"no picture ({reasons['png']}); make one with `metarl {subject.shows} RUN --out "
            "RUN/media/picture.png` and push again"
        )
    elif reasons:
        warn(f"a picture and no film ({reasons['gif']})")


def _films() -> bool:
    try:
        require_video()
    except ImportError:
        return False
    return True
