"""What medseg is, for the light door: this module imports nothing heavy."""

from __future__ import annotations

from graftwork.lightning.app import App

APP = App(
    name="medseg",
    summary="Adapt a 3D segmentation network to your scanner and structures with a small graft.",
    cli="graftwork_medseg.cli:MedsegCLI",
    configs="graftwork_medseg.configs",
    verbs={
        "adapt": "Few-shot: from a handful of labelled volumes to an adapter, in one command.",
        "demo": "A new tissue on a new scanner from five volumes, against head-only and full tuning.",
        "export": "Write the adapter, or the whole network with the graft merged in.",
        "predict": "Write a mask for each image, on the image's own grid.",
    },
    light={
        "info": (
            "What is read, written and shipped; --json for programs.",
            "graftwork_medseg.info:main",
        )
    },
)
main = APP.main

if __name__ == "__main__":
    raise SystemExit(main())
