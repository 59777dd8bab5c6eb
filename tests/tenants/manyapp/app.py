"""Its light door."""

from graftwork.lightning.app import App

app = App(
    name="manyapp",
    summary="Continue sequences.",
    cli="manyapp.cli:ManyCLI",
    configs="manyapp.configs",
    distribution="graftwork",
)
main = app.main
