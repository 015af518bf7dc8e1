"""Files of conversations: what a line is, and lines that are none."""

import json

import pytest

from illume_fast.data.errors import InputError
from illume_fast.data.jsonl import read_conversations
from illume_fast.data.talks import read_talks

# str.splitlines parts at these, JSON does not
SIGNS = "a\x85b\u2028c\u2029d"


def test_lines_end_at_line_ends_alone(tmp_path):
    path = tmp_path / "talks.jsonl"
    official = {"conversations": [{"from": "human", "value": SIGNS}]}
    lines = [json.dumps(v, ensure_ascii=False) for v in ([{"role": "user", "content": SIGNS}], official)]
    path.write_bytes("\r\n\r\n".join(lines).encode("utf-8-sig"))
    talks = list(read_talks(path))
    assert [talk.turns[0].parts for talk in talks] == [(SIGNS,)] * 2
    assert [talk.where for talk in talks] == [f"{path} line 1", f"{path} line 3"]
    path.write_text(lines[1], encoding="utf-8")
    assert read_conversations(path)[0].turns == (SIGNS,)


@pytest.mark.parametrize("read", [read_talks, read_conversations])
@pytest.mark.parametrize(
    "data, message",
    [
        (b"\n" + b"[" * 100_000, "line 2: not JSON"),
        (b"[" + b"1" * 5000 + b"]", "line 1: not JSON"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_what_is_no_json_is_named(tmp_path, read, data, message):
    path = tmp_path / "talks.jsonl"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"talks\.jsonl.*{message}"):
        list(read(path))
