"""Visual chain of thought on a small random model: what is drawn, asked and written down. lmms-eval is not needed."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from support import on_threads
from tiny_pipeline import tiny_pipeline

from illume_fast.data.errors import InputError
from illume_fast.integrations.lmms_eval.arguments import Arguments
from illume_fast.integrations.lmms_eval.questions import Question
from illume_fast.integrations.lmms_eval.thinking import Thinker, Thought, is_marked, taken_apart
from illume_fast.pipeline import Draw

MARKED = "[GEN_PROMPT]draw {question} in red[/GEN_PROMPT][QUESTION] what is it? [/QUESTION]"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small gains nothing from threads."""
    with on_threads(1):
        yield


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("thinking"))


def thought(name, context, *pictures, seed=0):
    return Thought(
        name=name,
        task="task",
        context=context,
        question=Question(id=name, words=context, pictures=pictures, seed=seed),
    )


def ready(*thoughts):
    return [partial(lambda given: given, given) for given in thoughts]


def fail(error):
    raise error


def test_marks_say_what_to_draw_and_what_to_ask():
    assert is_marked(MARKED)
    assert not is_marked("[GEN_PROMPT]x[/GEN_PROMPT] only")
    assert taken_apart(MARKED, "unused") == ("draw what is it? in red", " what is it? ")
    assert taken_apart("how {many}?", "help with: {question}") == ("help with: how {many}?", "how {many}?")


def test_the_answer_is_that_to_the_question_with_its_picture(pipe, tmp_path):
    source = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8))
    arguments = Arguments(output_dir=str(tmp_path), save_intermediate=True, stage2_max_new_tokens=6)
    thinker = Thinker(pipe, arguments)
    done = []
    found = thinker.answers(
        ready(thought("7", MARKED, seed=3), thought("8", "what is this", source, seed=4)),
        fail,
        lambda: done.append(1),
    )
    assert len(done) == 2
    how = {"guidance": 1.0, "temperature": 0.7, "top_p": 0.9, "restore": False}
    asked = [
        (Draw(prompt="draw what is it? in red", seed=3, **how), " what is it? ", []),
        (Draw(prompt=arguments.generation_prompt_template.format(question="what is this"), image=source, size=(32, 64),
              seed=4, **how), "what is this", [source]),
    ]  # fmt: skip
    for (draw, words, shown), name, answer in zip(asked, ("7", "8"), found, strict=True):
        ((drawn,),) = [list(pipe.generate_stream([draw]))]
        assert answer == pipe.chat(words, [*shown, drawn.picture], max_new_tokens=6)
        with Image.open(tmp_path / "generated_images" / "task" / f"{name}_gen.png") as saved:
            assert (np.asarray(saved) == np.asarray(drawn.picture)).all()
            assert saved.text["prompt"] == draw.prompt
        note = json.loads((tmp_path / "intermediate_artifacts" / "task" / f"{name}_metadata.json").read_text())
        assert (note["doc_id"], note["stage2_answer"]) == (name, answer)
        assert note["generated_images"] == [str(tmp_path / "generated_images" / "task" / f"{name}_gen.png")]


def test_several_pictures_are_edited_together_and_shown_with_the_drawing(pipe, tmp_path):
    shown = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8)) for n in (1, 2)]
    thinker = Thinker(pipe, Arguments(output_dir=str(tmp_path), stage2_max_new_tokens=6))
    marked = "[GEN_PROMPT]join <image> and <image>[/GEN_PROMPT][QUESTION]is <image> like <image>?[/QUESTION]"
    found = thinker.answers(ready(thought("1", marked, *shown), thought("2", "which?", *shown)), fail)
    assert all(found)
    task = thinker._draw(thought("1", marked, *shown))
    assert task.messages[0].parts == (*shown, "join  and")
    drawing = Image.new("RGB", (32, 32))
    asked = thinker._asked(thought("1", marked, *shown), drawing).task(pipe)
    assert asked.messages[0].parts == ("is ", shown[0], " like ", shown[1], "?\n", drawing)
    assert thinker._asked(thought("2", "<image><image>which?", *shown), drawing).task(pipe).prompt == "which?"


def test_size_and_guidance_are_taken(pipe, tmp_path):
    sized = Thinker(pipe, Arguments(output_dir=str(tmp_path), stage1_size="32x64", stage1_guidance=3.0))
    sized.answers(ready(thought("1", "what is this")), fail)
    with Image.open(tmp_path / "generated_images" / "task" / "1_gen.png") as saved:
        assert saved.size == (64, 32)
    with pytest.raises(InputError, match="allowed"):
        Thinker(pipe, Arguments(stage1_size="48x48"))


def test_what_cannot_be_thought_about_fails_alone(pipe, tmp_path):
    thinker = Thinker(pipe, Arguments(output_dir=str(tmp_path), stage1_max_new_tokens=5))
    with pytest.raises(InputError, match="stage1_max_new_tokens=5: a picture of 32x32 has"):
        thinker.answers(ready(thought("9", MARKED)), fail)
    failed, done = [], []
    assert thinker.answers(ready(thought("9", MARKED)), failed.append, lambda: done.append(1)) == [""]
    assert (len(failed), len(done)) == (1, 1)
    assert not list(tmp_path.rglob("*.png"))


def test_drawing_is_forbidden_before_anything_is_drawn(pipe):
    Thinker(pipe, Arguments()).check()
    with pytest.raises(InputError, match="enable_image_decoding=False, and a picture is to be drawn"):
        Thinker(pipe, Arguments(enable_image_decoding=False)).check()
