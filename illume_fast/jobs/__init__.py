"""Batch jobs: a prompt file or any prompts in, a folder of pictures out, whatever happens on the way.

| file            | topic                                                                            |
|-----------------|----------------------------------------------------------------------------------|
| `config.py`     | what a job is asked to do, and the bounds of its numbers                         |
| `source.py`     | rows of files and of Python, counted, numbered and checked for repeated ids      |
| `shard.py`      | which of several workers draws a picture                                         |
| `ledger.py`     | what was made and what failed: SQLite, one file a worker                         |
| `stores.py`     | where pictures lie: a folder of PNGs, or shards filled from a staging folder     |
| `packing.py`    | shards as WebDataset tar files and as parquet                                    |
| `painter.py`    | the loaded model, and the settings a picture depends on                          |
| `work.py`       | rows as tasks for the pipeline, without what is made already                     |
| `stream.py`     | results of the pipeline, with smaller batches when memory runs out               |
| `worker.py`     | one worker from start to end                                                     |
| `process.py`    | a worker in a process of its own                                                 |
| `supervisor.py` | several of them, started again when they die                                     |
| `summary.py`    | `results.jsonl`, `failures.jsonl` and the contact sheet, from all ledgers        |
| `batch.py`      | `generate_batch`                                                                 |

`docs/batch_jobs.md` describes the files that a job writes and how it goes on after a kill.
"""
