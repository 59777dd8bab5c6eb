"""What every test shares: one thread per worker, and a fresh, printed seed of generated cases."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from typing import Any

# Before anything imports numpy or torch: two workers on two cores must not start four threads.
os.environ["OMP_NUM_THREADS"] = "1"
# No test may ask a model hub; those that load a named architecture build it from its configuration.
os.environ["HF_HUB_OFFLINE"] = "1"
# Pictures are drawn to files.
os.environ["MPLBACKEND"] = "Agg"
# Started in the background of a script it ignores Ctrl-C, and so would the processes that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.browser import opened
from tests.mutant_hunt import Hunter
from tests.warm import Pool

# pytest-timeout sets the limits: a deadline per example would fail on a busy machine only.
# A hunt for mutants asks whether a test fails, not for the smallest case on which it does.
hunting = "GRAFTWORK_TEST_CASES" in os.environ
settings.register_profile(
    "graftwork",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate] if hunting else tuple(Phase),
)
settings.load_profile("graftwork")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, which the module's tests share."""
    with opened(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture(scope="session")
def warm() -> Iterator[Pool]:
    """Runs commands where what is slow to import is imported already; see `tests.warm`."""
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def hunter(warm: Pool) -> Hunter:
    """Tries mutants; see `tests.mutant_hunt`."""
    return Hunter(warm)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Workers get the controller's options, so that one seed holds for the whole run.
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(secrets.randbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.option.hypothesis_seed
    return f"generated cases: seed {seed} (the same again: --hypothesis-seed={seed})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(pytest_report_header(terminalreporter.config))
    for title, figures in _figures(terminalreporter).items():
        shown = ", ".join(
            f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in figures.items()
        )
        terminalreporter.write_line(f"{title}: {shown}")


def _figures(terminalreporter: pytest.TerminalReporter) -> dict[str, dict[str, float]]:
    """What tests recorded as the property "figures", a title and named numbers: counts are added up,
    of measurements the largest stays."""
    totals: dict[str, dict[str, float]] = {}
    for reports in terminalreporter.stats.values():
        called = [r for r in reports if getattr(r, "when", None) == "call"]
        for name, value in (p for r in called for p in r.user_properties):
            if name == "figures":
                title, numbers = value
                total = totals.setdefault(title, {})
                for key, number in numbers.items():
                    old = total.get(key, 0)
                    total[key] = max(old, number) if isinstance(number, float) else old + number
    return totals
