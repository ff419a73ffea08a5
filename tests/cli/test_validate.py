"""`ingot validate` at the command line: exit codes, what is shown, the report, the record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ingot.cli import main
from ingot.demo import assets
from ingot.record import read_record
from tests.quantize.gguf import models

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
DATES = assets.tasks()[1]
REFERENCE = f"{assets.base()}+{DATES.adapter}"


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "merged"
    assert main(["merge", "-q", str(assets.base()), str(DATES.adapter), "-o", str(out)]) == 0
    return out


@pytest.fixture
def artifact(merged: Path, tmp_path: Path) -> Path:
    return shutil.copytree(merged, tmp_path / "merged")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    lines = [json.dumps({"prompt": s.prompt, "expected": s.expected}) for s in DATES.samples[:4]]
    (tmp_path / "dates.jsonl").write_text("\n".join(lines))
    return tmp_path / "dates.jsonl"


def test_a_clean_merge_passes_is_recorded_and_still_verifies(
    artifact: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.html"
    command = ["validate", str(artifact), "--reference", REFERENCE, "--samples", str(samples), "--chat"]
    settings = ["--new-tokens", "16", "--dtype", "float32", "--report", str(report), "--work", str(tmp_path / "work")]
    assert main([*command, *settings]) == 0
    shown = capsys.readouterr().out
    assert "passed" in shown
    assert str(report) in shown
    assert report.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    (kept,) = read_record((artifact / "ingot.json").read_bytes()).statement.predicate.run.evaluations
    assert kept["ok"] is True
    assert kept["weights"]["equal"] > 0.999
    assert main(["verify", "-q", str(artifact), "--read"]) == 0


def test_a_gate_that_fails_is_exit_1_and_the_last_line_says_which(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (artifact / "ingot.json").read_bytes()
    for weights in assets.base().glob("*.safetensors"):
        shutil.copy(weights, artifact / weights.name)
    assert main(["validate", str(artifact), "--reference", REFERENCE, "--no-record", "--json"]) == 1
    *_, evaluation, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert last["type"] == "error"
    assert last["exit_code"] == 1
    assert "the update is not there" in last["message"]
    assert evaluation["type"] == "evaluation"
    assert [gate["ok"] for gate in evaluation["candidates"][0]["gates"]] == [False, False]
    assert (artifact / "ingot.json").read_bytes() == before


def test_quiet_leaves_one_word(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(artifact), "--reference", REFERENCE, "--no-record", "--quiet"]) == 0
    assert capsys.readouterr().out == "ok\n"


def test_a_gguf_is_run_by_llama_cpp_and_its_result_goes_into_the_record_that_names_it(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, other = tmp_path / "gguf", tmp_path / "gguf" / "not-in-the-record.gguf"
    samples.write_text("\n".join(samples.read_text().splitlines()[:2]))
    assert main(["merge", "-q", str(assets.base()), str(DATES.adapter), "-o", str(made), "--to", "gguf:Q8_0"]) == 0
    shutil.copy(made / "ingot-demo-base-dates-Q8_0.gguf", other)
    command = ["validate", "--reference", REFERENCE, "--samples", str(samples), "--chat", "--new-tokens", "16"]
    settings = ["--dtype", "float32", "--work", str(tmp_path / "work"), "--json"]
    assert main([*command, *settings, str(other)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["recorded"] == []
    other.unlink()
    assert main([*command, *settings, str(made)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    (kept,) = read_record((made / "ingot.json").read_bytes()).statement.predicate.run.evaluations
    assert kept["candidate"]["name"] == "ingot-demo-base-dates-Q8_0.gguf"
    assert kept["candidate"]["kind"] == "GGUF"
    assert kept["ok"] is True
    assert kept["tokens"] == [2, 2]
    assert 0 < kept["logits"]["mean_kl"] < 0.01
    assert result["candidates"][0]["left_out"] == kept["left_out"]
    assert kept["left_out"][0].startswith("weights: those of a GGUF are not compared here")
    assert main(["verify", "-q", str(made), "--read"]) == 0


def test_files_of_one_artifact_and_a_checkpoint_stand_in_one_table_and_on_one_page(
    artifact: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, report = tmp_path / "gguf", tmp_path / "report.html"
    samples.write_text("\n".join(samples.read_text().splitlines()[:2]))
    types = "gguf:Q8_0,gguf:Q6_K"
    assert main(["merge", "-q", str(assets.base()), str(DATES.adapter), "-o", str(made), "--to", types]) == 0
    files = [f"ingot-demo-base-dates-{name}.gguf" for name in ("Q8_0", "Q6_K")]
    command = ["validate", *(str(made / name) for name in files), str(artifact), "--reference", REFERENCE]
    settings = ["--samples", str(samples), "--chat", "--new-tokens", "16", "--dtype", "float32"]
    capsys.readouterr()
    assert main([*command, *settings, "--work", str(tmp_path / "work"), "--report", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "All 3 candidates are within their limits" in shown
    assert [line for line in shown.splitlines() if line.startswith("Recorded")] == [
        f"Recorded   {made}/ingot.json", f"Recorded   {artifact}/ingot.json"
    ]  # fmt: skip
    kept = read_record((made / "ingot.json").read_bytes()).statement.predicate.run.evaluations
    assert [one["candidate"]["name"] for one in kept] == files
    page = report.read_text(encoding="utf-8")
    for name in (*files, "those of a GGUF are not compared here"):
        assert name in page
    assert main(["verify", "-q", str(made), "--read"]) == 0


def test_a_gguf_with_another_vocabulary_fails_and_every_reason_is_told(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {**models.SIZES, "vocab_size": 512}
    monkeypatch.setitem(models.MODELS, "pieces", ("LlamaForCausalLM", "LlamaConfig", sizes))
    monkeypatch.setattr(models, "PIECES", ("pieces",))
    models.save_model("pieces", tmp_path / "other", torch.bfloat16)
    made = tmp_path / "gguf"
    assert main(["quantize", "-q", str(tmp_path / "other"), "-o", str(made), "--to", "gguf:Q8_0"]) == 0
    capsys.readouterr()
    command = ["validate", str(made), "--reference", REFERENCE, "--samples", str(samples), "--new-tokens", "4"]
    assert main([*command, "--no-record", "--json", "--work", str(tmp_path / "work")]) == 1
    captured = capsys.readouterr()
    evaluation, last = (json.loads(line) for line in captured.out.splitlines()[-2:])
    assert [line.partition(":")[0] for line in captured.err.splitlines()] == ["error", "hint"]
    (one,) = evaluation["candidates"]
    assert (one["tokens"]["samples"], one["tokens"]["same"]) == (4, 0)
    assert one["logits"] is None
    assert any("the vocabularies differ: 2048 logits in the reference, 512" in text for text in one["left_out"])
    assert not one["gates"][0]["ok"]
    assert last["what"].startswith("a gate failed: tokens: ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["MERGED"], 2, "--reference BASE+ADAPTER is missing"),
        (["--reference", "REFERENCE"], 2, "CANDIDATE is missing"),
        (["/no/such", "--reference", "REFERENCE"], 10, "/no/such"),
        (["none.gguf", "--reference", "REFERENCE", "--samples", "SAMPLES"], 10, "does not exist - at none.gguf"),
        (["README.gguf", "--reference", "REFERENCE"], 2, "nothing to compare by - at README.gguf"),
        (["README.gguf+LORA", "--reference", "REFERENCE"], 2, "an adapter is not put on a GGUF"),
        (["README.gguf", "--reference", "REFERENCE", "--samples", "SAMPLES", "--stream-layers"], 2, "streamed"),
        (["MERGED", "--reference", "/no/base+LORA"], 10, "/no/base"),
        (["MERGED", "--reference", "BASE+"], 2, "ADAPTER is empty"),
        (["MERGED", "--reference", "BASE+LORA=zero"], 2, "no number"),
        (["MERGED", "--reference", "REFERENCE", "--samples", "/no/such.jsonl"], 2, "sample file"),
        (["MERGED", "--reference", "REFERENCE", "--max-kl", "-1"], 2, "out of range"),
        (["MERGED", "--reference", "REFERENCE", "--max-kl", "nan"], 2, "out of range"),
        (["MERGED", "--reference", "REFERENCE", "--report", "/no/such/report.html"], 2, "cannot be written"),
        (["MERGED", "--reference", "REFERENCE", "--min-top"], 2, "no such option"),
        (["MERGED", "--reference", "REFERENCE", "--device", "gpu"], 2, "no such device"),
        (["MERGED", "--reference", "REFERENCE", "--device", "cuda:99"], 18, "CUDA"),
        (["README.gguf", "--reference", "REFERENCE", "--samples", "SAMPLES"], 10, "does not begin with GGUF"),
        (["BASE", "--reference", "model.gguf+LORA"], 2, "not put on a GGUF"),
        (["http://127.0.0.1:9/v1", "--reference", "REFERENCE", "--samples", "SAMPLES"], 2, "127.0.0.1"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(
    merged: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], code: int, words: str,
) -> None:  # fmt: skip
    names = {
        "REFERENCE": REFERENCE, "MERGED": str(merged), "BASE": str(assets.base()), "LORA": str(DATES.adapter),
        "SAMPLES": str(samples),
    }  # fmt: skip
    (tmp_path / "README.gguf").write_text("what this directory holds\n")
    monkeypatch.chdir(tmp_path)
    told = []
    for argument in arguments:
        for name, value in names.items():
            argument = argument.replace(name, value) if argument.isupper() or "+" in argument else argument
        told.append(argument)
    before = (merged / "ingot.json").read_bytes()
    assert main(["validate", *told, "--work", str(tmp_path / "work")]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert (merged / "ingot.json").read_bytes() == before
