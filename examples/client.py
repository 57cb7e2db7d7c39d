"""Pictures, adapters and a video with Loraloom's own client: ``python client.py [ADDRESS]``."""

from __future__ import annotations

import sys

import loraloom

address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
with loraloom.Client(address) as client:
    for adapter in client.adapters.list():
        print(adapter["name"], adapter["sites"], "sites, rank", adapter["rank"])

    options = {"size": "64x64", "steps": 4, "seed": 7}
    picture = client.image("a large red star", loras=["neon:0.8", "sketch:0.3"], **options)
    picture.save("mixed.png")
    print("wears", [(worn["name"], worn["scale"]) for worn in picture.loras])

    # one batch in which every picture wears something else
    mixes = [[], ["neon"], ["sketch"], ["neon:0.5", "sketch:0.5"]]
    for index, each in enumerate(client.images("a large red star", mixes=mixes, **options)):
        each.save(f"mix-{index}.png")

    video = client.video("a red star that turns", ["neon"], first="mixed.png", frames=9, **options)
    done = video.wait(lambda job: print(job["status"], job["progress"], "%"))
    done.save("turning.mp4")
