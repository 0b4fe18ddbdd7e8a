"""Few-shot regression models, which adapt to a few points of a function and predict values."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl.models.learner import Learner, Origin, copied, save
from metarl.util import Table


@dataclass(frozen=True, eq=False)
class AdaptedRegressor:
    """A regression network that has adapted to the points of a function.

    Attributes:
        network: The adapted network, with inputs of shape (n, 1) and outputs of shape (n, 1).
        origin: Experiment and configuration of the run.
    """

    network: nn.Module
    origin: Origin

    def __repr__(self) -> str:
        """Return one line, because the network would fill pages."""
        return f"<AdaptedRegressor {self.origin.experiment}>"

    def predict(self, x: Any) -> Float[NDArray[np.float32], " n"]:
        """Return the predicted function values at the points `x`, as an array of shape (n,).

        Args:
            x: Points, an array of shape (n,) or (n, 1).

        Raises:
            ValueError: If `x` has an unsupported shape or contains NaN or infinity.
        """
        device = next(self.network.parameters()).device
        with torch.no_grad():
            predicted: Tensor = self.network(_column("x", x).to(device))
        return predicted[:, 0].numpy(force=True)

    def table(self, file: Path) -> Table:
        """Predict the function values at the points in a CSV file.

        Args:
            file: CSV file with a header and the column ``x``.

        Returns:
            A table with the columns ``x`` and ``y``, where ``y`` contains the predicted values.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the file is invalid.
        """
        (x,) = read_columns(file, ("x",))
        rows = [[a, f"{b:.6g}"] for a, b in zip(x, self.predict(x), strict=True)]
        return Table(f"{len(rows)} predictions", ["x", "y"], rows)

    def module(self) -> nn.Module:
        """Return a copy of the network as a plain module, for ``torch.export`` and ONNX.

        The input and the output are float tensors of shape (n, 1).
        """
        return copied(self.network)

    def save(self, path: str | Path) -> None:
        """Write the adapted network to a file that :func:`metarl.load_adapted` reads.

        Args:
            path: The file to write; the parent folder is created.

        Raises:
            OSError: If the file cannot be written.
        """
        save(self.network, self.origin, path)


@dataclass(frozen=True)
class MetaRegressor:
    """A meta-trained regression network, which adapts to a few points of a function.

    Attributes:
        learner: The trained network and its inner loop.
    """

    learner: Learner

    def adapt(self, x: Any, y: Any = None, *, steps: int | None = None) -> AdaptedRegressor:
        """Adapt to the points of a function.

        Args:
            x: Array of shape (n,) or (n, 1), or the path of a CSV file with the
                columns ``x`` and ``y``.
            y: Array of shape (n,) or (n, 1); None for a file.
            steps: Number of inner steps. Default: the number of test-time steps of the run.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If arrays have different lengths or unsupported shapes,
                or the file is invalid.

        Example::

            model = metarl.load("runs/sine").adapt([0.0, 1.0, 2.0], [0.1, 0.9, 0.8])
            model.predict([0.5, 1.5])  # an array of shape (2,)
        """
        if isinstance(x, str | Path):
            x, y = read_columns(Path(x), ("x", "y"))
        inputs, targets = _column("x", x), _column("y", y)
        if len(inputs) != len(targets):
            raise ValueError(
                f"`x` and `y` must have equal lengths, got {len(inputs)} and {len(targets)}"
            )
        return AdaptedRegressor(
            self.learner.adapt(inputs, targets, steps=steps), self.learner.origin
        )


def read_columns(file: Path, names: Sequence[str]) -> list[list[float]]:
    """Read columns of numbers from a CSV file with a header.

    Args:
        file: The file.
        names: Names of the columns.

    Returns:
        One list of numbers per column, in the order of `names`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a column is missing or repeated, a row is invalid, or
            there are no rows. The message names the line.
    """
    if file.is_dir():
        raise IsADirectoryError(f"{file} must be a .csv file for a regression run, got a folder")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except UnicodeError as error:
        raise ValueError(f"{file} must be UTF-8 text ({error}). Save the file as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{file}: line {reader.line_num} must be valid CSV ({error})") from None
    if len(rows) < 2:
        raise ValueError(f"{file} must contain a header and at least one row, got {len(rows)} rows")
    (_, header), *rows = rows
    header = [name.strip() for name in header]
    for name in names:
        if header.count(name) != 1:
            raise ValueError(
                f"{file} must contain the column {name} once, got the columns {', '.join(header)}"
            )
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{file}: line {number} must contain {len(header)} values, got {len(row)}"
            )
    return [
        [_number(file, number, row[header.index(name)]) for number, row in rows] for name in names
    ]


def _number(file: Path, line: int, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{file}: line {line} must contain numbers, got {cell!r:.40}") from None


def _column(name: str, values: Any) -> Float[Tensor, "n 1"]:
    """Return finite numbers of shape (n,) or (n, 1) as a tensor of shape (n, 1)."""
    try:
        found = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be an array of numbers, got {values!r:.40}") from None
    if found.ndim not in (1, 2) or found.shape[1:] not in ((), (1,)) or not len(found):
        raise ValueError(f"`{name}` must have shape (n,) or (n, 1) with n > 0, got {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity")
    return torch.from_numpy(found.reshape(-1, 1).copy())
