"""A fit with recorded passes is the fit without them, resumes exactly, and says what it replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from resume_run import final_state, run
from same import differences
from tinyapp.app import app

from graftwork.errors import GraftError
from graftwork.lightning.recorded import Recorded
from graftwork.recording import recorder
from tests.recording.fake_graphs import Fake


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(recorder, "machine_for", lambda standing: fake)
    return fake


class Stop(Callback):
    """Ends the run as a failure would, at one batch."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 6:
            raise KeyError("stop")


def test_a_fit_is_the_one_without_and_resumes_exactly(tmp_path: Path, machine: Fake) -> None:
    whole = final_state(run(tmp_path / "whole", workers=0))
    told: list[str] = []
    callback = Recorded(tell=told.append)
    recorded = final_state(run(tmp_path / "recorded", workers=0, callbacks=[callback]))
    assert differences(whole, recorded) == []
    # 50 samples in batches of 4: the last one of an epoch has another shape
    assert callback.recorder is not None
    assert (callback.recorder.replayed, callback.recorder.plain.total()) == (36, 3)
    assert told[-1].startswith("graphs: 36 passes replayed of 1 recorded; 3 plain: another kind")

    callback = Recorded(shapes=2, tell=told.append)
    with pytest.raises(KeyError):
        run(tmp_path / "again", workers=0, callbacks=[callback, Stop()])
    resumed = final_state(run(tmp_path / "again", workers=0, callbacks=[callback]))
    assert differences(whole, resumed) == []
    assert callback.recorder.recorded == 2 and not callback.recorder.plain


def test_the_command_line_takes_it(
    tmp_path: Path, machine: Fake, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.main(["fit", "--graphs", "true", "--run_dir", "there"]) == 0
    assert "graphs: 16 passes replayed of 1 recorded\n" in capsys.readouterr().out
    assert machine.captures == 1
    assert app.main(["fit", "--run_dir", "plain"]) == 0
    assert "graphs" not in capsys.readouterr().out


def test_without_a_gpu_a_fit_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.main(["fit", "--graphs", "true", "--run_dir", "there"]) == 0
    out = capsys.readouterr().out
    assert out.count("recorded: runs as it is, without a graph: CUDA graphs need a GPU") == 1
    assert "graphs: 0 passes replayed of 0 recorded; 16 plain" in out


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"Recorded.shapes"):
        Recorded(shapes=0)
    with pytest.raises(GraftError, match="temperature_ is no module"):
        run(tmp_path, workers=0, callbacks=[_Named("temperature_")])


class _Named(Recorded):
    def __init__(self, name: str) -> None:
        super().__init__(network=name)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        setattr(pl_module, self.network, 3)
        super().on_train_start(trainer, pl_module)
