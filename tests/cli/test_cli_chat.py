"""Conversations on the command line: one question, lines of stdin, a terminal, a file."""

import io
import json

import pytest
from PIL import Image

from illume_fast.data.png import read_record


@pytest.fixture
def chat(cli, tiny_model, monkeypatch):
    def run(*arguments, stdin=None, terminal=False):
        if stdin is not None:
            lines = io.StringIO(stdin)
            lines.isatty = lambda: terminal
            monkeypatch.setattr("sys.stdin", lines)
        return cli("chat", *arguments, "--model", tiny_model, "--max-tokens", 4)

    return run


def shown(picture, words):
    return {"role": "user", "content": [{"type": "image", "image": picture.name}, {"type": "text", "text": words}]}


def test_several_pictures(chat, picture, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (32, 32), "red").save(other)
    both = chat("What is this?", "--image", picture, "--image", other)
    assert both.code == 0, both.err
    outs = {chat("What is this?", *images).out for images in [[], ["--image", picture], ["--image", other]]}
    assert both.out not in outs


def test_lines_are_the_turns_of_one_conversation(chat):
    both = chat(stdin="red apple\n\nblue heart\n").out.splitlines()
    assert len(both) >= 2
    assert chat(stdin="red apple\n").out.splitlines() == both[:1] == chat("red apple").out.splitlines()
    assert chat("blue heart").out.splitlines() != both[1:]
    empty = chat(stdin=" \n")
    assert (empty.code, "there is no question" in empty.err) == (2, True)


def test_a_terminal_goes_on_after_a_mistake(chat, picture):
    typed = f"/image gone.png\n/image {picture}\nWhat is this?\n{'word ' * 3000}\nblue heart\n"
    done = chat(stdin=typed, terminal=True)
    assert done.code == 0
    assert "picture gone.png does not exist" in done.err
    assert "the model takes 1024" in done.err
    answer = chat("What is this?", "--image", picture).out
    assert done.out.replace("> ", "").startswith(answer)


def test_files_of_conversations(chat, picture, tmp_path):
    talks = [
        [shown(picture, "What is this?"), {"role": "user", "content": "red apple"}],
        {"messages": [shown(picture, "What is this?")]},
        {"images": [picture.name], "conversations": [{"from": "human", "value": "<image>\nWhat is this?"}]},
    ]
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(map(json.dumps, talks)) + "\n\n")
    done = chat("--turns", path)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [(line["conversation"], len(line["answers"])) for line in lines] == [(0, 2), (1, 1), (2, 1)]
    said = [line["answers"][0]["content"] for line in lines]
    assert said[0] == said[1] == said[2]
    assert said[0][0]["text"] == chat("What is this?", "--image", picture).out.rstrip("\n")
    assert lines[0]["answers"][1] != lines[0]["answers"][0]


def test_pictures_go_to_a_folder_with_how_they_were_made(chat, picture, tmp_path):
    path, out = tmp_path / "talks.jsonl", tmp_path / "out"
    talk = [shown(picture, "change the colour to green"), {"role": "user", "content": "and to red"}]
    path.write_text(json.dumps(talk))
    done = chat("--turns", path, "--answer", "image", "--out", out, "--guidance", 2, "--seed", 5)
    assert done.code == 0, done.err
    (line,) = map(json.loads, done.out.splitlines())
    files = [message["content"][0]["image"] for message in line["answers"]]
    assert files == [str(out / "0000_0.png"), str(out / "0000_1.png")]
    # as large as its source; what shows none has the model's default size
    assert [Image.open(file).size for file in files] == [(60, 40), (64, 64)]
    records = [read_record(out / name) for name in ("0000_0.png", "0000_1.png")]
    assert [r["prompt"] for r in records] == ["change the colour to green", "and to red"]
    assert records[0]["seed"] == 5 != records[1]["seed"]
    assert records[0]["guidance"] == 2


@pytest.mark.parametrize(
    "line,reason",
    [
        ("{", "line 1: not JSON"),
        ("3", "line 1: expected a list of messages"),
        ('[{"role": "user", "content": [{"type": "image", "image": "gone.png"}]}]', "line 1: message 0: picture"),
        ('[{"role": "robot", "content": "a"}]', "line 1: message 0: role 'robot' is not allowed"),
        ('[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]', "every turn of the user has an"),
        ('{"images": [], "conversations": [{"from": "human", "value": "<image>"}]}', "0 images for 1 places '<image>'"),
        ('{"images": ["a"], "conversations": [{"from": "human", "value": "a"}]}', "1 images for 0 places '<image>'"),
        ('{"images": [], "conversations": [{"from": "human", "value": "{resolution_tag}"}]}', "needs a picture size"),
        ("", "holds no conversations"),
    ],
)
def test_bad_conversations(chat, tmp_path, line, reason):
    path = tmp_path / "talks.jsonl"
    path.write_text(line)
    done = chat("--turns", path)
    assert done.code == 2
    assert reason in done.err.splitlines()[-1]
    assert "talks.jsonl" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments,reason",
    [
        (["a", "--turns", "x.jsonl"], "--turns has its own questions and pictures"),
        (["a", "--answer", "image"], "--answer image needs a folder for the pictures; give --out DIR"),
        (["a", "--max-pixels", "0"], "--max-pixels must be from 1"),
        (["a", "--temperature", "nan"], "--temperature must be from 0 to 1000, got nan"),
        (["a", "--guidance", "-1", "--out", "x"], "--guidance must be from 0 to 100, got -1.0"),
        (["a", "--seed", "-1"], "--seed must be from 0"),
        (["a", "--size", "big", "--out", "x"], "--size: size 'big' is not HEIGHTxWIDTH"),
        (["a", "--size", "48x48", "--out", "x"], "size 48x48 is not supported; allowed are 64x64, 32x64"),
        (["a", "--decoder", "pixel"], "--decoder and --diffusion options are about pictures; give --out DIR"),
        (["a", "--diffusion-steps", "0", "--out", "x"], "--diffusion-steps must be from 1 to 1000, got 0"),
        (["a", "--diffusion-steps", "9", "--out", "x"], "--diffusion-steps: the pictures of model"),
        (["--turns", "gone.jsonl"], "gone.jsonl: cannot be read: No such file"),
    ],
)
def test_options_that_cannot_be_used(chat, arguments, reason):
    done = chat(*arguments)
    assert (done.code, reason in done.err) == (2, True), done.err


def test_an_answer_that_fails_is_told_of_and_the_others_are_given(chat, tmp_path):
    path = tmp_path / "talks.jsonl"
    talks = [[{"role": "user", "content": "word " * 3000}], [{"role": "user", "content": "red apple"}]]
    path.write_text("\n".join(map(json.dumps, talks)))
    done = chat("--turns", path)
    assert done.code == 1
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert "the model takes 1024" in lines[0]["error"]
    assert lines[1]["answers"]
    assert "1 of 2 conversations failed" in done.err
