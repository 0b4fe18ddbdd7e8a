"""The blocks of the page "Use a trained model" run in order, and model cards contain them."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from metarl.data import load_images
from metarl.runs.card import PYTHON
from tests.support.commands import TRAIN, metarl
from tests.support.pages import block, run_in_small, runs


PAGE = "docs/use-a-trained-model.md"
RUNS = {"policy": "quick", "images": "glyphs", "sentences": "text", "points": "sine"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", PYTHON)
def test_the_code_of_model_cards_is_the_code_of_the_page(kind: str) -> None:
    code = PYTHON[kind].replace("{place}", json.dumps(f"runs/{RUNS[kind]}"))
    assert block(PAGE, kind) == f"{code}\n"


def write_images() -> None:
    glyphs = load_images("glyphs").test.images.reshape(-1, 20, 28, 28).numpy()
    for label, images in zip("abc", glyphs, strict=False):
        for index, image in enumerate(images[:2], 1):
            for folder in (f"support/{label}", "new"):
                path = Path(folder, f"{index}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(255 - image).save(path)  # dark ink on white


@runs(PAGE, "images", "arrays", "export")
def test_the_blocks_about_images_run(capsys: pytest.CaptureFixture[str]) -> None:
    run_in_small("metarl train fewshot --method protonet --ways 3 --out runs/glyphs")
    write_images()
    for name in ("images", "arrays", "export"):
        exec(block(PAGE, name), {})
    assert "('a', 'b', 'c') [" in capsys.readouterr().out
    assert Path("classifier.pt2").exists()


@runs(PAGE, "policy", "record")
def test_the_blocks_about_policies_run(capsys: pytest.CaptureFixture[str]) -> None:
    metarl(*TRAIN, "--iterations", 2, "--out", "runs/quick")
    names: dict[str, object] = {}
    for name in ("policy", "record"):
        exec(block(PAGE, name), names)
    assert re.search(r"return before and after: \[-?\d", capsys.readouterr().out)


@runs(PAGE, "sentences", "points", "predict")
def test_the_other_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    sentences = pytest.importorskip("tests.support.sentences")
    sentences.save_documented(Path())
    run_in_small("metarl train text --method protonet --data-root data --out runs/text")
    run_in_small("metarl train regression --out runs/sine")
    run_in_small("metarl train fewshot --method protonet --ways 3 --out runs/glyphs")
    write_images()
    for name in ("sentences", "points"):
        exec(block(PAGE, name), {})
    rows = [{"text": "red dog", "label": "red"}, {"text": "blue dog", "label": "blue"}]
    sentences.write_lines(Path("examples.jsonl"), rows)
    sentences.write_lines(Path("texts.jsonl"), [{"text": "a red cat"}])
    Path("points.csv").write_text("x,y\n0,0\n1,1\n")
    Path("new.csv").write_text("x\n0.5\n")
    capsys.readouterr()
    run_in_small(block(PAGE, "predict"))
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("1.png", "a red cat", "0.5"))
    assert Path("predictions.csv").exists()


def test_the_page_is_found_by_the_words_people_search_for() -> None:
    text = Path(__file__).parents[2].joinpath(PAGE).read_text().lower()
    assert all(word in text for word in ("predict", "inference", "deploy", "export"))
