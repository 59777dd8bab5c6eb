"""The light door of the test app."""

from graftwork.lightning.app import App

app = App(
    name="tinyapp",
    summary="Classify noise.",
    cli="tinyapp.cli:TinyCLI",
    configs="tinyapp.configs",
    verbs={"count": "Count to a number."},
    distribution="graftwork",
)
main = app.main

if __name__ == "__main__":
    raise SystemExit(main())
