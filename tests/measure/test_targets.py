"""The small benchmarks: a figure above its target ends with status 3."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import tiny_models
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _status(run: Callable[[], object]) -> object:
    try:
        run()
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.parametrize(("target", "status"), [(1e9, 0), (1e-9, 3)])
def test_help_that_takes_longer_than_its_target_ends_with_status_3(
    target: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = _benchmark("help_time")
    monkeypatch.setattr(benchmark, "TARGET", target)
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    assert _status(benchmark.main) == status
    assert f"(target <= {target})" in capsys.readouterr().out


@pytest.mark.parametrize(("target", "status"), [(1e9, 0), (1e-9, 3)])
def test_predict_that_takes_longer_than_its_target_ends_with_status_3(
    target: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = _benchmark("predict_overhead")
    monkeypatch.setattr(benchmark, "TARGET", target)
    model = tiny_models.write(tmp_path / "m.tflite").path
    done = CliRunner().invoke(benchmark.main, [str(model), "--calls", "8"])
    assert done.exit_code == status
    assert f"(target <= {target})" in done.output
