"""The light door of an app: name, verbs and shipped configs, without torch.

An app declares itself once, in a module that imports nothing heavy:

    # graftwork_medseg/app.py
    from graftwork.lightning.app import App

    app = App(
        name="medseg",
        summary="Adapt a 3D segmentation network to your scanner and structures.",
        cli="graftwork_medseg.cli:MedsegCLI",
        configs="graftwork_medseg.configs",
        verbs={"doctor-data": "Check a data folder."},
    )
    main = app.main

    # pyproject.toml
    [project.scripts]
    medseg = "graftwork_medseg.app:main"
    [project.entry-points."graftwork.apps"]
    medseg = "graftwork_medseg.app:app"

`--help`, `--version`, `config list` and `config copy` are answered here, in milliseconds; every other
verb prints its first line here and only then imports `cli`, a subclass of
`graftwork.lightning.cli.AppCLI`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Any

from graftwork.errors import GraftError
from graftwork.lightning import configs as shipped
from graftwork.lightning.exits import guarded
from graftwork.lightning.primary import primary

GROUP = "graftwork.apps"

VERBS: Mapping[str, str] = {
    "fit": "Train a graft.",
    "validate": "Measure on the validation set.",
    "test": "Measure on the test set.",
    "predict": "Write predictions.",
    "adapt": "Few-shot: from a handful of examples to an adapter, in one command.",
    "export": "Write the adapter, or the base with the graft merged in.",
    "demo": "A complete example on the embedded data.",
}
META: Mapping[str, str] = {
    "config": "list, copy or validate the shipped configs.",
    "schema": "Print the JSON schema of a verb's config.",
    "completion": "Print a shell completion script (bash, zsh or tcsh).",
}
_DATA_ON_STDOUT = {"schema", "completion"}


@dataclass(frozen=True)
class App:
    """What an app says of itself.

    Args:
        name: the command, also the run folder's name under `runs/`.
        summary: one sentence.
        cli: `"package.module:Class"`, a subclass of `graftwork.lightning.cli.AppCLI`.
        configs: import path of the package that holds the shipped `*.yaml` files.
        default: the shipped config that applies before any `--config`.
        defaults: the same for single verbs, such as `{"demo": "demo"}`.
        verbs: the app's own verbs and their one-line summaries; replaces a common verb's summary too.
        distribution: the installed distribution, for the version; "graftwork-<name>" when empty.
        light: what is answered without torch: `{"info": ("Its summary.", "package.module:function")}`; the
            function takes the App and the arguments after the name, and returns the exit code.
        without: common verbs that this app does not have.
    """

    name: str
    summary: str
    cli: str
    configs: str
    default: str = "default"
    defaults: Mapping[str, str] = field(default_factory=dict)
    verbs: Mapping[str, str] = field(default_factory=dict)
    distribution: str = ""
    light: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    without: Sequence[str] = ()

    def all_verbs(self) -> dict[str, str]:
        """Every verb that runs the app's CLI class, with its summary."""
        return {v: t for v, t in {**VERBS, **self.verbs}.items() if v not in self.without}

    def version(self) -> str:
        """Version of the app's distribution."""
        try:
            return metadata.version(self.distribution or f"graftwork-{self.name}")
        except metadata.PackageNotFoundError:
            return "0+unknown"

    def default_config(self, verb: str) -> str:
        """Path of the shipped config that `verb` starts from."""
        return str(shipped.path(self, self.defaults.get(verb, self.default)))

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command line and return its exit code (see `graftwork.lightning.exits`)."""
        args = list(sys.argv[1:] if argv is None else argv)
        return guarded(
            lambda: self._dispatch(args, alone=argv is None),
            prog=self.name,
            verbose="--verbose" in args,
        )

    def load_cli(self, *, alone: bool = False) -> Any:
        """Import and return the CLI class. This is the heavy import.

        Args:
            alone: the process runs this one command and ends.
        """
        from graftwork.lightning.starting import loading

        with loading(for_good=alone):
            return _load(self.cli)

    def _light(self) -> dict[str, str]:
        return {name: summary for name, (summary, _) in self.light.items()}

    def _dispatch(self, args: list[str], alone: bool) -> int:
        if not args or args[0] in ("-h", "--help"):
            print(self._help())
            return 0
        if args[0] == "--version":
            print(f"{self.name} {self.version()} (graftwork {_version('graftwork')})")
            return 0
        verb, rest = args[0], args[1:]
        known = {**self.all_verbs(), **self._light(), **META}
        if verb not in known:
            near = difflib.get_close_matches(verb, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise GraftError(f"no verb {verb!r}; {hint}")
        if verb in self.light:
            return int(_load(self.light[verb][1])(self, rest))
        if verb == "config" and (done := shipped.light(self, rest)) is not None:
            return done
        self._first_line(verb, known[verb], rest)
        cli = self.load_cli(alone=alone)
        if verb in META:
            return int(cli.meta(self, verb, rest))
        cli.launch(self, [verb, *shipped.resolve_names(self, rest)])
        return 0

    def _first_line(self, verb: str, summary: str, rest: list[str]) -> None:
        if "--quiet" in rest or not primary():
            return
        data = verb in _DATA_ON_STDOUT or any(a.startswith("--print_config") for a in rest)
        line = f"{self.name} {self.version()} {verb}: {summary}"
        print(line, file=sys.stderr if data else sys.stdout, flush=True)

    def _help(self) -> str:
        rows = {**self.all_verbs(), **self._light(), **META}
        width = max(map(len, rows)) + 2
        lines = [f"usage: {self.name} VERB [options]", "", self.summary, "", "verbs:"]
        lines += [f"  {name:<{width}}{text}" for name, text in rows.items()]
        lines += [
            "",
            f"`{self.name} VERB --help` lists a verb's options, `{self.name} VERB --print_config` its config.",
            "options: --help --version; with any verb: --quiet --verbose",
            "exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted",
        ]
        return "\n".join(lines)


def apps() -> dict[str, App]:
    """All installed apps by name, found by the entry-point group `graftwork.apps`.

    Raises:
        GraftError: an entry point does not load, or is no `App`.
    """
    found: dict[str, App] = {}
    for entry in metadata.entry_points(group=GROUP):
        try:
            app = entry.load()
        except (ImportError, AttributeError) as error:
            raise GraftError(
                f"entry point {entry.name!r} = {entry.value!r} does not load: {error}"
            ) from error
        if not isinstance(app, App):
            raise GraftError(f"entry point {entry.name!r} = {entry.value!r} is not an App")
        found[app.name] = app
    return dict(sorted(found.items()))


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "0+unknown"
