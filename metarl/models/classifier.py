"""Few-shot image classifiers: adapt to labeled images, predict classes, save and export."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import nn

from metarl.data import ImageFormat, find_examples, find_images, ignored_files, image_list
from metarl.models import labels as of_labels
from metarl.models.labels import Label
from metarl.models.learner import Learner, Origin, copied, save
from metarl.util import Table


BLOCK = 256  # images classified at a time, which bounds memory


@dataclass(frozen=True, eq=False)
class AdaptedClassifier:
    """An image classifier that has adapted to a support set.

    Prediction is not transductive: batch-norm layers use the statistics of the
    support images, so that the class of an image does not depend on the other
    images in a call.

    Attributes:
        network: The adapted network. Inputs are floats in [0, 1] of shape (n,
            channels, size, size); outputs are logits of shape (n, ways).
        classes: Sorted labels of the support set, in the order of the network's outputs.
        images: Image format of the network, which also converts other images.
        origin: Experiment and configuration of the run.
        mode: Batch-norm mode, as `bn_mode` of ``metarl evaluate``. The mode is
            always ``"support"``: batch norm uses the statistics of the support
            images.
    """

    network: nn.Module
    classes: tuple[Label, ...]
    images: ImageFormat
    origin: Origin
    mode: ClassVar[str] = "support"

    def __repr__(self) -> str:
        """Return one line, because the network would fill pages."""
        return f"<AdaptedClassifier {self.origin.experiment}, {len(self.classes)} classes>"

    def predict_proba(self, images: Any) -> Float[NDArray[np.float32], "n ways"]:
        """Return the probability of every class for every image.

        Args:
            images: Images in any form that :meth:`MetaClassifier.adapt`
                accepts, except a folder. A single path or Pillow image is
                treated as a list with one image.

        Returns:
            Probabilities of shape (n, ways), in the order of :attr:`classes`.

        Raises:
            ValueError: If an image is invalid.
        """
        device, items = next(self.network.parameters()).device, image_list(images)
        blocks = [items[first : first + BLOCK] for first in range(0, len(items), BLOCK)]
        with torch.no_grad():
            logits = [
                self.network(self.images.convert(block).to(device).float() / 255)
                for block in blocks
            ]
        return torch.cat(logits).softmax(-1).numpy(force=True)

    def predict(self, images: Any) -> NDArray[Any]:
        """Return the predicted label of every image, of shape (n,).

        Args:
            images: Images as in :meth:`predict_proba`.

        Raises:
            ValueError: If an image is invalid.
        """
        return of_labels.decode(self.classes, self.predict_proba(images))

    def table(self, folder: Path) -> Table:
        """Classify all image files in a folder and its subfolders.

        Args:
            folder: The folder. Files that are not images are ignored.

        Returns:
            A table with the columns ``file`` (relative to the folder),
            ``class`` and ``probability``.
        """
        files = find_images(folder)
        names = [path.relative_to(folder).as_posix() for path in files]
        found = of_labels.table("file", names, self.classes, self.predict_proba(files))
        other = ignored_files(folder)
        ignored = f", {other} other files ignored" if other else ""
        return found._replace(title=f"{found.title}, bn_mode={self.mode}{ignored}")

    def module(self) -> nn.Module:
        """Return a copy of the network as a plain module, for ``torch.export`` and ONNX.

        The input is a float tensor of shape (n, channels, size, size) with
        values in [0, 1], as ``classifier.images.convert(images) / 255``. The
        output is a tensor of logits of shape (n, ways). Weights are parameters;
        statistics of the support images are buffers.
        """
        return copied(self.network)

    def save(self, path: str | Path) -> None:
        """Write the adapted classifier to a file that :func:`metarl.load_adapted` reads.

        Args:
            path: The file to write; the parent folder is created.

        Raises:
            OSError: If the file cannot be written.
        """
        save(self.network, self.origin, path, classes=self.classes)


@dataclass(frozen=True)
class MetaClassifier:
    """A meta-trained image classifier, which adapts to a few labeled images per class.

    Attributes:
        learner: The trained network and its inner loop.
        images: Image format of the network, which also converts other images.
    """

    learner: Learner
    images: ImageFormat

    def adapt(
        self,
        images: Any,
        labels: Sequence[Label] | NDArray[Any] | None = None,
        *,
        steps: int | None = None,
        start: str | None = None,
        seed: int = 0,
    ) -> AdaptedClassifier:
        """Adapt to labeled images.

        Images of any size are converted to the number of channels and the size
        used in training. If the run was trained on Omniglot or glyphs, files
        and Pillow images must have dark ink on a light background. Arrays must
        then have light ink on a dark background, like the result of
        :func:`metarl.data.load_images`.

        Args:
            images: One of

                - a folder with one subfolder per class,
                - a sequence of file paths or Pillow images,
                - an array of shape (n, height, width), (n, height, width, channels) or
                  (n, channels, height, width), with integers from 0 to 255 or floats from 0 to 1.
            labels: One integer or string per image; None for a folder. Classes
                can have different numbers of images.
            steps: Number of inner steps. Default: the number of test-time steps of the run.
            start: Initial head, ``"prototypes"`` or ``"zero"``; both support
                any number of classes. Default: the head that the run uses at
                test time.
            seed: Random seed for the minibatches of the inner steps; only has
                an effect if the run was trained with `inner_batch`.

        Raises:
            OSError: If a folder or a file does not exist.
            ValueError: If images, labels or the number of classes are invalid.

        Example::

            classifier = metarl.load("runs/omniglot").adapt("support/")
            classifier.predict(["new.png"])  # an array with one class name
        """
        if isinstance(images, str | Path):
            if labels is not None:
                raise ValueError(
                    "`labels` must be None if `images` is a folder, because the names of the "
                    "subfolders are the labels. Remove `labels`"
                )
            images, labels = find_examples(images)
        pixels = self.images.convert(images)
        classes, targets = of_labels.encode(labels, len(pixels), self.learner.required_ways(start))
        network = self.learner.adapt(
            pixels.float() / 255, targets, steps=steps, start=start, seed=seed
        )
        return AdaptedClassifier(network, classes, self.images, self.learner.origin)
