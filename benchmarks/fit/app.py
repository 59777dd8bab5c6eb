"""The light door of the benchmark's own side: a language model through the shared command line."""

from graftwork.lightning.app import App

APP = App(
    name="fit-benchmark",
    summary="Fine-tune a decoder on stored token ids.",
    cli="benchmarks.fit.cli:FitCLI",
    configs="benchmarks.fit.configs",
    distribution="graftwork",
)

if __name__ == "__main__":
    raise SystemExit(APP.main())
