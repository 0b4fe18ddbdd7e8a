"""Pretrained image encoders: loading, normalization, layers, frozen weights and derivatives."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from metarl.core import (
    InnerLoop,
    Params,
    Task,
    backprop,
    functional,
    meta_gradient,
    query_loss,
    sgd,
)
from metarl.nn import (
    Classifier,
    ImageEncoder,
    encoder_image_size,
    linear,
    load_image_encoder,
    lower_parameters,
)
from tests.support.image_encoders import KINDS, MEAN, SIZE, STD, save_functions, save_image_encoder
from tests.support.problems import randn, relative_error, seeded


LR = 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_model_on_normalized_images(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = save_image_encoder(tmp_path / kind, kind)
    images = torch.rand(2, 3, SIZE, SIZE, generator=seeded(0))
    normal = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(normal).last_hidden_state
    expected = states.mean((2, 3)) if states.ndim == 4 else states[:, 0]
    body = ImageEncoder(load_image_encoder(str(folder)).module)
    assert_close(body.features(images), expected, rtol=1e-5, atol=1e-5)
    if states.ndim == 3:
        body = ImageEncoder(load_image_encoder(str(folder), pooling="mean").module)
        assert_close(body.features(images), states.mean(1), rtol=1e-5, atol=1e-5)
        assert body(torch.rand(2, 3, 24, 24)).shape == expected.shape  # interpolated positions


def test_gray_images_and_integers_are_converted() -> None:
    body = ImageEncoder(nn.Conv2d(3, 4, 3))
    images = torch.randint(256, (70, 1, 8, 8), dtype=torch.uint8, generator=seeded(0))
    expected = body(images.float().expand(-1, 3, -1, -1) / 255)
    assert_close(body.features(images), expected.detach())


@pytest.mark.parametrize(
    ("about", "size"),
    [
        ({}, SIZE),
        ({"size": 32}, 32),
        ({"size": {"shortest_edge": 40}}, 40),
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 32}, "do_center_crop": True}, 32),
    ],
)
def test_the_preprocessor_determines_the_image_size(
    about: dict[str, object], size: int, tmp_path: Path
) -> None:
    assert encoder_image_size(str(save_image_encoder(tmp_path / "vit", "ViT", **about))) == size


@pytest.mark.parametrize("kind", KINDS)
def test_lower_parameters_are_below_the_top_layers(kind: str, tmp_path: Path) -> None:
    module, layers = load_image_encoder(str(save_image_encoder(tmp_path / kind, kind)))
    everything = [name for name, _ in module.named_parameters()]
    lower = [n for n in everything if n in lower_parameters(module, layers, 1)]
    assert lower == everything[: len(lower)]
    of_last = {id(x) for x in layers[-1].parameters()}
    named = dict(module.named_parameters())
    assert of_last <= {id(named[n]) for n in everything[len(lower) :]}
    assert id(named[lower[-1]]) in {id(x) for x in layers[-2].parameters()}
    assert lower_parameters(module, layers, 0) == {*everything}
    with pytest.raises(ValueError, match=f"top_layers must be from 0 to {len(layers)}, got 9"):
        lower_parameters(module, layers, 9)


def test_layers_of_a_module_are_its_children_and_the_items_of_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_functions(tmp_path, monkeypatch)
    module, layers = load_image_encoder("own_encoders:tiny")
    assert [*layers] == [module[0], module[1], module[3]]  # type: ignore[index]
    assert encoder_image_size("own_encoders:tiny") is None


def test_frozen_encoders_have_no_parameters_and_no_saved_tensors() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, bias=False)]
    images = torch.rand(5, 3, 12, 12)
    free = ImageEncoder(nn.Sequential(*layers)).features(images)
    frozen = ImageEncoder(nn.Sequential(*layers), frozen=True)
    assert_close(frozen.features(images), free)
    assert not list(frozen.parameters())
    assert not frozen.state_dict()
    assert frozen(free) is free
    assert frozen.double().features(images.double()).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_second_order_meta_gradients_equal_a_plain_loop(kind: str, tmp_path: Path) -> None:
    folder = save_image_encoder(tmp_path / kind, kind)
    body = ImageEncoder(load_image_encoder(str(folder)).module)
    size = body(torch.zeros(1, 3, SIZE, SIZE)).shape[-1]
    network = Classifier(body, linear(size, 2, generator=seeded(0))).double()
    apply, params = functional(network)
    targets = torch.eye(2).double().repeat(2, 1)
    tasks = Task(
        ((randn(2, 4, 3, SIZE, SIZE), targets.expand(2, 4, 2)),),
        (randn(2, 4, 3, SIZE, SIZE, seed=1), targets.expand(2, 4, 2)),
    )
    loss = lambda p, batch: cross_entropy(apply(p, batch[0]), batch[1])  # noqa: E731
    loop = InnerLoop(loss, sgd(LR), num_steps=2)
    gradient = backprop(loop, query_loss(loss))
    found, _ = meta_gradient(gradient, loop.init(params), tasks, chunk_size=1)

    def plain(params: Params) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for index in range(2):
            own = params
            for _ in range(2):
                x, y = tasks.support[0][0][index], tasks.support[0][1][index]
                outputs = torch.func.functional_call(network, own, (x,))
                slopes = torch.autograd.grad(
                    cross_entropy(outputs, y), list(own.values()), create_graph=True,
                    materialize_grads=True,
                )  # fmt: skip
                own = {n: p - LR * g for (n, p), g in zip(own.items(), slopes, strict=True)}
            x, y = tasks.query[0][index], tasks.query[1][index]
            total = total + cross_entropy(torch.func.functional_call(network, own, (x,)), y) / 2
        return total

    start = {name: p.clone().requires_grad_() for name, p in params.items()}
    slopes = torch.autograd.grad(plain(start), list(start.values()), materialize_grads=True)
    assert relative_error(found.model, dict(zip(start, slopes, strict=True))) < 1e-9


def test_invalid_encoders_give_one_line_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_functions(tmp_path, monkeypatch)
    with pytest.raises(ImportError, match=r"No module named 'nowhere'.*current folder"):
        load_image_encoder("nowhere:tiny")
    with pytest.raises(ImportError, match="no attribute 'small'"):
        load_image_encoder("own_encoders:small")
    with pytest.raises(ValueError, match=r"must return a torch.nn.Module, got int"):
        load_image_encoder("own_encoders:number")
    pytest.importorskip("transformers")
    with pytest.raises(OSError, match=r"cannot load encoder '/no/folder' .*: expected a folder"):
        load_image_encoder("/no/folder")


def test_code_and_pickles_of_an_encoder_are_not_loaded(tmp_path: Path) -> None:
    folder = save_image_encoder(tmp_path / "vit", "ViT")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="cannot load encoder"):
        load_image_encoder(str(folder))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_damaged_files_of_an_encoder_are_named(file: str, kind: str, tmp_path: Path) -> None:
    folder = save_image_encoder(tmp_path / kind, kind)
    whole = (folder / file).read_bytes().rstrip()
    for damaged in (whole[: len(whole) // 2], whole[:9], whole[:-1], b"", b"[]", b"null", POINTER):
        (folder / file).write_bytes(damaged)
        expected = "cannot load encoder .*safetensors|cannot load encoder .*deserializing"
        expected = expected if file == "model.safetensors" else f"{file} does not contain a JSON"
        expected = f"{file} is a Git LFS pointer" if damaged == POINTER else expected
        with pytest.raises(OSError, match=expected) as caught:
            encoder_image_size(str(folder)), load_image_encoder(str(folder))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("about", "expected"),
    [({"image_mean": None}, "cannot load"), ({"image_std": "x"}, "cannot load"),
     ({"size": None}, "cannot load"), ({"size": {"width": 3}}, "cannot load")],
    ids=str,
)  # fmt: skip
def test_invalid_settings_of_the_preprocessor_give_one_line_errors(
    about: dict[str, object], expected: str, tmp_path: Path
) -> None:
    folder = save_image_encoder(tmp_path / "vit", "ViT", **about)
    with pytest.raises(OSError, match=expected):
        encoder_image_size(str(folder)), load_image_encoder(str(folder))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, torch.nan, torch.inf])
def test_missing_and_infinite_weights_are_not_replaced_by_random_ones(
    value: float | None, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save_image_encoder(tmp_path / kind, kind)
    weights = load_file(folder / "model.safetensors")
    name = max(name for name, x in weights.items() if x.ndim and "pooler" not in name)
    weights[name] = torch.full_like(weights[name], value or 0.0)
    kept = {n: x for n, x in weights.items() if n != name or value is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    capfd.readouterr()
    with pytest.raises(OSError, match=r"the weights .* are missing or not finite"):
        load_image_encoder(str(folder))
    assert capfd.readouterr().err == ""
