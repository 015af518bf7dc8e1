"""Ray Data: pictures of a data set, alone and on a cluster of two nodes on this machine."""

import io
import json
import subprocess
import sys

import pytest
from PIL import Image

from illume_fast.data.errors import InputError
from illume_fast.integrations.ray_data import DrawBatch, generate_dataset
from illume_fast.jobs.batch import generate_batch
from illume_fast.model.checkpoint import DEMO

pyarrow = pytest.importorskip("pyarrow")
needs_demo = pytest.mark.skipif(not (DEMO / "config.json").exists(), reason="the demo model is not there")


@needs_demo
def test_a_table_of_prompts_becomes_a_table_of_pictures(tmp_path):
    guided = {"negative_prompt": ["green apple", "fig", None], "guidance_until": [None, None, 24]}
    columns = {"prompt": ["red apple", " ", "blue heart"], "num_images": [2, 1, 1], "id": ["x", "y", "x"]}
    table = pyarrow.table({**columns, "tag": [1, 2, 3], **guided})
    drawn = DrawBatch(seed=3, batch_size=4)(table)
    rows = drawn.to_pylist()
    assert [(row["id"], row["tag"], row["index"]) for row in rows] == [
        ("x", 1, 0),
        ("x", 1, 1),
        ("y", 2, 0),
        ("x", 3, 0),
    ]
    assert [row["error"] for row in rows] == [None, None, "row y: needs a \"prompt\" that is a text, got ' '", None]
    assert Image.open(io.BytesIO(rows[0]["png"])).text["prompt"] == "red apple"
    led = {"prompt": "red apple", "num_images": 2, "negative_prompt": "green apple"}
    generate_batch([led, {"prompt": "blue heart", "guidance_until": 24}], tmp_path, seed=3)
    made = [json.loads(line)["tokens"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["tokens"] for row in rows if row["error"] is None] == made


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(InputError, match=r"pip install 'illume-fast\[ray\]'"):
        generate_dataset(None)


CLUSTER = """
import json, sys
import ray
from ray.cluster_utils import Cluster
from illume_fast.integrations.ray_data import generate_dataset

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
cluster.add_node(num_cpus=2)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
nodes = [node for node in ray.nodes() if node["Alive"]]
prompts = [{"prompt": f"red apple number {i}"} for i in range(24)] + [{"prompt": ""}]
found = generate_dataset(ray.data.from_items(prompts, override_num_blocks=4), workers=2, num_cpus=2)
rows = [{key: row[key] for key in ("prompt", "tokens", "error")} for row in found.take_all()]
json.dump({"nodes": len(nodes), "rows": rows}, open(sys.argv[1], "w"))
ray.shutdown()
cluster.shutdown()
"""


@needs_demo
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_of_two_nodes_draws_the_same_pictures(tmp_path):
    pytest.importorskip("ray.data")
    # a process of its own: Ray leaves threads behind
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(tmp_path / "found.json")], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["nodes"] == 2
    assert len(found["rows"]) == 25
    generate_batch([f"red apple number {i}" for i in range(24)], tmp_path / "out")
    alone = map(json.loads, (tmp_path / "out/results.jsonl").read_text().splitlines())
    tokens = {row["prompt"]: row["tokens"] for row in alone}
    assert {row["prompt"]: row["tokens"] for row in found["rows"] if row["error"] is None} == tokens
    assert [row["error"] is None for row in found["rows"]].count(False) == 1
