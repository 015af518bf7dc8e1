"""The model that lmms-eval loads, by lmms-eval itself where it is installed: registration, requests, a real task."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import ROOT, on_threads
from tiny_pipeline import tiny_pipeline

from illume_fast.data.errors import InputError
from illume_fast.integrations.lmms_eval.questions import seed_of
from illume_fast.model.checkpoint import DEMO, CheckpointError

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; docs/evaluation.md says how")
PUBLISHED = ("config.json", "tokenizer.json")
EXAMPLES = ROOT / "examples" / "lmms_eval"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small gains nothing from threads."""
    with on_threads(1):
        yield


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


DOCUMENTS = [{"image": picture(seed), "words": f"what is this {seed}"} for seed in range(4)]
GREEDY = {"max_new_tokens": 6, "until": ["\n\n"], "do_sample": False}
CHANCE = {"max_new_tokens": 6, "do_sample": True, "temperature": 1.0}


def shown(document):
    return [document["image"]]


def instance(kind, *arguments, doc_id=0):
    from lmms_eval.api.instance import Instance

    metadata = {"task": "task", "doc_id": doc_id, "repeats": 1}
    return Instance(request_type=kind, arguments=(*arguments, doc_id, "task", "test"), idx=0, metadata=metadata)


def until(doc_id, kwargs=GREEDY, words=None):
    return instance("generate_until", words or DOCUMENTS[doc_id]["words"], kwargs, shown, doc_id=doc_id)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """model(**arguments) is an `IllumeFast` of a small random model."""
    from illume_fast.integrations.lmms_eval import model as module

    monkeypatch.setattr(module, "_load", lambda arguments, device: tiny_pipeline(tmp_path))

    def make(**arguments):
        made = module.IllumeFast(device="cpu", **arguments)
        made.task_dict = {"task": {"test": DOCUMENTS}}
        return made

    return make


def test_lmms_eval_finds_it_by_the_entry_point_of_the_package():
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    (value,) = re.findall(
        r'entry-points."lmms_eval.models"\]\nillume_fast = "(.*)"', (ROOT / "pyproject.toml").read_text()
    )
    registry = ModelRegistryV2()
    for manifest in registry._coerce_payload_to_manifests(EntryPoint("illume_fast", value, "lmms_eval.models").load()):
        registry.register_manifest(manifest)
    assert registry.get_model_class("illume_fast").__name__ == "IllumeFast"


def test_model_args_arrive_as_lmms_eval_parses_them(model, tmp_path):
    from illume_fast.integrations.lmms_eval.model import IllumeFast

    made = IllumeFast.create_from_arg_string(
        f"pretrained={DEMO},dtype=float32,stage1_top_p=None,output_dir={tmp_path}",
        {"batch_size": "3", "device": "cpu", "max_batch_size": None},
    )
    assert (made.batch_size, made.rank, made.world_size, str(made.device)) == (3, 0, 1, "cpu")
    with pytest.raises(InputError, match="unknown padding"):
        IllumeFast.create_from_arg_string("padding=1", {})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_devices_that_are_not_there_are_refused(model):
    from illume_fast.integrations.lmms_eval.model import IllumeFast

    for device, message in (("cuda", "no GPU; allowed is cpu"), ("nonsense", "device nonsense")):
        with pytest.raises(InputError, match=message):
            IllumeFast(device=device)


def test_requests_are_answered_as_the_pipeline_answers(model):
    made = model(batch_size=4)
    requests = [until(2), until(0, CHANCE), until(1)]
    found = made.generate_until(requests)
    chat = made.pipeline.chat
    assert found[0] == chat(DOCUMENTS[2]["words"], DOCUMENTS[2]["image"], max_new_tokens=6)
    assert found[2] == chat(DOCUMENTS[1]["words"], DOCUMENTS[1]["image"], max_new_tokens=6)
    seed = seed_of(0, "task/test/0", 0)
    assert found[1] == chat(DOCUMENTS[0]["words"], DOCUMENTS[0]["image"], max_new_tokens=6, temperature=1.0, seed=seed)
    assert made.generate_until(requests[::-1]) == found[::-1]


def test_several_answers_to_one_request_differ(model):
    asked = until(0, CHANCE)
    first, second, third = model().generate_until([asked, asked, asked])
    assert len({first, second, third}) > 1
    assert model().generate_until([asked]) == [first]
    assert model(seed=9).generate_until([asked]) != [first]


def test_losses_come_as_the_evaluator_takes_them(model):
    from lmms_eval.api.instance import unwrap_generation_output

    made = model(batch_size=2)
    words = ["a small dog", " near the tree"]
    requests = [instance("loglikelihood", DOCUMENTS[0]["words"], answer, shown) for answer in words]
    requests.append(instance("loglikelihood", DOCUMENTS[1]["words"], lambda document: "the grass", shown, doc_id=1))
    found = [unwrap_generation_output(result)[0] for result in made.loglikelihood(requests)]
    assert all(isinstance(loss, float) and loss > 0 and not greedy for loss, greedy in found)
    assert len({loss for loss, _ in found}) == 3


def test_rounds_show_what_the_task_says(model):
    from lmms_eval.api.instance import unwrap_generation_output

    made = model()

    def next_round(document, *, previous_output, round_idx, previous_round_info):
        return [picture(9)], "and this", round_idx == 2, previous_output, None

    request = instance("generate_until_multi_round", "what is this", GREEDY, shown, next_round)
    (found,) = made.generate_until_multi_round([request])
    chat = made.pipeline.chat
    assert found == [
        chat("what is this", DOCUMENTS[0]["image"], max_new_tokens=6),
        chat("and this", picture(9), max_new_tokens=6),
    ]
    assert unwrap_generation_output(found)[0] == found


