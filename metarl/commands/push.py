"""``metarl push RUN TARGET``: export a run to a folder or upload it to the Hugging Face hub."""

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metarl.commands import cli
from metarl.commands.opened import Opened, opened, require_trusted
from metarl.drawing import require_video
from metarl.runs import Run, Subject, copy, hub, new_folder, newest_evaluation, unset
from metarl.runs.card import card
from metarl.util import say, warn


@dataclass(frozen=True)
class Push:
    """Share a run: one checkpoint, evaluations, metrics, figures, videos and a model card.

    The exported folder is a complete run folder, with the model card as
    README.md. It includes the optimizer state, so that training can be resumed,
    but not the values of --data-root and --track. Stable-Baselines3 models are
    shared as tensors, without pickled objects, because loading a pickle can run
    code.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run to share, such as runs/quick."""
    to: Annotated[str, tyro.conf.Positional]
    """Target: a Hugging Face repository hub:USER/NAME or hub:USER/NAME@BRANCH, or a new folder."""
    checkpoint: Annotated[int | None, unset("the last")] = None
    """Iteration of the checkpoint to share."""
    license: Annotated[str | None, unset("none")] = None
    """License identifier for the model card, such as mit or apache-2.0."""
    private: bool = False
    """Create a private instead of a public repository; an existing repository is not changed."""
    picture: bool = True
    """Render an image or a video for the model card if the run contains none. Disable this to push
    a run without its environment."""
    trust_env: bool = False
    """Import the module in the environment ID of a pulled run to draw an image
    or a video; set this flag only if you trust the module."""
    message: Annotated[str | None, unset("method, data and iteration")] = None
    """Commit message for the upload."""


def main(args: Push) -> None:
    """Export the run to a folder, and upload the folder if the target is a repository."""
    to = hub.place(args.to)
    if isinstance(to, Path):
        with new_folder(to) as folder:
            write(args, folder, args.to)
        say(f"written to the folder {to}; to upload it, use: metarl push {args.run} hub:USER/NAME")
        return
    hub.require_token()  # fail before the work
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / args.run.resolve().name
        title = write(args, folder, str(to))
        page = hub.upload(folder, to, message=args.message or title, private=args.private)
    say(f"pushed to {page}; others can download it with: metarl pull {to} --out RUN")


def write(args: Push, folder: Path, place: str) -> str:
    """Export a run to a folder, and return a one-line summary of the exported run.

    Args:
        args: Options of the command.
        folder: The folder to create.
        place: Address of the shared run in the model card, such as ``hub:USER/NAME``.
    """
    run, experiment = named = opened(args.run)
    picture = args.picture and not any((run.folder / "media").glob("[!.]*"))
    if picture and (reason := _untrusted(named, trust_env=args.trust_env)):
        warn(f"shared without an image ({reason})")
        picture = False
    chosen, origin = args.checkpoint, _origin(run)
    iteration = copy(run, experiment.config, chosen, folder, experiment.copy, **origin)
    new, subject = Run(folder), experiment.describe()
    if newest_evaluation(new, iteration) is None:
        warn(
            f"the model card has no results for iteration {iteration}; run `metarl evaluate "
            f"{args.run} --checkpoint {iteration}` and push again"
        )
    if picture and not any((folder / "media").iterdir()):
        with contextlib.suppress(Exception):  # the environment is optional; `draw` warns
            experiment.add_entries(new)
        draw(new, subject, trust_env=True)  # checked above
    text = card(new, iteration, subject, place=place, license=args.license)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return f"{subject.method} on {subject.what}, iteration {iteration}"


def _untrusted(named: Opened, *, trust_env: bool) -> str:
    """Return the reason not to create the environment of a pulled run, or an empty string.

    Args:
        named: The run and its experiment.
        trust_env: Whether to accept any module.
    """
    try:
        require_trusted(named, trust_env=trust_env)
    except ValueError as error:
        return str(error).replace("set trust_env", "set --trust-env")
    return ""


def _origin(run: Run) -> dict[str, str]:
    """Return the entry of a pulled run's origin, without local paths."""
    origin = str(run.read_config().get("pulled_from", ""))
    return {"pulled_from": origin if origin.startswith("hub:") else "a folder"} if origin else {}


def draw(run: Run, subject: Subject, *, trust_env: bool = False) -> None:
    """Draw a video or an image of the exported checkpoint, and save the file in media/.

    Policies are drawn as a .gif video, which Markdown pages display, or as an
    image if the video fails or the video packages are not installed. Other
    runs are drawn as an image. If no image can be drawn, a warning is printed
    and the run is shared without an image.

    Args:
        run: The exported copy of the run.
        subject: Description of the run, with the command that draws the run.
        trust_env: Whether to import the module of the environment even if the run was pulled.
    """
    kinds = ("gif", "png") if subject.shows == "render" and _can_write_video() else ("png",)
    trusted = ["--trust-env"] if trust_env and subject.shows == "render" else []
    reasons: dict[str, str] = {}
    for kind in kinds:
        out = run.folder / "media" / f"adaptation.{kind}"
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it names a temporary file
                cli.run([subject.shows, str(run.folder), "--out", str(out), *trusted])
            break
        except Exception as error:  # rendering code of user environments can raise anything
            out.unlink(missing_ok=True)
            reasons[kind] = str(error)
    if "png" in reasons:
        warn(
            f"shared without an image ({reasons['png']}); run `metarl {subject.shows} RUN --out "
            "RUN/media/adaptation.png` and push again"
        )
    elif reasons:
        warn(f"shared an image instead of a video ({reasons['gif']})")


def _can_write_video() -> bool:
    try:
        require_video()
    except ImportError:
        return False
    return True