def test_marked_prompts_are_drawn_and_the_others_are_not(model, tmp_path):
    made = model(output_dir=str(tmp_path / "logs"))
    marked = "[GEN_PROMPT]a red heart[/GEN_PROMPT][QUESTION]what is this[/QUESTION]"
    found = made.generate_visual_cot([until(0), until(1, words=marked)])
    assert found[0] == made.generate_until([until(0)])[0]
    assert [path.name for path in (tmp_path / "logs").rglob("*.png")] == ["1_gen.png"]
    thinking = model(output_dir=str(tmp_path / "all"), enable_visual_cot=True, batch_size=1)
    thinking.generate_until([until(n) for n in range(4)] + [until(0)])
    drawn = sorted(path.name for path in (tmp_path / "all").rglob("*.png"))
    assert drawn == [f"{n}_gen.png" for n in range(4)]


def test_failures_end_the_run_unless_they_are_to_be_answered_with_nothing(model, capsys):
    class Clip:
        def __call__(self, document):
            return ["clip.mp4"]

    bad = instance("generate_until", "what is this", GREEDY, Clip(), doc_id=3)
    with pytest.raises(InputError, match=r"task/test/3: clip.mp4 is a video"):
        model().generate_until([until(0), bad])
    found = model(fail_gracefully=True).generate_until([until(0), bad])
    assert found[0]
    assert found[1] == ""
    assert "answered with nothing: task/test/3: clip.mp4 is a video" in capsys.readouterr().err
    with pytest.raises(InputError, match="num_beams=4"):
        model(fail_gracefully=True).generate_until([until(0, {**GREEDY, "num_beams": 4})])


def test_it_lets_go_of_the_model(model):
    made = model()
    made.clean()
    assert not hasattr(made, "pipeline")


def test_a_published_folder_answers_and_says_what_it_lacks_to_draw(golden, tmp_path):
    from illume_fast.integrations.lmms_eval.model import IllumeFast

    folder = golden("mllm_tiny")
    for name, as_published in (("weights.safetensors", "model.safetensors"), *[(n, n) for n in PUBLISHED]):
        shutil.copyfile(folder / name, tmp_path / as_published)
    made = IllumeFast(pretrained=str(tmp_path), device="cpu", batch_size=2)
    made.task_dict = {"task": {"test": DOCUMENTS}}
    found = made.generate_until([until(0, {"max_new_tokens": 49_152}), until(1)])
    assert found[0]
    assert found[1] == made.pipeline.chat(DOCUMENTS[1]["words"], DOCUMENTS[1]["image"], max_new_tokens=6)
    marked = "[GEN_PROMPT]a dog[/GEN_PROMPT][QUESTION]what is this[/QUESTION]"
    with pytest.raises(CheckpointError, match=r"without a vision tokenizer|diffusion decoder"):
        made.generate_until([until(1), until(0, words=marked)])
    with pytest.raises(CheckpointError, match=r"without a vision tokenizer|diffusion decoder"):
        IllumeFast(pretrained=str(tmp_path), device="cpu", enable_visual_cot=True)


@pytest.mark.slow
@pytest.mark.skipif(not (DEMO / "config.json").exists(), reason="the demo model is not there")
def test_a_real_task_gives_the_score_of_our_own_evaluation(dataset, tmp_path):
    """Naming of emoji, by lmms-eval's command line and by `illume-fast evaluate`; and the likeliest of four names."""
    folder = dataset("noto_emoji")
    environment = {
        **os.environ,
        # the clone's entry point, whatever is installed
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(_entry_point(tmp_path)), os.environ.get("PYTHONPATH", "")]),
        **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "OMP_NUM_THREADS"), "1"),
        "HF_HOME": str(tmp_path / "hf"),
    }
    command = ["-m", "lmms_eval", "eval", "--model", "illume_fast", "--model_args", "pretrained=demo"]
    command += ["--include_path", str(EXAMPLES), "--tasks", "emoji_naming,emoji_choice", "--batch_size", "16"]
    subprocess.run(
        [sys.executable, *command, "--output_path", str(tmp_path / "logs"), "--device", "cpu"],
        cwd=folder, env=environment, check=True, capture_output=True, timeout=250,
    )  # fmt: skip
    (path,) = (tmp_path / "logs").rglob("*_results.json")
    found = json.loads(path.read_text())["results"]
    ours = tmp_path / "ours.json"
    command = ["-m", "illume_fast.cli", "evaluate", "emoji", "--data", str(folder), "--split", "val_combo"]
    subprocess.run(
        [sys.executable, *command, "--metrics", "naming", "--json", str(ours)],
        env=environment, check=True, capture_output=True, timeout=250,
    )  # fmt: skip
    assert found["emoji_naming"]["exact_match,none"] == pytest.approx(json.loads(ours.read_text())["naming"])
    assert found["emoji_choice"]["acc,none"] > 0.9


def _entry_point(folder: Path) -> Path:
    made = folder / "site" / "illume_fast-0.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: illume-fast\nVersion: 0\n")
    (made / "entry_points.txt").write_text(
        "[lmms_eval.models]\nillume_fast = illume_fast.integrations.lmms_eval:manifest\n"
    )
    return made.parent
